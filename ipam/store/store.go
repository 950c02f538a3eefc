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
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sync/singleflight"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// ErrUnavailable: the API server gave no answer, or none that tells. The same call may succeed later.
var ErrUnavailable = errors.New("the Kubernetes API is not available")

// ErrPoolChanged: the pool is no longer as it was when it was chosen. What is chosen anew may do.
var ErrPoolChanged = errors.New("was edited or deleted a moment ago; try again")

// Hooks are what the store needs of its user. All must be set; Collision, Lost and Early must neither block nor call the store.
type Hooks struct {
	// Collision is called for each claim that met another holder.
	Collision func()
	// Lost is told of each lease that this node held and holds no longer, or for another link, whoever changed it.
	Lost func(*v1alpha1.IPLease)
	// Early is told of an address that was given to holder before its cooldown was over, by this much.
	Early func(l *v1alpha1.IPLease, by time.Duration)
	// Gone asks whether nothing of a pod runs any more that holds the address of an identity, by the API's own word.
	Gone func(context.Context, *v1alpha1.LeaseHolder) (bool, error)
}

// Store of the leases that one node can see and write.
type Store struct {
	client *v1alpha1.LeaseClient
	node   string
	hooks  Hooks
	log    *slog.Logger
	now    func() time.Time

	index *index
	watch *watches
	turns turns
	fresh singleflight.Group // the LIST before "exhausted" is said, one at a time for each pool
}

// New store for the node.
func New(client *v1alpha1.LeaseClient, node string, hooks Hooks, now func() time.Time, log *slog.Logger) *Store {
	x := newIndex(node, hooks.Lost)
	return &Store{client: client, node: node, hooks: hooks, log: log, now: now, index: x, watch: newWatches(client, x), turns: newTurns()}
}

// Verify that a lease known as held by a sandbox is, by the API's own word. A nil lease says that it is not.
func (s *Store) Verify(ctx context.Context, l *v1alpha1.IPLease) (*v1alpha1.IPLease, error) {
	h := ipam.HolderOn(l, s.node)
	now, err := s.learn(ctx, l.Name)
	if err != nil || now == nil || h == nil {
		return nil, err
	}
	if !ipam.SameSandbox(now, h.ContainerID, h.Interface) {
		s.index.settle(now)
		return nil, nil
	}
	return now, nil
}

// Keep gives a lease of a pod's interface to its sandbox holder, the one that has it or a newer one, by the API's own word. A nil lease
// says that the pod has lost it.
func (s *Store) Keep(ctx context.Context, l *v1alpha1.IPLease, holder v1alpha1.LeaseHolder) (*v1alpha1.IPLease, error) {
	if h := ipam.HolderOn(l, s.node); h != nil && *h == holder {
		// That may be what a rebind intended of which nothing was heard: then the API still has the pod's earlier sandbox.
		now, err := s.learn(ctx, l.Name)
		if err != nil || now == nil {
			return nil, err
		}
		if !samePod(now, holder) {
			s.index.settle(now)
			return nil, nil
		}
		l = now
	}
	return s.Rebind(ctx, l, holder)
}

