package main

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestQuantile(t *testing.T) {
	var hundred sample
	for i := range 100 {
		hundred = append(hundred, float64((i*37)%100+1)) // 1 to 100, shuffled
	}
	for _, tt := range []struct {
		name string
		in   sample
		q    float64
		want float64
	}{
		{"one", sample{7}, 0.99, 7},
		{"median of an odd number", sample{3, 1, 2}, 0.5, 2},
		{"median of an even number", sample{4, 1, 3, 2}, 0.5, 2.5},
		{"p99 of a hundred", hundred, 0.99, 99},
		{"p0", hundred, 0, 1},
		{"p100", hundred, 1, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.in.quantile(tt.q); got != tt.want {
				t.Errorf("quantile(%v) = %v, want %v", tt.q, got, tt.want)
			}
		})
	}
	if got := (sample{}).median(); !math.IsNaN(got) {
		t.Errorf("median of nothing = %v", got)
	}
	in := sample{2, 1}
	in.median()
	if diff := cmp.Diff(sample{2, 1}, in); diff != "" {
		t.Errorf("median changed the order of its sample:\n%s", diff)
	}
}

func TestPairs(t *testing.T) {
	if diff := cmp.Diff(sample{2, 0.5}, sample{4, 1, 9}.over(sample{2, 2})); diff != "" {
		t.Errorf("over:\n%s", diff)
	}
	if diff := cmp.Diff(sample{2, 5, 9}, sample{1, 2, 3, 4, 5, 6, 9}.medians(3)); diff != "" {
		t.Errorf("medians:\n%s", diff)
	}
}
