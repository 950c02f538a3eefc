package main

import (
	"context"
	"math/rand/v2"
	"os/exec"
	"time"
)

// measureStart compares the start of the plugin with that of an empty program: what remains is what the kubelet waits for before
// anything has happened.
func measureStart(ctx context.Context, o options, r *report) error {
	b, err := build(ctx, o, "./cmd/berth", "./tests/bench/noop", "./tests/bench/empty")
	if err != nil {
		return err
	}
	defer b.remove()
	start := func(name string) func(int) error {
		return func(int) error {
			cmd := exec.CommandContext(ctx, b.path(name))
			cmd.Env = []string{"CNI_COMMAND=VERSION"}
			return cmd.Run()
		}
	}
	times, err := inTurn(ctx, o.starts+o.starts/10, 0, []call{
		{"empty", start("empty")}, {"noop", start("noop")}, {"berth", start("berth")},
	})
	if err != nil {
		return err
	}
	median := map[string]Result{}
	for name, s := range times {
		median[name] = summary("start/"+name, "ms", s[o.starts/10:], 0.5)
	}
	const part = 50 // of which the spread is
	berth := median["berth"].against(median["empty"], times["berth"].medians(part).over(times["empty"].medians(part)))
	berth.Aim = "≤ 1.5"
	return r.add(median["empty"], median["noop"], berth)
}

// call is one contender of a comparison.
type call struct {
	name string
	do   func(i int) error
}

// inTurn times n calls of each, all of a kind in turn, each time in another order: nobody always comes after the same other, whose
// aftermath it would share the machine with.
func inTurn(ctx context.Context, n int, pause time.Duration, calls []call) (map[string]sample, error) {
	times := map[string]sample{}
	order := rand.New(rand.NewPCG(1, 1))
	for i := range n {
		for _, k := range order.Perm(len(calls)) {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			c := calls[k]
			begin := time.Now()
			if err := c.do(i); err != nil {
				return nil, err
			}
			times[c.name] = append(times[c.name], milliseconds(time.Since(begin)))
			time.Sleep(pause)
		}
	}
	return times, nil
}
