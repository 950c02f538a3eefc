package store

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// index is what this node knows of leases: those of the watched pools, those that it wrote, and those that it met. It is a hint
// for choosing; the API server's word on each write is what counts.
//
// A write whose answer was lost leaves the lease as it was intended, at the version that it was to replace, until the API server
// tells of a newer one. So the address stays taken, and the holder's next ADD or DEL finds the lease and asks.
type index struct {
	node string
	lost func(*v1alpha1.IPLease) // told of each lease that this node holds no longer, or by another link; must not block or call back

	mu       sync.Mutex
	leases   map[string]*v1alpha1.IPLease // by name; the objects are never changed in place
	pools    map[string]*space            // watched pools, by name
	inFlight map[string]bool              // names of leases that this node is claiming right now
	own      map[string]map[string]bool   // by the keys below: names of leases of this node
	intended map[string]bool              // names of those of leases that are only intended
	users    users                        // of the pools of leases
}

// space of one pool, by family.
type space struct {
	pool     *ipam.Pool
	families map[ipam.Family]*ipam.Space
}

func newIndex(node string) *index {
	return &index{
		node:     node,
		lost:     func(*v1alpha1.IPLease) {},
		leases:   map[string]*v1alpha1.IPLease{},
		pools:    map[string]*space{},
		inFlight: map[string]bool{},
		own:      map[string]map[string]bool{},
		intended: map[string]bool{},
	}
}

// setPool makes or replaces the spaces of a pool, and fills them with the leases known.
func (x *index) setPool(p *ipam.Pool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := &space{pool: p, families: map[ipam.Family]*ipam.Space{}}
	for _, f := range p.Families() {
		s.families[f] = ipam.NewSpace(p.Ranges(f))
	}
	x.pools[p.Name] = s
	for name, l := range x.leases {
		if l.Spec.Network == p.Network {
			s.put(name, l, x.inFlight[name])
		}
	}
	for name := range x.inFlight {
		if network, a, err := ipam.ParseLeaseName(name); err == nil && network == p.Network {
			s.take(a)
		}
	}
}

// dropPool forgets a pool and its leases, but for those that this node holds.
func (x *index) dropPool(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.pools, name)
	for n, l := range x.leases {
		if l.Spec.Pool == name && !x.holds(l) {
			x.remove(n)
		}
	}
}

// put takes note of a lease, unless a newer version is known.
func (x *index) put(l *v1alpha1.IPLease) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old := x.leases[l.Name]; old == nil || newer(l.ResourceVersion, old.ResourceVersion) {
		delete(x.intended, l.Name)
		x.set(l)
	}
}

// intend takes note of a lease that a write, of which nothing is known, may have made.
func (x *index) intend(l *v1alpha1.IPLease) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.intended[l.Name] = true
	x.set(l)
}

func (x *index) set(l *v1alpha1.IPLease) {
	x.users.move(x.leases[l.Name], l)
	if old := x.leases[l.Name]; old != nil {
		x.disown(old)
		if x.holds(old) && !(x.holds(l) && sameLink(old.Spec.Holder, l.Spec.Holder)) {
			x.lost(old)
		}
	}
	x.leases[l.Name] = l
	for _, k := range x.ownKeys(l) {
		if x.own[k] == nil {
			x.own[k] = map[string]bool{}
		}
		x.own[k][l.Name] = true
	}
	x.refresh(l.Name)
}

// deleted takes note that the lease was deleted at this resource version, or left the watch of pool because another pool gave it.
func (x *index) deleted(pool string, l *v1alpha1.IPLease) {
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.leases[l.Name]
	if old == nil || old.Spec.Pool != pool || newer(old.ResourceVersion, l.ResourceVersion) {
		return
	}
	x.remove(l.Name)
}

func (x *index) remove(name string) {
	if l := x.leases[name]; l != nil {
		x.users.move(l, nil)
		x.disown(l)
		if x.holds(l) {
			x.lost(l)
		}
		delete(x.leases, name)
		delete(x.intended, name)
		x.refreshAs(name, l.Spec.Network)
	}
}

func (x *index) disown(l *v1alpha1.IPLease) {
	for _, k := range x.ownKeys(l) {
		delete(x.own[k], l.Name)
		if len(x.own[k]) == 0 {
			delete(x.own, k)
		}
	}
}

// refresh brings the spaces in step with what is known of a lease.
func (x *index) refresh(name string) {
	network, _, _ := strings.Cut(name, ".")
	x.refreshAs(name, network)
}

func (x *index) refreshAs(name, network string) {
	l := x.leases[name]
	for _, s := range x.pools {
		if s.pool.Network != network {
			continue
		}
		if l == nil && !x.inFlight[name] {
			if _, a, err := ipam.ParseLeaseName(name); err == nil {
				s.family(a).Forget(a)
			}
			continue
		}
		s.put(name, l, x.inFlight[name])
	}
}

// begin chooses an address of the pool for the holder and marks it as in flight. lease is the free lease to update, nil if one is
// to be created. The errors are ipam.ErrExhausted, and ErrUnavailable if the pool is not as it was when it was chosen.
func (x *index) begin(pool *ipam.Pool, f ipam.Family, h *v1alpha1.LeaseHolder, seed uint64) (a netip.Addr, lease *v1alpha1.IPLease, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.pools[pool.Name]
	if s == nil || s.pool != pool || s.families[f] == nil {
		return a, nil, fmt.Errorf("%w: pool %q was edited or deleted a moment ago; try again", ErrUnavailable, pool.Name)
	}
	a, ok := x.last(s, f, h)
	if !ok {
		c := ipam.Choice{Seed: seed}
		c.Rank, c.Nodes = x.users.rank(pool.Name, x.node)
		if a, ok = s.families[f].Next(c); !ok {
			return a, nil, ipam.ErrExhausted
		}
	}
	name := ipam.LeaseName(s.pool.Network, a)
	x.inFlight[name] = true
	x.refresh(name)
	return a, x.leases[name], nil
}

