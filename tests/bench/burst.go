package main

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

const burstRounds = 5

// measureBurst takes the time until as many ADDs as there are pods, all begun at once, have ended.
func measureBurst(ctx context.Context, n *node, r *report) error {
	names := []string{"floor", "berth/single"}
	times := map[string]sample{}
	for round := range burstRounds + 1 {
		say("burst of %d, round %d of %d (0 warms up)", podCount, round, burstRounds)
		if err := n.renewPods(ctx); err != nil {
			return err
		}
		for k := range names {
			name := names[(round+k)%len(names)]
			took, err := burst(ctx, n.contenders[name].add)
			if err != nil {
				return err
			}
			if round > 0 {
				times[name] = append(times[name], milliseconds(took))
			}
			if _, err := burst(ctx, n.contenders[name].del); err != nil {
				return err
			}
		}
	}
	floor := summary("burst60/floor", "ms", times["floor"], 0.5)
	berth := summary("burst60/berth/single", "ms", times["berth/single"], 0.5)
	return r.add(floor, berth.against(floor, times["berth/single"].over(times["floor"])))
}

func burst(ctx context.Context, do func(context.Context, int) error) (time.Duration, error) {
	return atOnce(podCount, unlimited, func(i int) error { return do(ctx, i) })
}

const unlimited = -1

// atOnce makes n calls, at most so many side by side, and says how long that took. The error is the first of theirs.
func atOnce(n, sideBySide int, do func(i int) error) (time.Duration, error) {
	begin := time.Now()
	var g errgroup.Group
	g.SetLimit(sideBySide)
	for i := range n {
		g.Go(func() error { return do(i) })
	}
	err := g.Wait()
	return time.Since(begin), err
}

func burstOf(ctx context.Context, c contender) error {
	if _, err := burst(ctx, c.add); err != nil {
		return err
	}
	_, err := burst(ctx, c.del)
	return err
}
