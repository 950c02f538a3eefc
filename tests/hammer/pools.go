package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// The pools of a run.
const (
	poolSmall = "small" // IPv4, fewer addresses than pods want
	poolDual  = "dual"  // both families
	poolEdit  = "edit"  // edited and disabled as the run goes
	poolSets  = "sets"  // of the StatefulSets' pods
	poolPairs = "pairs" // IPv4 and IPv6 addresses in pairs
)

func poolSpecs(o opts) []*v1alpha1.IPPool {
	pool := func(name string, subnets ...v1alpha1.PoolSubnet) *v1alpha1.IPPool {
		return &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.IPPoolSpec{Network: network, Subnets: subnets}}
	}
	pairs := pool(poolPairs, subnet("10.5.0.0/24", fmt.Sprintf("10.5.0.1-10.5.0.%d", o.slots()/4)), subnet("fd00:5::/120"))
	pairs.Spec.Pairing = v1alpha1.PairingIndex
	return []*v1alpha1.IPPool{
		pairs,
		pool(poolSmall, subnet("10.1.0.0/16", fmt.Sprintf("10.1.0.1-10.1.0.%d", o.slots()/4))),
		pool(poolDual, subnet("10.2.0.0/16", "10.2.1.0/24"), subnet("fd00:2::/64", fmt.Sprintf("fd00:2::1-fd00:2::%x", o.slots()/2))),
		pool(poolEdit, editions[0]),
		pool(poolSets, subnet("10.4.0.0/16", "10.4.0.0/25"), subnet("fd00:4::/64", "fd00:4::/121")),
	}
}

func subnet(cidr string, ips ...string) v1alpha1.PoolSubnet {
	return v1alpha1.PoolSubnet{CIDR: cidr, IPs: ips}
}

// editions of the pool that is edited.
var editions = []v1alpha1.PoolSubnet{
	subnet("10.3.0.0/16", "10.3.0.1-10.3.0.40"),
	subnet("10.3.0.0/16", "10.3.0.21-10.3.0.60"),
	subnet("10.3.0.0/16", "10.3.0.1-10.3.0.10", "10.3.0.51-10.3.0.60"),
}

// edit the pool that is edited.
func (w *world) edit(ctx context.Context, rng *rand.Rand) error {
	n, disabled := rng.IntN(len(editions)), rng.IntN(4) == 0
	return w.setEdition(ctx, n, disabled)
}

func (w *world) setEdition(ctx context.Context, n int, disabled bool) error {
	return w.insist(ctx, func() error {
		p, err := w.pools.Get(ctx, poolEdit, metav1.GetOptions{})
		if err != nil {
			return unlessGone(err)
		}
		p.Spec.Subnets, p.Spec.Disabled = []v1alpha1.PoolSubnet{editions[n]}, disabled
		if p, err = w.pools.Update(ctx, p, metav1.UpdateOptions{}); err == nil {
			w.history.add(Event{Kind: Object, Note: fmt.Sprintf("pool %s has %v, disabled %t", p.Name, p.Spec.Subnets[0].IPs, disabled)})
		}
		return err
	})
}

// remake the pool that is edited: once it is deleted, and its leases are gone, it is made anew. With no more operations to come its
// pods may stay, and so may it.
func (w *world) remake(ctx context.Context) {
	if err := w.insist(ctx, func() error { return unlessGone(w.pools.Delete(ctx, poolEdit, metav1.DeleteOptions{})) }); err != nil {
		return
	}
	w.history.add(Event{Kind: Object, Note: "pool " + poolEdit + " deleted"})
	w.ensureEdit(ctx, func() bool { return w.more(ctx) })
}

// ensureEdit makes the pool that is edited, once that of an earlier time is gone.
func (w *world) ensureEdit(ctx context.Context, while func() bool) {
	for while() {
		p, err := w.pools.Get(ctx, poolEdit, metav1.GetOptions{})
		switch {
		case err == nil && p.DeletionTimestamp == nil:
			return
		case isNotFound(err):
			for _, p := range poolSpecs(w.opts) {
				if p.Name == poolEdit {
					_, _ = w.pools.Create(ctx, p, metav1.CreateOptions{}) // seen in the next round
				}
			}
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// paired says what is wrong with the addresses of an interface, if they are of the pool of pairs.
func paired(pool *ipam.Pool, leases []string) string {
	for _, name := range leases {
		if _, a, err := ipam.ParseLeaseName(name); err == nil && pool.Contains(a) {
			if partner := ipam.LeaseName(network, pool.Partner(a)); len(leases) != 2 || !slices.Contains(leases, partner) {
				return fmt.Sprintf("no pair: %v, without %s", leases, partner)
			}
		}
	}
	return ""
}

// networksOf a pod: its annotation, and its interfaces with a berth network.
func networksOf(rng *rand.Rand, inSet bool) (annotation string, interfaces []string) {
	if inSet {
		return "net1=" + poolSets, []string{"net1"}
	}
	switch rng.IntN(10) {
	case 0, 1:
		return "net1=" + poolDual, []string{"net1"}
	case 2:
		return "net1=" + poolEdit, []string{"net1"}
	case 3:
		return "net1=" + poolDual + "; net2=" + poolSmall, []string{"net1", "net2"}
	case 4:
		return "net1=" + poolEdit + "," + poolDual + "; net2=" + poolEdit, []string{"net1", "net2"}
	case 5:
		return "net1=" + poolSmall + "," + poolEdit, []string{"net1"}
	case 6:
		return "net1=" + poolPairs + "; net2=" + poolSmall, []string{"net1", "net2"}
	case 7:
		return "net1=" + poolPairs, []string{"net1"}
	default:
		return "net1=" + poolSmall, []string{"net1"}
	}
}
