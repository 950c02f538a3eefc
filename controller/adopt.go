package controller

import (
	"context"
	"net/netip"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
	"github.com/berthdev/berth/ipam"
)

// adopt writes pool and labels into leases that a person made without them (`kubectl create` of a Reserved one needs no more than
// network, address and phase). Agents watch leases by the pool's label; they would still find such a lease, but only by running
// into it.
func adopt(ctx context.Context, c client.Client, pool *v1alpha1.IPPool, leases []v1alpha1.IPLease) error {
	p, err := ipam.Compile(pool)
	if err != nil {
		return nil // the status says so
	}
	for _, l := range orphans(p, leases) {
		old := l.DeepCopy()
		l.Spec.Pool = p.Name
		if l.Labels == nil {
			l.Labels = map[string]string{}
		}
		a, err := netip.ParseAddr(l.Spec.Address)
		if err != nil {
			continue // orphans has parsed it
		}
		l.Labels[v1alpha1.LabelPool] = p.Name
		l.Labels[v1alpha1.LabelFamily] = string(ipam.FamilyOf(a))
		err = c.Patch(ctx, l, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{}))
		if _, err := round.Retry(err, statusInterval); err != nil {
			return err
		}
	}
	return nil
}

// orphans are the leases, copied, that lie in the pool and name none, or do without its label.
func orphans(p *ipam.Pool, leases []v1alpha1.IPLease) []*v1alpha1.IPLease {
	var out []*v1alpha1.IPLease
	for i := range leases {
		l := &leases[i]
		if l.Spec.Network != p.Network || l.Spec.Pool == p.Name && l.Labels[v1alpha1.LabelPool] == p.Name ||
			l.Spec.Pool != "" && l.Spec.Pool != p.Name {
			continue
		}
		if a, err := netip.ParseAddr(l.Spec.Address); err == nil && (p.Contains(a) || l.Spec.Pool == p.Name) {
			out = append(out, l.DeepCopy())
		}
	}
	return out
}
