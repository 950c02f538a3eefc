package main

import (
	"context"
	"fmt"
)

// measureAdd calls ADD for all pods, then DEL, and so on in rounds, each contender in turn.
func measureAdd(ctx context.Context, o options, n *node, r *report) error {
	// In the order of the report. What is compared comes after what it is compared with.
	names := []string{"host-local", "noop", "write", "floor", "lease", "plugin", "agent", "berth/single", "berth/again", "berth/dual", "berth/path"}
	verbs := []string{"ADD", "DEL"}
	times := map[string]map[string]sample{"ADD": {}, "DEL": {}}
	rounds := max(1, (o.adds+podCount-1)/podCount)
	for round := range rounds + 1 {
		say("ADD and DEL, round %d of %d (0 warms up)", round, rounds)
		if err := n.renewPods(ctx); err != nil {
			return err
		}
		for _, verb := range verbs {
			var calls []call
			for _, name := range names {
				do := n.contenders[name].add
				if verb == "DEL" {
					do = n.contenders[name].del
				}
				calls = append(calls, call{name, func(i int) error { return do(ctx, i) }})
			}
			taken, err := inTurn(ctx, podCount, o.pause, calls)
			if err != nil {
				return err
			}
			if round > 0 {
				for name, s := range taken {
					times[verb][name] = append(times[verb][name], s...)
				}
			}
		}
	}
	for _, verb := range verbs {
		if err := r.add(compareVerb(verb, names, times[verb])...); err != nil {
			return err
		}
	}
	return nil
}

// comparisons: the ratios that the report has. In it, what is compared comes after what it is compared with.
var comparisons = map[string][]string{
	"lease":        {"floor"},
	"plugin":       {"noop"},
	"agent":        {"write"},
	"berth/single": {"floor", "lease", "host-local"},
	"berth/again":  {"floor"},
	"berth/dual":   {"berth/single"},
	"berth/path":   {"floor"},
}

// compareVerb makes p50 and p99 of each contender. A ratio's spread is that of the medians of the rounds.
func compareVerb(verb string, names []string, times map[string]sample) []Result {
	var out []Result
	at := func(name, quantile string, q float64) Result {
		return summary(fmt.Sprintf("%s/%s/%s", verb, name, quantile), "ms", times[name], q)
	}
	for _, name := range names {
		p50, p99 := at(name, "p50", 0.5), at(name, "p99", 0.99)
		if len(comparisons[name]) == 0 {
			out = append(out, p50)
		}
		for i, to := range comparisons[name] {
			spread := times[name].medians(podCount).over(times[to].medians(podCount))
			res := p50.against(at(to, "p50", 0.5), spread)
			if name == "berth/single" && to == "floor" {
				res.Aim = "≤ 1.15"
			}
			if i == 0 {
				p99 = p99.against(at(to, "p99", 0.99), nil)
			}
			out = append(out, res)
		}
		out = append(out, p99)
	}
	return out
}
