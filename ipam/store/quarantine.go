package store

import (
	"context"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Lease of an address as this node knows it; nil if it knows of none. The caller must not change it.
func (s *Store) Lease(network string, a netip.Addr) *v1alpha1.IPLease {
	return s.get(ipam.LeaseName(network, a))
}

// Quarantine takes a free address of a pool out of use. nil, nil: it is not free, or somebody was faster, with a claim or a quarantine;
// the index knows better now.
func (s *Store) Quarantine(ctx context.Context, pool *ipam.Pool, a netip.Addr, c v1alpha1.LeaseConflict) (*v1alpha1.IPLease, error) {
	name := ipam.LeaseName(pool.Network, a)
	known, ok := s.index.beginAt(name)
	if !ok {
		return nil, nil // this node is claiming it
	}
	defer s.index.end(name)
	if known == nil {
		want := ipam.Quarantine(nil, pool, a, c)
		l, err := s.client.Create(ctx, want, metav1.CreateOptions{})
		return s.written(ctx, "quarantine", want, l, err)
	}
	if known.Spec.Phase != v1alpha1.LeaseReleased {
		return nil, nil
	}
	want := ipam.Quarantine(known.DeepCopy(), pool, a, c)
	l, err := s.update(ctx, want)
	return s.written(ctx, "quarantine", want, l, err)
}

// Conflict notes in a lease that is not free who else uses its address. nil, nil: the lease was not as it was known; the index knows
// better now.
func (s *Store) Conflict(ctx context.Context, known *v1alpha1.IPLease, c v1alpha1.LeaseConflict) (*v1alpha1.IPLease, error) {
	want := known.DeepCopy()
	ipam.Contest(want, c)
	l, err := s.update(ctx, want)
	return s.written(ctx, "note the conflict in", want, l, err)
}

func (s *Store) written(ctx context.Context, verb string, want, l *v1alpha1.IPLease, err error) (*v1alpha1.IPLease, error) {
	switch {
	case err == nil:
		s.index.put(l)
		return l, nil
	case lost(err):
		_, err := s.learn(ctx, want.Name)
		return nil, err
	}
	return nil, s.doubt(verb, want, err)
}
