package store

import (
	"context"
	"errors"
	"net/netip"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// write claims an address that is in flight: by creation, or by update of known if the claimant may have that. proven: the holders of
// known, a lease of the claimant's identity, are gone. nil, nil: another was faster, or known is not free; the index knows better now, by
// what look says of the lease that was met.
func (s *Store) write(ctx context.Context, pool *ipam.Pool, a netip.Addr, known *v1alpha1.IPLease, c ipam.Claimant, proven bool, look look) (*Taken, error) {
	name := ipam.LeaseName(pool.Network, a)
	defer s.index.end(name)
	var want, l *v1alpha1.IPLease
	var err error
	switch {
	case known == nil:
		want = ipam.NewLease(pool, a, c, s.now())
		l, err = s.client.Create(ctx, want, metav1.CreateOptions{})
	case c.Free(known) || proven && known.Spec.Phase == v1alpha1.LeaseBound && c.Is(known.Spec.Identity):
		want = known.DeepCopy()
		ipam.Bind(want, pool, c, s.now())
		l, err = s.update(ctx, want)
	default:
		err = conflict(name) // the index may be behind: look at the lease itself before saying that it is taken
	}
	switch {
	case err == nil:
		s.index.put(l)
		return &Taken{l, known != nil && known.Spec.Phase != v1alpha1.LeaseReleased}, nil
	case lost(err):
		met, err := look(ctx, name)
		if err != nil || met == nil || !samePod(met, c.Holder) {
			return nil, err
		}
		met, err = s.Rebind(ctx, met, c.Holder) // an earlier try for the same pod, whose answer was lost
		return taken(met, true), err            // which may have found it kept
	}
	return nil, s.doubt("claim", want, err)
}

// update writes a lease at its version. One whose creation was only intended (see index) has none, and must be read first.
//
// It leaves no managed fields (server-side apply is not how leases are written): they are half of a lease, in etcd and in each event of
// each watch, and keeping them is a tenth of the API server's work for an update. An empty entry resets them
// (kubernetes.io/docs/reference/using-api/server-side-apply, "Clearing managedFields"); from then on the server tracks none.
func (s *Store) update(ctx context.Context, l *v1alpha1.IPLease) (*v1alpha1.IPLease, error) {
	if l.ResourceVersion == "" {
		return nil, conflict(l.Name)
	}
	l.ManagedFields = []metav1.ManagedFieldsEntry{{}}
	return s.client.Update(ctx, l, metav1.UpdateOptions{})
}

func conflict(name string) error {
	return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("ipleases").GroupResource(), name, nil)
}

// lost says whether a write lost against another: the lease is not as it was known.
func lost(err error) bool {
	return apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || absent(err)
}

// absent says whether there is no such lease. A server that does not serve leases (the CRD is being replaced) answers 404, too, but says
// so in words of its own, of which the client makes a status.
func absent(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.IsUnexpectedServerError(err)
}

// doubt takes note of a write that failed, but that the API server may have carried out, or may yet.
func (s *Store) doubt(verb string, want *v1alpha1.IPLease, err error) error {
	var status apierrors.APIStatus
	refused := errors.As(err, &status) && status.Status().Code >= 400 && status.Status().Code < 500
	if !refused {
		s.index.intend(want)
	}
	return unavailable(verb, want.Name, err)
}

// look at a lease that is not as it was known; nil if there is none.
type look func(ctx context.Context, name string) (*v1alpha1.IPLease, error)

// watchPatience is for how long the watch is waited for. It is late by some hundred writes when the API server has much to do. A lease of
// a pool that is not watched is waited for in vain, once.
const watchPatience = 500 * time.Millisecond

// hear has the watch tell of a lease that is not as known, for what is chosen freely: that costs no request, and with it comes all that was
// written before, by which the next choice does not meet the next one. From a silent watch it turns to learn.
func (s *Store) hear(known *v1alpha1.IPLease) look {
	return func(ctx context.Context, name string) (*v1alpha1.IPLease, error) {
		told, done := s.index.told(name, known)
		defer done()
		select {
		case <-told:
			return s.get(name), nil
		case <-ctx.Done():
		case <-time.After(watchPatience):
		}
		return s.learn(ctx, name)
	}
}

// learn reads a lease into the index; nil if there is none.
func (s *Store) learn(ctx context.Context, name string) (*v1alpha1.IPLease, error) {
	l, err := s.client.Get(ctx, name, metav1.GetOptions{})
	switch {
	case absent(err):
		s.index.forget(name)
		return nil, nil
	case err != nil:
		return nil, unavailable("read", name, err)
	}
	s.index.put(l)
	return l, nil
}

// relist reads all leases of a pool at the newest version, so that "exhausted" is never said from a stale cache.
func (s *Store) relist(ctx context.Context, pool string) error {
	for {
		_, err, _ := s.fresh.Do(pool, func() (any, error) {
			list, err := s.client.List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelPool + "=" + pool})
			if err != nil {
				return nil, unavailable("list", "of pool "+pool, err)
			}
			s.index.replace(pool, list.ResourceVersion, list.Items)
			return nil, nil
		})
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			return err
		} // else it was the list of a claim whose own time was over
	}
}
