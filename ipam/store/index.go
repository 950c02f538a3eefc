package store

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

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
	lost func(*v1alpha1.IPLease) // see Hooks.Lost

	mu       sync.Mutex
	leases   map[string]*v1alpha1.IPLease // by name; the objects are never changed in place
	pools    map[string]*space            // watched pools, by name
	inFlight map[string]bool              // names of leases that this node is claiming right now
	keyed    map[string]map[string]bool   // by the keys of keys.go: names of leases
	intended map[string]bool              // names of those of leases that are only intended
	users    users                        // of the pools of leases
	newest   string                       // version that the API server is known to have had
	awaited  map[string]chan struct{}     // by names in flight: closed when something else is known of the lease
}

func newIndex(node string, lost func(*v1alpha1.IPLease)) *index {
	return &index{
		node:     node,
		lost:     lost,
		leases:   map[string]*v1alpha1.IPLease{},
		pools:    map[string]*space{},
		inFlight: map[string]bool{},
		keyed:    map[string]map[string]bool{},
		intended: map[string]bool{},
		awaited:  map[string]chan struct{}{},
	}
}

// setPool makes or replaces the spaces of a pool, and fills them with the leases known.
func (x *index) setPool(p *ipam.Pool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := newSpace(p)
	x.pools[p.Name] = s
	for name, l := range x.leases {
		if l.Spec.Network == p.Network {
			x.fill(s, name)
		}
	}
	for name := range x.inFlight {
		if network, _, err := ipam.ParseLeaseName(name); err == nil && network == p.Network {
			x.fill(s, name)
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
	x.reached(l.ResourceVersion)
	if old := x.leases[l.Name]; old == nil || newer(l.ResourceVersion, old.ResourceVersion) {
		delete(x.intended, l.Name)
		x.set(trim(l))
	}
}

// reached takes note of a version that the API server has had.
func (x *index) reached(version string) {
	if !older(version, x.newest) {
		x.newest = version
	}
}

// intend takes note of a lease that a write, of which nothing is known, may have made.
func (x *index) intend(l *v1alpha1.IPLease) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.intended[l.Name] = true
	x.set(l)
}

// settle takes note of a lease as the API server has it, where this node had intended it otherwise: its holder has asked, so it is not
// carried out. If it yet should be, then the watch tells, or the holder's next write of this version.
func (x *index) settle(l *v1alpha1.IPLease) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old := x.leases[l.Name]; x.intended[l.Name] && old.ResourceVersion == l.ResourceVersion {
		delete(x.intended, l.Name)
		x.set(l)
	}
}

func (x *index) set(l *v1alpha1.IPLease) {
	x.users.move(x.leases[l.Name], l)
	if old := x.leases[l.Name]; old != nil {
		x.unkey(old)
		if was := ipam.HolderOn(old, x.node); was != nil && !sameLink(was, ipam.HolderOn(l, x.node)) {
			x.lost(old)
		}
	}
	x.leases[l.Name] = l
	x.tell(l.Name)
	for _, k := range x.keys(l) {
		if x.keyed[k] == nil {
			x.keyed[k] = map[string]bool{}
		}
		x.keyed[k][l.Name] = true
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
		x.unkey(l)
		if x.holds(l) {
			x.lost(l)
		}
		delete(x.leases, name)
		delete(x.intended, name)
		x.tell(name)
		x.refresh(name)
	}
}

// told closes when something else than known is known of a lease that is in flight. done ends that.
func (x *index) told(name string, known *v1alpha1.IPLease) (told <-chan struct{}, done func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	ch := make(chan struct{})
	x.awaited[name] = ch
	if x.leases[name] != known {
		x.tell(name)
	}
	return ch, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.awaited, name)
	}
}

func (x *index) tell(name string) {
	if ch := x.awaited[name]; ch != nil {
		close(ch)
		delete(x.awaited, name)
	}
}

func (x *index) unkey(l *v1alpha1.IPLease) {
	for _, k := range x.keys(l) {
		delete(x.keyed[k], l.Name)
		if len(x.keyed[k]) == 0 {
			delete(x.keyed, k)
		}
	}
}

// refresh brings the spaces in step with what is known of a lease.
func (x *index) refresh(name string) {
	network, _, _ := strings.Cut(name, ".")
	for _, s := range x.pools {
		if s.pool.Network == network {
			x.fill(s, name)
		}
	}
}