// Rebind gives a lease of a pod's interface to the pod's newer sandbox. A nil lease says that the pod has lost it.
func (s *Store) Rebind(ctx context.Context, l *v1alpha1.IPLease, holder v1alpha1.LeaseHolder) (*v1alpha1.IPLease, error) {
	for l.ResourceVersion == "" || !slices.ContainsFunc(ipam.Holders(l), func(h *v1alpha1.LeaseHolder) bool { return *h == holder }) {
		want := l.DeepCopy()
		ipam.Rebind(want, holder, s.now())
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
	return slices.ContainsFunc(ipam.Holders(l), func(h *v1alpha1.LeaseHolder) bool {
		return h.UID == holder.UID && h.Interface == holder.Interface
	})
}

// Release takes a lease from a sandbox of this node that has given it up. If another sandbox holds it by now, nothing is done.
func (s *Store) Release(ctx context.Context, l *v1alpha1.IPLease) error {
	return s.release(ctx, l, ipam.Release)
}

// Drop is Release of an address that is not kept for the holder's identity, see ipam.Drop.
func (s *Store) Drop(ctx context.Context, l *v1alpha1.IPLease) error {
	return s.release(ctx, l, ipam.Drop)
}

func (s *Store) release(ctx context.Context, l *v1alpha1.IPLease, free func(*v1alpha1.IPLease, *v1alpha1.LeaseHolder, time.Time)) error {
	h := ipam.HolderOn(l, s.node)
	if h == nil {
		return nil
	}
	for {
		n := l.DeepCopy()
		free(n, h, s.now())
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

// Kept returns the addresses that are kept for the claimant, as far as the followed pools tell, and their pools.
func (s *Store) Kept(c ipam.Claimant) map[netip.Addr]string {
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	out := map[netip.Addr]string{}
	for _, l := range s.index.keptBy(c) {
		if a, err := netip.ParseAddr(l.Spec.Address); err == nil {
			out[a] = l.Spec.Pool
		}
	}
	return out
}

// Recall is Kept, by the API's own word: the watches may lag behind the DEL of the identity's last pod, on another node, and the identity
// would get a second address.
func (s *Store) Recall(ctx context.Context, c ipam.Claimant) (map[netip.Addr]string, error) {
	list, err := s.client.List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelIdentity + "=" + ipam.IdentityHash(c.Identity)})
	if err != nil {
		return nil, unavailable("list", fmt.Sprintf("of %s %s/%s", c.Identity.Kind, c.Identity.Namespace, c.Identity.Name), err)
	}
	for i := range list.Items {
		s.index.put(&list.Items[i])
	}
	return s.Kept(c), nil
}

// Strays are the identity's beside the claimant's leases, of a pool and family of theirs: Reserved, or bound still to an earlier pod. They
// are claims of which nothing was heard, and which landed when the identity had given up waiting for them. A name that a person chose may
// be of several pods at once; theirs are none.
func (s *Store) Strays(c ipam.Claimant, has []*v1alpha1.IPLease) []*v1alpha1.IPLease {
	if c.Identity == nil || c.Identity.Kind == v1alpha1.IdentityName {
		return nil
	}
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	return slices.DeleteFunc(s.index.keptBy(c), func(l *v1alpha1.IPLease) bool {
		stray := l.Spec.Identity.Ends != "" && c.Is(l.Spec.Identity)
		beside := slices.ContainsFunc(has, func(h *v1alpha1.IPLease) bool { return sameSource(h, l) }) &&
			!slices.ContainsFunc(has, func(h *v1alpha1.IPLease) bool { return h.Name == l.Name })
		return !stray || !beside
	})
}

// sameSource says whether two addresses are of one pool and family.
func sameSource(a, b *v1alpha1.IPLease) bool {
	x, errX := netip.ParseAddr(a.Spec.Address)
	y, errY := netip.ParseAddr(b.Spec.Address)
	return a.Spec.Pool == b.Spec.Pool && errX == nil && errY == nil && x.Is4() == y.Is4()
}

// Disown takes a lease from its identity, unless it is another's by now.
func (s *Store) Disown(ctx context.Context, l *v1alpha1.IPLease) error {
	n := l.DeepCopy()
	ipam.Disown(n, s.now())
	n, err := s.update(ctx, n)
	switch {
	case err == nil:
		s.index.put(n)
	case lost(err):
		_, err := s.learn(ctx, l.Name)
		return err
	default:
		return unavailable("disown", l.Name, err)
	}
	return nil
}

// HeldBySandbox returns the leases bound to an interface of a sandbox of this node, IPv4 first.
func (s *Store) HeldBySandbox(containerID, ifName string) []*v1alpha1.IPLease {
	return s.index.held(sandboxKey(containerID, ifName))
}

// HeldByPod returns the leases bound to an interface of a pod of this node, whichever its sandbox, IPv4 first.
func (s *Store) HeldByPod(uid types.UID, ifName string) []*v1alpha1.IPLease {
	return s.index.held(podKey(uid, ifName))
}

// Holds says whether this node holds the lease, by the same link as l says.
func (s *Store) Holds(l *v1alpha1.IPLease) bool {
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	now := s.index.leases[l.Name]
	return now != nil && sameLink(ipam.HolderOn(now, s.node), ipam.HolderOn(l, s.node))
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
