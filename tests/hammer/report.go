package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"time"
)

// progress from time to time.
func (w *world) progress(ctx context.Context) {
	for ctx.Err() == nil {
		pause(ctx, 10*time.Second)
		if ctx.Err() == nil {
			w.say("%d operations", w.ops.Load())
		}
	}
}

var leaseName = regexp.MustCompile(network + `\.[0-9a-f.-]+[0-9a-f]`)

// shown of what led to a violation, at most.
const shown = 150

// report what was done and found. An error says that something was.
func (w *world) report(out io.Writer) error {
	h := w.history
	h.mu.Lock()
	counts, violations, events := maps.Clone(h.counts), slices.Clone(h.violations), len(h.events)
	h.mu.Unlock()
	took := time.Since(h.start)
	fmt.Fprintf(out, "\n%d operations in %s, %d events, seed %d\n", w.ops.Load(), took.Round(time.Second), events, w.seed)
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(out, "%8d  %s\n", counts[what], what)
	}
	for i, v := range violations {
		if i == 3 {
			fmt.Fprintf(out, "\nand %d more\n", len(violations)-i)
			break
		}
		fmt.Fprintf(out, "\nVIOLATION %s\nat %s\n", v.text, v.event)
		names := leaseName.FindAllString(v.text, -1)
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			fmt.Fprintf(out, "\nhistory of %s\n", name)
			for _, e := range h.of(name, shown) {
				fmt.Fprintln(out, e)
			}
		}
	}
	if len(violations) > 0 {
		return fmt.Errorf("%d violations; again with -n %d -agents %d -seed %d", len(violations), w.n, w.agents, w.seed)
	}
	fmt.Fprintln(out, "no violation")
	return nil
}