// choice of an address to claim.
type choice struct {
	address netip.Addr
	lease   *v1alpha1.IPLease // to be updated; nil: to be created
	// held: the lease is bound, or being given, to another holder of the claimant's identity; this choice has put nothing in flight.
	held bool
	// early is how much of its cooldown the address had still to go.
	early time.Duration
}

// begin chooses an address of the pool and marks it as in flight. The errors are ipam.ErrExhausted, ipam.ErrTaken if none of those asked
// for is free, and ErrPoolChanged.
//
//  1. kept for the claimant's identity, or by an operator for it
//  2. given back last by the same interface of the same pod
//  3. one that was never used
//  4. released longest ago; if that is less than the cooldown ago, then because there is no other
func (x *index) begin(pool *ipam.Pool, pick ipam.Pick, c ipam.Claimant, seed uint64, now time.Time) (choice, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.pools[pool.Name]
	if s == nil || s.pool != pool || s.families[pick.Family] == nil {
		return choice{}, fmt.Errorf("pool %q %w", pool.Name, ErrPoolChanged)
	}
	a, ok := x.kept(s, pick, c)
	if !ok {
		a, ok = x.last(s, pick, &c.Holder)
	}
	asked := ok
	switch {
	case ok:
	case pick.OneOf != nil:
		asked = true
		if a, ok = x.oneOf(s, pick, seed); !ok {
			return choice{}, ipam.ErrTaken
		}
	default:
		next := ipam.Choice{Seed: seed, Cooled: now.Add(-pool.Cooldown)}
		next.Rank, next.Nodes = x.users.rank(pool.Name, x.node)
		if a, ok = s.free(pick.Family).Next(next); !ok {
			return choice{}, ipam.ErrExhausted
		}
	}
	name := ipam.LeaseName(pool.Network, a)
	out := choice{address: a, lease: x.leases[name]}
	if out.held = x.inFlight[name] || out.lease != nil && out.lease.Spec.Phase == v1alpha1.LeaseBound; out.held {
		return out, nil
	}
	if u := x.useOf(s, a); !asked && u.phase == v1alpha1.LeaseReleased {
		out.early = pool.Cooldown - now.Sub(u.at)
	}
	x.inFlight[name] = true
	x.refresh(name)
	return out, nil
}

// kept address of the claimant's: an operator's reservation first, then what it gave back last, then what an earlier pod of its identity
// still holds.
func (x *index) kept(s *space, pick ipam.Pick, c ipam.Claimant) (netip.Addr, bool) {
	var best *v1alpha1.IPLease
	var at netip.Addr
	for _, l := range x.keptBy(c) {
		if a, ok := x.offered(s, l, c); ok && pick.Allows(a) && (best == nil || prefer(l, best)) {
			best, at = l, a
		}
	}
	return at, best != nil
}

// offered is the address to claim for a lease that is kept for c, if the pool gives it out: in a paired pool the IPv4 address, if
// nobody else has its partner. One that is in flight is only to be waited for, and only where it is the identity's alone.
func (x *index) offered(s *space, l *v1alpha1.IPLease, c ipam.Claimant) (netip.Addr, bool) {
	a, err := netip.ParseAddr(l.Spec.Address)
	if err != nil || l.Spec.Network != s.pool.Network || l.Spec.Pool != "" && l.Spec.Pool != s.pool.Name || !s.pool.Contains(a) {
		return netip.Addr{}, false
	}
	if s.pairs != nil {
		partner := s.pool.Partner(a)
		other := x.leases[ipam.LeaseName(s.pool.Network, partner)]
		if other != nil && !c.Free(other) && !earlier(other, c) && !samePod(other, c.Holder) {
			return netip.Addr{}, false
		}
		if !a.Is4() {
			a = partner
		}
	}
	name := ipam.LeaseName(s.pool.Network, a)
	return a, !x.inFlight[name] || x.leases[name] != nil && c.Is(x.leases[name].Spec.Identity)
}

// earlier says whether an earlier pod holds the lease by the claimant's very identity.
func earlier(l *v1alpha1.IPLease, c ipam.Claimant) bool {
	return l.Spec.Phase == v1alpha1.LeaseBound && c.Is(l.Spec.Identity) && !samePod(l, c.Holder)
}

