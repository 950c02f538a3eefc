package main

import (
	"math"
	"slices"
	"time"
)

// sample is a set of measured values, in any order.
type sample []float64

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// quantile by the nearest rank; NaN of nothing. For the median of an even number it is the mean of the two in the middle.
func (s sample) quantile(q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	if q == 0.5 && n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	rank := int(math.Ceil(q*float64(n))) - 1
	return sorted[min(max(rank, 0), n-1)]
}

func (s sample) median() float64 { return s.quantile(0.5) }

// over gives the ratios of s to t, pair by pair, as far as both go.
func (s sample) over(t sample) sample {
	var out sample
	for i := range min(len(s), len(t)) {
		out = append(out, s[i]/t[i])
	}
	return out
}

// rounds splits s into parts of size each, the last perhaps shorter.
func (s sample) rounds(size int) []sample {
	var out []sample
	for part := range slices.Chunk(s, size) {
		out = append(out, part)
	}
	return out
}

// medians of parts of size each.
func (s sample) medians(size int) sample {
	var out sample
	for _, part := range s.rounds(size) {
		out = append(out, part.median())
	}
	return out
}
