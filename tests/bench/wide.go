package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
)

// A wide cluster: zones, each with a pool that its nodes alone may use. What an agent does with leases is simulated for all nodes but one,
// by the store that agents have.
const (
	wideZones  = 50
	wideNodes  = 1000
	wideLeases = 20000
	wideRate   = 100 // ADD/s
	wideTime   = 30 * time.Second
	wideAtOnce = 20 // nodes that begin to watch: those of a cluster do not start in one moment
)

// measureWide counts what a change of a lease costs the API server in watch events, and the agent of one of the nodes in memory.
func measureWide(ctx context.Context, n *node, r *report) error {
	say("%d leases in %d zones", wideLeases, wideZones)
	pools, err := n.wideZones(ctx)
	if err != nil {
		return err
	}
	say("%d nodes that watch", wideNodes)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	nodes, err := wideStores(watching, n.rest, pools)
	if err != nil {
		return err
	}
	before, err := n.counts(ctx)
	if err != nil {
		return err
	}
	times, err := claimAtRate(ctx, nodes, pools)
	if err != nil {
		return err
	}
	rss, err := n.residentMiB() // after 5 s, in which the last events are sent
	if err != nil {
		return err
	}
	after, err := n.counts(ctx)
	if err != nil {
		return err
	}
	events := (after[watchEvents] - before[watchEvents]) / float64(len(times))
	base := fmt.Sprintf("wide/%d-nodes-%d-leases", wideNodes, wideLeases)
	return r.add(
		Result{Name: base + "/watch-events", Unit: "events/ADD", Value: events, Samples: len(times),
			Aim: fmt.Sprintf("%d nodes of the zone, and one in %d", wideNodes/wideZones, wideZones)},
		Result{Name: base + "/agent/rss", Unit: "MiB", Value: rss, Aim: "≤ 60"},
		summary(base+"/claim/p50", "ms", times, 0.5), summary(base+"/claim/p99", "ms", times, 0.99),
	)
}

// wideZones makes the pools, full of leases of other nodes; the bench's own node is in the first zone.
func (n *node) wideZones(ctx context.Context) ([]*ipam.Pool, error) {
	var objects strings.Builder
	pools := make([]*ipam.Pool, wideZones)
	for z := range pools {
		p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("wide-%d", z)}}
		p.Spec.Network = p.Name
		p.Spec.Subnets = []v1alpha1.PoolSubnet{{CIDR: fmt.Sprintf("10.%d.0.0/16", z+1)}}
		fmt.Fprintf(&objects, "---\napiVersion: berth.dev/v1alpha1\nkind: IPPool\nmetadata: {name: %[1]s}\n"+
			"spec: {network: %[1]s, subnets: [{cidr: %[2]s}], nodeAffinity: {matchLabels: {wide: zone-%[3]d}}}\n", p.Name, p.Spec.Subnets[0].CIDR, z)
		var err error
		if pools[z], err = ipam.Compile(p); err != nil {
			return nil, err
		}
	}
	if err := n.apply(ctx, n.kubeconfig, objects.String(), "-f", "-"); err != nil {
		return nil, err
	}
	if err := n.kubectl(ctx, n.kubeconfig, "", "label", "node", nodeName, "wide=zone-0", "--overwrite"); err != nil {
		return nil, err
	}
	floor, err := newFloor(n.rest, leaseGroup, "wide", n.contenders["noop"].(*pluginContender))
	if err != nil {
		return nil, err
	}
	var g errgroup.Group
	g.SetLimit(16)
	for i := range wideLeases {
		z, k := i%wideZones, i/wideZones+1
		g.Go(func() error {
			a := netip.AddrFrom4([4]byte{10, byte(z + 1), byte(k >> 8), byte(k)})
			_, err := floor.client.Create(ctx, ipam.NewLease(pools[z], a, wideHolder(z, k), time.Now()), metav1.CreateOptions{})
			return err
		})
	}
	return pools, g.Wait()
}

func wideHolder(zone, i int) ipam.Claimant {
	return ipam.Claimant{Holder: v1alpha1.LeaseHolder{
		Namespace: "wide", Pod: fmt.Sprintf("pod-%d-%d", zone, i), UID: "00000000-0000-0000-0000-000000000000", Node: fmt.Sprintf("elsewhere-%d", zone),
		ContainerID: strings.Repeat("0", 64), Interface: podLink, Attachment: "bench-bridge", MAC: "02:00:00:00:00:00",
	}}
}

// wideStores follow the leases of their zone, as agents do.
func wideStores(watching context.Context, cfg *rest.Config, pools []*ipam.Pool) ([]*store.Store, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1
	_, leases, err := v1alpha1.NewClients(cfg)
	if err != nil {
		return nil, err
	}
	hooks := store.Hooks{Collision: func() {}, Lost: func(*v1alpha1.IPLease) {}, Early: func(*v1alpha1.IPLease, time.Duration) {},
		Gone: func(context.Context, *v1alpha1.LeaseHolder) (bool, error) { return false, nil }}
	nodes := make([]*store.Store, wideNodes)
	g, ctx := errgroup.WithContext(watching)
	g.SetLimit(wideAtOnce)
	for i := range nodes {
		pool := pools[i%wideZones]
		nodes[i] = store.New(leases, fmt.Sprintf("wide-node-%d", i), hooks, time.Now, slog.New(slog.DiscardHandler))
		g.Go(func() error {
			nodes[i].Follow(watching, pool)
			for !nodes[i].Followed(pool.Name) {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(20 * time.Millisecond):
				}
			}
			return nil
		})
	}
	return nodes, g.Wait()
}

// claimAtRate an address on a node after the other, in any order, and returns how long each took, in ms.
func claimAtRate(ctx context.Context, nodes []*store.Store, pools []*ipam.Pool) (sample, error) {
	var mu sync.Mutex
	var times sample
	g, ctx := errgroup.WithContext(ctx)
	tick := time.NewTicker(time.Second / wideRate)
	defer tick.Stop()
	for n := range int(wideTime.Seconds()) * wideRate {
		select {
		case <-ctx.Done():
			return nil, g.Wait()
		case <-tick.C:
		}
		i := rand.IntN(len(nodes))
		g.Go(func() error {
			who := wideHolder(i%wideZones, wideLeases+n)
			who.Holder.Node, who.Holder.ContainerID = fmt.Sprintf("wide-node-%d", i), fmt.Sprint("claimed-", n)
			begin := time.Now()
			_, err := nodes[i].Claim(ctx, pools[i%wideZones], ipam.Pick{Family: ipam.IPv4}, who)
			mu.Lock()
			defer mu.Unlock()
			times = append(times, float64(time.Since(begin).Microseconds())/1000)
			return err
		})
	}
	return times, g.Wait()
}