// keptBy returns the leases that are Reserved for the claimant, or bound to an earlier holder of its very identity.
func (x *index) keptBy(c ipam.Claimant) []*v1alpha1.IPLease {
	var out []*v1alpha1.IPLease
	for _, k := range claimantKeys(c) {
		for name := range x.keyed[k] {
			l := x.leases[name]
			if c.Free(l) && l.Spec.Phase == v1alpha1.LeaseReserved || earlier(l, c) {
				out = append(out, l)
			}
		}
	}
	slices.SortFunc(out, byAddress)
	return slices.CompactFunc(out, func(a, b *v1alpha1.IPLease) bool { return a.Name == b.Name })
}

func prefer(a, b *v1alpha1.IPLease) bool {
	rank := func(l *v1alpha1.IPLease) int {
		switch {
		case l.Spec.Phase == v1alpha1.LeaseBound:
			return 2
		case l.Spec.Identity.Ends != "":
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), given(b, a)) < 0
}

// given compares two leases by which an identity came to have last: of one pod's, that which it claimed last; the other may be a claim that
// landed late, of which nothing was heard.
func given(a, b *v1alpha1.IPLease) int {
	if x, y := a.Spec.Holder, b.Spec.Holder; x != nil && y != nil && x.UID == y.UID {
		return cmp.Or(boundAt(a).Compare(boundAt(b)), written(a, b))
	}
	return written(a, b)
}

// written compares two leases by their last writes, in the API server's order: nodes' clocks need not agree.
func written(a, b *v1alpha1.IPLease) int {
	c, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	if err != nil { // one is not known to be written
		return releasedAt(a).Compare(releasedAt(b))
	}
	return c
}

// last address that the pod's interface had, if it is free still: a sandbox made anew gets it again.
func (x *index) last(s *space, pick ipam.Pick, h *v1alpha1.LeaseHolder) (a netip.Addr, ok bool) {
	var latest *v1alpha1.IPLease
	for name := range x.keyed[lastKey(h.UID, h.Interface)] {
		network, addr, err := ipam.ParseLeaseName(name)
		ours := err == nil && network == s.pool.Network && s.pool.Contains(addr)
		if !ours || !pick.Allows(addr) || x.useOf(s, addr).phase != v1alpha1.LeaseReleased {
			continue
		}
		if l := x.leases[name]; latest == nil || written(l, latest) > 0 {
			a, latest, ok = addr, l, true
		}
	}
	return a, ok
}

// oneOf those asked for: the first that was never used, from a place on that differs between nodes, else the one released longest ago.
func (x *index) oneOf(s *space, pick ipam.Pick, seed uint64) (best netip.Addr, ok bool) {
	var at time.Time
	n := len(pick.OneOf)
	for i := range pick.OneOf {
		a := pick.OneOf[(i+int(seed%uint64(n)))%n]
		if !pick.Allows(a) || !s.pool.Contains(a) {
			continue
		}
		switch u := x.useOf(s, a); u.phase {
		case "":
			return a, true
		case v1alpha1.LeaseReleased:
			if !ok || u.at.Before(at) {
				best, at, ok = a, u.at, true
			}
		}
	}
	return best, ok
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
		x.put(&list[i])
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

// held returns the bound leases of this node under a key, IPv4 first.
func (x *index) held(key string) []*v1alpha1.IPLease {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []*v1alpha1.IPLease
	for name := range x.keyed[key] {
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

func (x *index) holds(l *v1alpha1.IPLease) bool { return ipam.HolderOn(l, x.node) != nil }

func sameLink(a, b *v1alpha1.LeaseHolder) bool {
	return a != nil && b != nil && a.MAC == b.MAC && a.Parent == b.Parent
}

func boundAt(l *v1alpha1.IPLease) time.Time {
	if l.Spec.BoundAt == nil {
		return time.Time{}
	}
	return l.Spec.BoundAt.Time
}

func releasedAt(l *v1alpha1.IPLease) time.Time {
	if l == nil || l.Spec.ReleasedAt == nil {
		return time.Time{}
	}
	return l.Spec.ReleasedAt.Time
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

// older is the same the other way, but that versions that are not numbers are not.
func older(a, b string) bool {
	c, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && c < 0
}
