// Package store keeps leases in the Kubernetes API. A lease's name is its lock: claiming an address is one CREATE, or one
// UPDATE of a released lease at a known resource version; losing the race means taking the next address. Nothing is read on
// the way of a claim that meets nobody.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sync/singleflight"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// ErrUnavailable: the API server gave no answer, or none that tells. The same call may succeed later.
var ErrUnavailable = errors.New("the Kubernetes API is not available")

// Store of the leases that one node can see and write.
type Store struct {
	client *v1alpha1.LeaseClient
	node   string
	log    *slog.Logger
	now    func() time.Time

	index  *index
	watch  *watches
	fresh  singleflight.Group // the LIST before "exhausted" is said, one at a time for each pool
	claims func()             // counts the collisions, for metrics
}

// New store for the node. collision is called for each claim that met another holder.
func New(client *v1alpha1.LeaseClient, node string, collision func(), log *slog.Logger) *Store {
	x := newIndex(node)
	return &Store{client: client, node: node, log: log, now: time.Now, index: x, watch: newWatches(client, x), claims: collision}
}

// SetClock has times of claims and releases from now, instead of time.Now. It is set before anything is followed.
func (s *Store) SetClock(now func() time.Time) { s.now = now }

// Claim an address for holder: the one asked for, or, if that is the zero Addr, one of pool's choice. The errors are
// ipam.ErrExhausted, ipam.ErrTaken and ErrUnavailable.
func (s *Store) Claim(ctx context.Context, pool *ipam.Pool, pick ipam.Pick, c ipam.Claimant) (*v1alpha1.IPLease, error) {
	if pick.Address.IsValid() {
		return s.claimAsked(ctx, pool, pick.Address, c)
	}
	holder := c.Holder
	seed := ipam.Seed(s.node, string(holder.UID), holder.Interface)
	for listed := false; ; {
		a, known, err := s.index.begin(pool, pick.Family, &holder, seed)
		switch {
		case errors.Is(err, ipam.ErrExhausted) && listed:
			total := pool.Ranges(pick.Family).Count()
			return nil, fmt.Errorf("pool %q has %w for node %q (%s: %d of %d in use); add a range or a pool, or free an address",
				pool.Name, err, s.node, pick.Family, total, total)
		case errors.Is(err, ipam.ErrExhausted):
			if err := s.relist(ctx, pool.Name); err != nil {
				return nil, err
			}
			listed = true
			continue
		case err != nil:
			return nil, err
		}
		l, err := s.write(ctx, pool, a, known, c)
		if err != nil || l != nil {
			return l, err
		}
		s.claims()
		seed = ipam.Seed(s.node, string(holder.UID), holder.Interface, a.String())
	}
}

// claimAsked claims one address or says who has it.
func (s *Store) claimAsked(ctx context.Context, pool *ipam.Pool, a netip.Addr, c ipam.Claimant) (*v1alpha1.IPLease, error) {
	name := ipam.LeaseName(pool.Network, a)
	for range 3 { // a write may lose against news, then the news decide
		known, ok := s.index.beginAt(name)
		if !ok {
			return nil, fmt.Errorf("%w: address %s asked for is being given to another pod of node %q", ipam.ErrTaken, a, s.node)
		}
		l, err := s.write(ctx, pool, a, known, c)
		if err != nil || l != nil {
			return l, err
		}
		if l = s.get(name); l != nil && l.Spec.Phase != v1alpha1.LeaseReleased {
			return nil, fmt.Errorf("%w: address %s asked for is %s; ask for another or free it", ipam.ErrTaken, a, heldBy(l))
		}
	}
	return nil, fmt.Errorf("%w: address %s asked for changes hands; try again", ErrUnavailable, a)
}

// write claims an address that is in flight: by creation, or by update of known if that is a free lease. nil, nil: another was
// faster, or known is not free; the index knows better now.
func (s *Store) write(ctx context.Context, pool *ipam.Pool, a netip.Addr, known *v1alpha1.IPLease, c ipam.Claimant) (*v1alpha1.IPLease, error) {
	name := ipam.LeaseName(pool.Network, a)
	defer s.index.end(name)
	var want, l *v1alpha1.IPLease
	var err error
	switch {
	case known == nil:
		want = ipam.NewLease(pool, a, c, s.now())
		l, err = s.client.Create(ctx, want, metav1.CreateOptions{})
	case c.Free(known):
		want = known.DeepCopy()
		ipam.Bind(want, pool, c, s.now())
		l, err = s.update(ctx, want)
	default:
		err = conflict(name) // the index may be behind: look at the lease itself before saying that it is taken
	}
	switch {
	case err == nil:
		s.index.put(l)
		return l, nil
	case lost(err):
		met, err := s.learn(ctx, name)
		if err != nil || met == nil || !samePod(met, c.Holder) {
			return nil, err
		}
		return s.Rebind(ctx, met, c.Holder) // an earlier try for the same pod, whose answer was lost
	}
	return nil, s.doubt("claim", want, err)
}

// update writes a lease at its version. One whose creation was only intended (see index) has none, and must be read first.
func (s *Store) update(ctx context.Context, l *v1alpha1.IPLease) (*v1alpha1.IPLease, error) {
	if l.ResourceVersion == "" {
		return nil, conflict(l.Name)
	}
	return s.client.Update(ctx, l, metav1.UpdateOptions{})
}