// last address that the pod's interface had, if it is free still: a sandbox made anew gets it again.
func (x *index) last(s *space, f ipam.Family, h *v1alpha1.LeaseHolder) (a netip.Addr, ok bool) {
	var at time.Time
	for name := range x.own[lastKey(h.UID, h.Interface)] {
		network, addr, err := ipam.ParseLeaseName(name)
		if err != nil || network != s.pool.Network || ipam.FamilyOf(addr) != f || s.families[f].Phase(addr) != v1alpha1.LeaseReleased {
			continue
		}
		if released := x.leases[name].Spec.ReleasedAt; released != nil && (!ok || released.After(at)) {
			a, at, ok = addr, released.Time, true
		}
	}
	return a, ok
}

// beginAt marks one address as in flight; false if it is already.
func (x *index) beginAt(name string) (*v1alpha1.IPLease, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.inFlight[name] {
		return nil, false
	}
	x.inFlight[name] = true
	x.refresh(name)
	return x.leases[name], true
}

// end of what begin began.
func (x *index) end(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.inFlight, name)
	x.refresh(name)
}

// forget a lease that turned out not to exist.
func (x *index) forget(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.remove(name)
}

// replace takes a complete list of the leases of a pool, read at this resource version.
func (x *index) replace(pool, version string, list []v1alpha1.IPLease) {
	x.mu.Lock()
	for name := range x.intended {
		if x.leases[name].Spec.Pool == pool {
			x.remove(name)
		}
	}
	x.mu.Unlock()
	listed := make(map[string]bool, len(list))
	for i := range list {
		listed[list[i].Name] = true
		x.put(trim(&list[i]))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for name, l := range x.leases {
		gone := l.Spec.Pool == pool && !listed[name] && !newer(l.ResourceVersion, version)
		// Leases of pools that are not watched were met on the way; nothing tells of their end, so meet them again.
		met := x.pools[l.Spec.Pool] == nil && !x.holds(l)
		if gone || met {
			x.remove(name)
		}
	}
}

// held returns the bound leases of this node under a key of ownKeys, IPv4 first.
func (x *index) held(key string) []*v1alpha1.IPLease {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []*v1alpha1.IPLease
	for name := range x.own[key] {
		out = append(out, x.leases[name])
	}
	slices.SortFunc(out, byAddress)
	return out
}

// bound returns all bound leases of this node.
func (x *index) bound() []*v1alpha1.IPLease {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []*v1alpha1.IPLease
	for _, l := range x.leases {
		if x.holds(l) {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, byAddress)
	return out
}

func (x *index) holds(l *v1alpha1.IPLease) bool {
	return l.Spec.Phase == v1alpha1.LeaseBound && l.Spec.Holder != nil && l.Spec.Holder.Node == x.node
}

func sameLink(a, b *v1alpha1.LeaseHolder) bool { return a.MAC == b.MAC && a.Parent == b.Parent }

func (s *space) family(a netip.Addr) *ipam.Space {
	if f := s.families[ipam.FamilyOf(a)]; f != nil {
		return f
	}
	return ipam.NewSpace(nil)
}

func (s *space) take(a netip.Addr) { s.family(a).Put(a, v1alpha1.LeaseBound, time.Time{}) }

func (s *space) put(name string, l *v1alpha1.IPLease, inFlight bool) {
	_, a, err := ipam.ParseLeaseName(name)
	switch {
	case err != nil:
	case inFlight:
		s.take(a)
	default:
		var at time.Time
		if l.Spec.ReleasedAt != nil {
			at = l.Spec.ReleasedAt.Time
		}
		s.family(a).Put(a, l.Spec.Phase, at)
	}
}

// The keys of own: interfaces of pods and of sandboxes that hold a lease, and interfaces of pods that held one last.
func podKey(uid types.UID, ifName string) string   { return "pod/" + string(uid) + "/" + ifName }
func sandboxKey(containerID, ifName string) string { return "sandbox/" + containerID + "/" + ifName }
func lastKey(uid types.UID, ifName string) string  { return "last/" + string(uid) + "/" + ifName }

func (x *index) ownKeys(l *v1alpha1.IPLease) []string {
	h := l.Spec.Holder
	switch {
	case x.holds(l):
		return []string{podKey(h.UID, h.Interface), sandboxKey(h.ContainerID, h.Interface)}
	case l.Spec.Phase == v1alpha1.LeaseReleased && h != nil && h.Node == x.node:
		return []string{lastKey(h.UID, h.Interface)}
	}
	return nil
}

func boundAt(l *v1alpha1.IPLease) time.Time {
	if l.Spec.BoundAt == nil {
		return time.Time{}
	}
	return l.Spec.BoundAt.Time
}

func byAddress(a, b *v1alpha1.IPLease) int {
	x, _ := netip.ParseAddr(a.Spec.Address)
	y, _ := netip.ParseAddr(b.Spec.Address)
	// One address may be bound twice, on two networks: then always in the same order.
	return cmp.Or(x.Compare(y), boundAt(a).Compare(boundAt(b)), strings.Compare(a.Name, b.Name))
}

// newer compares resource versions, which are ordered (KEP-5504); versions that are not numbers count as newer.
func newer(a, b string) bool {
	c, err := resourceversion.CompareResourceVersion(a, b)
	return err != nil || c > 0
}
