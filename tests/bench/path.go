package main

import (
	"context"
	"errors"
	"fmt"
)

// The pods of the path.
const (
	client    = "bench-client"
	steered   = "bench-steered"   // a client without fast mode
	near      = "bench-near"      // a server on the clients' node
	far       = "bench-far"       // on the other
	guarded   = "bench-guarded"   // a client of its own for what is compared with unguarded: one that has closed more connections makes new ones slower
	unguarded = "bench-unguarded" // a client without source guard
	nearBare  = "bench-near-bare" // servers without
	farBare   = "bench-far-bare"
)

// probes are what is sent. All are rates: more is better.
var probes = []probe{
	{"tcp_rr", "round trips/s", "perSecond", "8082", []string{"bench-rr", "-n", "20000"}},
	{"udp_rr", "round trips/s", "perSecond", "8081", []string{"bench-rr", "-n", "20000", "--udp"}},
	{"tcp_crr", "connections/s", "perSecond", "8082", nil},
	{"tcp_stream", "Gbit/s", "gbps", "8083", []string{"bench-stream", "-t", "500ms"}},
	{"tcp_4_streams", "Gbit/s", "gbps", "8083", []string{"bench-stream", "-t", "500ms", "-P", "4"}},
}

type probe struct {
	name, unit, field string
	port              string
	args              []string // of testapp; none for crrCommand
}

// way is one that is compared with another.
type way struct {
	name, base string
	from, to   end // of the base, and of the way
}

// measurePath compares what a pod gets from a server by its ClusterIP, in fast mode or through vmac and the node, with what it gets by the server's
// own address, straight through macvlan; and that with what pods get that are not guarded. With all on one CPU the cost of the path shows;
// without, what is felt.
func measurePath(ctx context.Context, o options, r *report) (err error) {
	c, err := newCluster(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.serve(ctx, o.table); err != nil {
		return err
	}
	for _, where := range []struct{ name, server, bare string }{{"same-node", near, nearBare}, {"cross-node", far, farBare}} {
		ways, pids, err := c.ways(ctx, where.server, where.server, where.bare)
		if err != nil {
			return err
		}
		for _, cpus := range []struct {
			name   string
			pinned bool
		}{{"one-cpu", true}, {"all-cpus", false}} {
			if err := pin(cpus.pinned, pids...); err != nil {
				return err
			}
			for _, p := range probes {
				for _, w := range ways {
					if _, err := c.compare(ctx, o, r, fmt.Sprintf("path/%s/%s/%s", where.name, cpus.name, p.name), p, w, cpus.pinned); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// ways to a server and its Service, and the processes at their ends. bare is a server like it, without source guard.
func (c *cluster) ways(ctx context.Context, server, service, bare string) (ways []way, pids []int, err error) {
	of := map[string]int{}
	for _, pod := range []string{client, steered, guarded, unguarded, server, bare} {
		if of[pod], err = processOf(pod); err != nil {
			return nil, nil, err
		}
		pids = append(pids, of[pod])
	}
	for _, pod := range []string{client, steered, guarded, unguarded} {
		if err := reusePorts(ctx, of[pod]); err != nil {
			return nil, nil, err
		}
	}
	var addrs [3]string
	for i, field := range [][2]string{{"pod/" + server, ".status.podIP"}, {"service/" + service, ".spec.clusterIP"}, {"pod/" + bare, ".status.podIP"}} {
		if addrs[i], err = c.get(ctx, field[0], field[1]); err != nil {
			return nil, nil, err
		}
	}
	direct, clusterIP, without := addrs[0], addrs[1], addrs[2]
	return []way{
		{"fast", "direct", end{of[client], direct}, end{of[client], clusterIP}},
		{"vmac", "direct", end{of[steered], direct}, end{of[steered], clusterIP}},
		{"guarded", "unguarded", end{of[unguarded], without}, end{of[guarded], direct}},
	}, pids, nil
}

// compare a way with its base by one probe. It gives the median of the pairs' ratios.
func (c *cluster) compare(ctx context.Context, o options, r *report, name string, p probe, w way, pinned bool) (ratio float64, err error) {
	say("%s/%s", name, w.name)
	t := traffic{testapp: c.part("testapp"), pinned: pinned, port: p.port, args: p.args, field: p.field}
	base, by, err := t.pairs(ctx, o.pairs, w.from, w.to)
	if err != nil {
		return 0, fmt.Errorf("%s by %s: %w", name, w.name, err)
	}
	a, b := summary(name+"/"+w.base, p.unit, base, 0.5), summary(name+"/"+w.name, p.unit, by, 0.5)
	ratios := by.over(base)
	b = b.against(a, ratios)
	b.Ratio = ratios.median()
	return b.Ratio, r.add(a, b)
}