func conflict(name string) error {
	return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("ipleases").GroupResource(), name, nil)
}

// lost says whether a write lost against another: the lease is not as it was known.
func lost(err error) bool {
	return apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err)
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

// learn reads a lease into the index; nil if there is none.
func (s *Store) learn(ctx context.Context, name string) (*v1alpha1.IPLease, error) {
	l, err := s.client.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
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
	_, err, _ := s.fresh.Do(pool, func() (any, error) {
		list, err := s.client.List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelPool + "=" + pool})
		if err != nil {
			return nil, unavailable("list", "of pool "+pool, err)
		}
		s.index.replace(pool, list.ResourceVersion, list.Items)
		return nil, nil
	})
	return err
}

// Verify that a lease known as held by a sandbox is, by the API's own word. A nil lease says that it is not.
func (s *Store) Verify(ctx context.Context, l *v1alpha1.IPLease) (*v1alpha1.IPLease, error) {
	h := l.Spec.Holder
	now, err := s.learn(ctx, l.Name)
	if err != nil || now == nil || !ipam.SameSandbox(now, h.ContainerID, h.Interface) {
		return nil, err
	}
	return now, nil
}

// Rebind gives a lease of a pod's interface to the pod's newer sandbox. A nil lease says that the pod has lost it.
func (s *Store) Rebind(ctx context.Context, l *v1alpha1.IPLease, holder v1alpha1.LeaseHolder) (*v1alpha1.IPLease, error) {
	for *l.Spec.Holder != holder || l.ResourceVersion == "" {
		want := l.DeepCopy()
		want.Spec.Holder = &holder
		at := metav1.NewTime(s.now())
		want.Spec.BoundAt = &at
		n, err := s.update(ctx, want)
		switch {
		case err == nil:
			s.index.put(n)
			return n, nil
		case !lost(err):
			return nil, s.doubt("rebind", want, err)
		}
		if l, err = s.learn(ctx, l.Name); err != nil || l == nil || !samePod(l, holder) {
			return nil, err
		}
	}
	return l, nil
}

// samePod says whether the lease is bound to this interface of the pod, be it of another sandbox.
func samePod(l *v1alpha1.IPLease, holder v1alpha1.LeaseHolder) bool {
	h := l.Spec.Holder
	return l.Spec.Phase == v1alpha1.LeaseBound && h != nil && h.UID == holder.UID && h.Interface == holder.Interface
}

// Release frees a lease that the sandbox of its holder has given up. If another sandbox holds it by now, nothing is done.
func (s *Store) Release(ctx context.Context, l *v1alpha1.IPLease) error {
	h := l.Spec.Holder
	for {
		n := l.DeepCopy()
		ipam.Release(n, h, s.now())
		n, err := s.update(ctx, n)
		switch {
		case err == nil:
			s.index.put(n)
			return nil
		case lost(err):
			if l, err = s.learn(ctx, l.Name); err != nil || l == nil || !ipam.SameSandbox(l, h.ContainerID, h.Interface) {
				return err
			}
		default:
			return unavailable("release", l.Name, err)
		}
	}
}

// HeldBySandbox returns the leases bound to an interface of a sandbox of this node, IPv4 first.
func (s *Store) HeldBySandbox(containerID, ifName string) []*v1alpha1.IPLease {
	return s.index.held(sandboxKey(containerID, ifName))
}

// HeldByPod returns the leases bound to an interface of a pod of this node, whichever its sandbox, IPv4 first.
func (s *Store) HeldByPod(uid types.UID, ifName string) []*v1alpha1.IPLease {
	return s.index.held(podKey(uid, ifName))
}

// OnLost has f told of each lease that this node held and holds no longer, or for another link, whoever changed it. It is set before
// anything is followed; f must neither block nor call the store.
func (s *Store) OnLost(f func(*v1alpha1.IPLease)) { s.index.lost = f }

// Holds says whether this node holds the lease, by the same link as l says.
func (s *Store) Holds(l *v1alpha1.IPLease) bool {
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	now := s.index.leases[l.Name]
	return now != nil && s.index.holds(now) && sameLink(now.Spec.Holder, l.Spec.Holder)
}

// Bound returns all leases bound to pods of this node.
func (s *Store) Bound() []*v1alpha1.IPLease { return s.index.bound() }

func (s *Store) get(name string) *v1alpha1.IPLease {
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	return s.index.leases[name]
}

func heldBy(l *v1alpha1.IPLease) string {
	h := l.Spec.Holder
	if h == nil || h.Pod == "" {
		return string(l.Spec.Phase)
	}
	return fmt.Sprintf("%s, held by pod %s/%s on node %q", l.Spec.Phase, h.Namespace, h.Pod, h.Node)
}

// unavailable wraps what the API answered. A refusal (forbidden, invalid) is the installation's fault, but trying again later is
// right there too: nothing was given out.
func unavailable(verb, name string, err error) error {
	return fmt.Errorf("%w: %s lease %s: %w", ErrUnavailable, verb, name, err)
}
