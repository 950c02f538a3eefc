package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// The pools of a run.
const (
	poolSmall = "small" // IPv4, fewer addresses than pods want
	poolDual  = "dual"  // both families
	poolEdit  = "edit"  // edited and disabled as the run goes
	poolPairs = "pairs" // IPv4 and IPv6 addresses in pairs
	// Each StatefulSet has a pool of its own, with its name.
	poolTenant   = "tenant"   // of the netspace of that name
	poolNeighbor = "neighbor" // of another, of which no pod is
)

func poolSpecs(o opts) []*v1alpha1.IPPool {
	pool := func(name string, subnets ...v1alpha1.PoolSubnet) *v1alpha1.IPPool {
		return &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.IPPoolSpec{Network: network, Subnets: subnets}}
	}
	pairs := pool(poolPairs, subnet("10.5.0.0/24", fmt.Sprintf("10.5.0.1-10.5.0.%d", o.slots()/4)), subnet("fd00:5::/120"))
	pairs.Spec.Pairing = v1alpha1.PairingIndex
	tenant, neighbor := pool(poolTenant, subnet("10.6.0.0/16", fmt.Sprintf("10.6.0.1-10.6.0.%d", o.slots()/6))), pool(poolNeighbor, subnet("10.7.0.0/16"))
	tenant.Spec.Netspace, neighbor.Spec.Netspace = poolTenant, poolNeighbor
	pools := []*v1alpha1.IPPool{
		pairs, tenant, neighbor,
		pool(poolSmall, subnet("10.1.0.0/16", fmt.Sprintf("10.1.0.1-10.1.0.%d", o.slots()/4))),
		pool(poolDual, subnet("10.2.0.0/16", "10.2.1.0/24"), subnet("fd00:2::/64", fmt.Sprintf("fd00:2::1-fd00:2::%x", o.slots()/2))),
		pool(poolEdit, editions[0]),
	}
	for i := range o.agents / 4 {
		p := pool(setName(i), subnet(fmt.Sprintf("10.4.%d.0/24", i), fmt.Sprintf("10.4.%d.0/25", i)), subnet(fmt.Sprintf("fd00:4:0:%d::/64", i), fmt.Sprintf("fd00:4:0:%d::/121", i)))
		p.Spec.Owner = &v1alpha1.PoolOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Namespace: namespace, Name: p.Name}
		pools = append(pools, p)
	}
	return pools
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

// paired says what is wrong with the addresses of an interface, if they are of a pool of pairs.
func paired(pools []*ipam.Pool, leases []string) string {
	for _, pool := range pools {
		for _, name := range leases {
			if _, a, err := ipam.ParseLeaseName(name); err == nil && pool.Contains(a) {
				if partner := ipam.LeaseName(network, pool.Partner(a)); len(leases) != 2 || !slices.Contains(leases, partner) {
					return fmt.Sprintf("no pair: %v, without %s", leases, partner)
				}
			}
		}
	}
	return ""
}

// trespassCarved says what is wrong with a lease of a pod, if it is of a carved pool for others: of such a pool the addresses change.
func trespassCarved(l *v1alpha1.IPLease, pod *corev1.Pod) string {
	netspace := ""
	switch {
	case strings.HasPrefix(l.Spec.Pool, tenantPrefix):
		netspace = poolTenant
	case !strings.HasPrefix(l.Spec.Pool, carvedPrefix):
		return ""
	}
	if has := pod.Annotations[nad.NetspaceAnnotation]; l.Spec.Holder != nil && l.Spec.Holder.UID == pod.UID && has != netspace {
		return fmt.Sprintf("isolation broken: pod %s of netspace %q has %s of pool %s of netspace %q", pod.Name, has, l.Name, l.Spec.Pool, netspace)
	}
	return ""
}

// trespass says what is wrong with the addresses of a pod's interface, if they are of a pool that is for others: isolation is never broken.
func trespass(pools []*ipam.Pool, pod *corev1.Pod, leases []string) string {
	owner := metav1.GetControllerOf(pod)
	for _, name := range leases {
		_, a, err := ipam.ParseLeaseName(name)
		if err != nil {
			continue
		}
		for _, p := range pools {
			switch {
			case !slices.ContainsFunc(p.Subnets(), func(s ipam.Subnet) bool { return s.Prefix.Contains(a) }):
			case p.Owner != nil && (owner == nil || owner.Name != p.Owner.Name):
				return fmt.Sprintf("isolation broken: pod %s has %s of pool %s, which is StatefulSet %s's", pod.Name, a, p.Name, p.Owner.Name)
			case p.Netspace != pod.Annotations[nad.NetspaceAnnotation]:
				return fmt.Sprintf("isolation broken: pod %s of netspace %q has %s of pool %s of netspace %q", pod.Name, pod.Annotations[nad.NetspaceAnnotation], a, p.Name, p.Netspace)
			}
		}
	}
	return ""
}

// networksOf a pod: its annotation, its interfaces with a berth network, and the netspace that it names. What it asks for it may not
// always have.
func networksOf(rng *rand.Rand, set *set) (annotation string, interfaces []string, netspace string) {
	if set != nil {
		return "net1=set-*", []string{"net1"}, "" // of which its own alone serves it
	}
	switch rng.IntN(34) {
	case 0, 1:
		return "net1=*", []string{"net1"}, ""
	case 2, 3:
		return "net1=*", []string{"net1"}, poolTenant
	case 4, 5:
		return "net1=" + poolTenant, []string{"net1"}, poolTenant
	case 6:
		return "net1=" + poolTenant + "," + poolNeighbor + "," + poolSmall + "," + setName(0), []string{"net1"}, ""
	case 7:
		return "net1=" + poolNeighbor + "," + poolSmall, []string{"net1"}, poolTenant // nothing
	case 8:
		return "net1=" + tenantPrefix + "*", []string{"net1"}, "" // nothing
	case 9, 10, 11:
		return "net1=" + tenantPrefix + "*", []string{"net1"}, poolTenant
	}
	annotation, interfaces = sharedOf(rng)
	return annotation, interfaces, ""
}

// sharedOf are pools that are for everybody.
func sharedOf(rng *rand.Rand) (annotation string, interfaces []string) {
	switch rng.IntN(20) {
	case 0, 1:
		return "net1=" + poolDual, []string{"net1"}
	case 8, 9, 10, 11, 12, 13:
		return "net1=" + carvedPrefix + "*", []string{"net1"}
	case 14, 15:
		return "net1=" + carvedPrefix + "*; net2=" + carvedPrefix + "*", []string{"net1", "net2"}
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
