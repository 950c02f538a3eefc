package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"text/tabwriter"
)

// Result is one line of the output.
type Result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`

	// Ratio of this value to that of the result named To, taken in the same run. RatioMin and RatioMax are its spread over
	// the rounds or pairs of the run.
	Ratio    float64 `json:"ratio,omitempty"`
	To       string  `json:"to,omitempty"`
	RatioMin float64 `json:"ratio_min,omitempty"`
	RatioMax float64 `json:"ratio_max,omitempty"`

	Samples int     `json:"samples,omitempty"`
	Min     float64 `json:"min,omitempty"`
	Max     float64 `json:"max,omitempty"`
	Aim     string  `json:"aim,omitempty"`
}

// summary of a sample: one of its quantiles, with its extent.
func summary(name, unit string, s sample, q float64) Result {
	return Result{Name: name, Unit: unit, Value: s.quantile(q), Samples: len(s), Min: s.quantile(0), Max: s.quantile(1)}
}

// against another result; the spread is that of ratios, if there are any.
func (r Result) against(o Result, ratios sample) Result {
	r.To, r.Ratio = o.Name, r.Value/o.Value
	if len(ratios) > 0 {
		r.RatioMin, r.RatioMax = ratios.quantile(0), ratios.quantile(1)
	}
	return r
}

// report writes results as they come, and a table of them at the end.
type report struct {
	lines []io.Writer
	all   []Result
}

func (r *report) add(results ...Result) error {
	var errs []error
	for _, res := range results {
		for _, f := range []*float64{&res.Value, &res.Ratio, &res.RatioMin, &res.RatioMax, &res.Min, &res.Max} {
			*f = round(*f)
		}
		r.all = append(r.all, res)
		for _, w := range r.lines {
			errs = append(errs, json.NewEncoder(w).Encode(res))
		}
	}
	return errors.Join(errs...)
}

// round to four digits; what is not a number, which JSON lacks, to 0.
func round(f float64) float64 {
	if f == 0 || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(f))))
	return math.Round(f*scale) / scale
}

// table for people.
func (r *report) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nwhat\tvalue\tunit\tmin … max\tratio\tspread\tto\taim")
	for _, res := range r.all {
		extent, ratio, spread := "", "", ""
		if res.Max != 0 {
			extent = fmt.Sprintf("%.4g … %.4g", res.Min, res.Max)
		}
		if res.Ratio != 0 {
			ratio = fmt.Sprintf("%.2f", res.Ratio)
		}
		if res.RatioMax != 0 {
			spread = fmt.Sprintf("%.2f … %.2f", res.RatioMin, res.RatioMax)
		}
		fmt.Fprintf(t, "%s\t%.4g\t%s\t%s\t%s\t%s\t%s\t%s\n", res.Name, res.Value, res.Unit, extent, ratio, spread, res.To, res.Aim)
	}
	return t.Flush()
}

// say what is going on, on stderr.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...) }
