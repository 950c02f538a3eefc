package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// The pods of the path.
const (
	client  = "bench-client"
	steered = "bench-steered" // a client without fast mode
	near    = "bench-near"    // on the clients' node
	far     = "bench-far"     // on the other
)

// ways to a ClusterIP, and the client that takes each.
var ways = []struct{ name, client string }{{"fast", client}, {"vmac", steered}}

// probes are what is sent. All are rates: more is better.
var probes = []struct {
	name, unit, field string
	port              string
	args              []string // of testapp; none for crrCommand
}{
	{"tcp_rr", "round trips/s", "perSecond", "8082", []string{"bench-rr", "-n", "4000"}},
	{"udp_rr", "round trips/s", "perSecond", "8081", []string{"bench-rr", "-n", "4000", "--udp"}},
	{"tcp_crr", "connections/s", "perSecond", "8082", nil},
	{"tcp_stream", "Gbit/s", "gbps", "8083", []string{"bench-stream", "-t", "500ms"}},
}

// measurePath compares what a pod gets from a server by its ClusterIP, in fast mode or through vmac and the node, with what it gets by the server's
// own address, straight through macvlan. With all on one CPU the cost of the path shows; without, what is felt.
func measurePath(ctx context.Context, o options, r *report) (err error) {
	c, err := newCluster(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()

	clients := make([]int, len(ways))
	for i, way := range ways {
		if clients[i], err = processOf(way.client); err != nil {
			return err
		}
		if err := reusePorts(ctx, clients[i]); err != nil {
			return err
		}
	}
	for _, where := range []struct{ name, server string }{{"same-node", near}, {"cross-node", far}} {
		server, err := processOf(where.server)
		if err != nil {
			return err
		}
		direct, err := c.get(ctx, "pod/"+where.server, ".status.podIP")
		if err != nil {
			return err
		}
		service, err := c.get(ctx, "service/"+where.server, ".spec.clusterIP")
		if err != nil {
			return err
		}
		for _, cpus := range []struct {
			name   string
			pinned bool
		}{{"one-cpu", true}, {"all-cpus", false}} {
			if err := pin(cpus.pinned, append(slices.Clone(clients), server)...); err != nil {
				return err
			}
			say("path: %s, %s: %s and %s", where.name, cpus.name, direct, service)
			for _, p := range probes {
				name := fmt.Sprintf("path/%s/%s/%s", where.name, cpus.name, p.name)
				for i, way := range ways {
					t := traffic{from: clients[i], testapp: c.part("testapp"), pinned: cpus.pinned, args: p.args, field: p.field}
					raw, through, err := t.pairs(ctx, o.pairs, direct+":"+p.port, service+":"+p.port)
					if err != nil {
						return fmt.Errorf("%s by %s: %w", name, way.name, err)
					}
					a, b := summary(name+"/direct", p.unit, raw, 0.5), summary(name+"/"+way.name, p.unit, through, 0.5)
					ratios := through.over(raw)
					b = b.against(a, ratios)
					b.Ratio = ratios.median()
					if err := r.add(a, b); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}
