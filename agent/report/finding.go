// Package report is what berth-agent doctor and trace say: made by packages that look at a node, shown by berth-agent
// and kubectl-berth. It is pure, and builds on every system that kubectl does.
package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Severity of a finding.
type Severity string

const (
	OK   Severity = "ok"
	Warn Severity = "warn" // may be right, or cannot be known
	Fail Severity = "fail" // pods feel it, or will
)

// Finding is what a check has found.
type Finding struct {
	Check    string   `json:"check"` // one of docs/operations.md, "Doctor"
	Severity Severity `json:"severity"`
	What     string   `json:"what"`             // what is, and if it is wrong, what should be
	Remedy   string   `json:"remedy,omitempty"` // what mends it; none for OK
}

// Findings of one node.
type Findings struct {
	Node     string    `json:"node"`
	Findings []Finding `json:"findings"`
	Error    string    `json:"error,omitempty"` // why the node could not be looked at, or not wholly
}

// Count the findings of a severity.
func (f Findings) Count(s Severity) (n int) {
	for _, one := range f.Findings {
		if one.Severity == s {
			n++
		}
	}
	return n
}

// Wrong: something fails, or the node could not be looked at.
func (f Findings) Wrong() bool { return f.Error != "" || f.Count(Fail) > 0 }

// WriteText writes the findings that are not OK, or all of them, worst first.
func (f Findings) WriteText(w io.Writer, all bool) {
	var verdict []string
	if f.Error != "" {
		verdict = append(verdict, f.Error)
	}
	for _, s := range []Severity{Fail, Warn, OK} {
		if n := f.Count(s); n > 0 {
			verdict = append(verdict, fmt.Sprintf("%d %s", n, s))
		}
	}
	fmt.Fprintf(w, "%s: %s\n", f.Node, strings.Join(verdict, ", "))
	sorted := slices.Clone(f.Findings)
	order := map[Severity]int{Fail: 0, Warn: 1, OK: 2}
	slices.SortStableFunc(sorted, func(a, b Finding) int { return order[a.Severity] - order[b.Severity] })
	for _, one := range sorted {
		if one.Severity == OK && !all {
			continue
		}
		fmt.Fprintf(w, "  %-4s  %-10s  %s\n", one.Severity, one.Check, one.What)
		if one.Remedy != "" {
			fmt.Fprintf(w, "                    → %s\n", one.Remedy)
		}
	}
}
