package ipam

import (
	"cmp"
	"hash/fnv"
	"math"
	"net/netip"
	"slices"
	"sort"
	"time"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Space is what is known of the addresses of one family of one pool: a snapshot from which Next chooses. Its cost depends on
// the number of leases, never on the number of addresses: a /64 and a /8 cost what a /28 costs.
//
// Addresses are numbered from 0 through all ranges. A family with more than 2^64-1 addresses uses the first 2^64-1.
type Space struct {
	ranges Ranges
	first  []uint64 // number of the first address of each range
	total  uint64

	taken    []uint64 // numbers of all addresses that have a lease, of any phase; sorted
	phases   map[uint64]v1alpha1.LeasePhase
	released []releasedAt // those in phase Released, longest ago first
}

type releasedAt struct {
	at     time.Time
	number uint64
}

func (r releasedAt) compare(o releasedAt) int {
	return cmp.Or(r.at.Compare(o.at), cmp.Compare(r.number, o.number))
}

// NewSpace of ranges, nothing taken.
func NewSpace(ranges Ranges) *Space {
	s := &Space{ranges: ranges, phases: map[uint64]v1alpha1.LeasePhase{}}
	for _, r := range ranges {
		s.first = append(s.first, s.total)
		d := distance(r.From, r.To)
		if !d.IsUint64() || d.Uint64() >= math.MaxUint64-s.total {
			s.total = math.MaxUint64
			break
		}
		s.total += d.Uint64() + 1
	}
	return s
}

// number of an address; false if it is none of the space's.
func (s *Space) number(a netip.Addr) (uint64, bool) {
	i, ok := s.ranges.find(a)
	if !ok || i >= len(s.first) {
		return 0, false
	}
	d := distance(s.ranges[i].From, a)
	if !d.IsUint64() || d.Uint64() >= s.total-s.first[i] {
		return 0, false
	}
	return s.first[i] + d.Uint64(), true
}

// address of a number below total.
func (s *Space) address(n uint64) netip.Addr {
	i := sort.Search(len(s.first), func(i int) bool { return s.first[i] > n }) - 1
	return add(s.ranges[i].From, n-s.first[i])
}

func add(a netip.Addr, n uint64) netip.Addr {
	b := a.AsSlice()
	for i := len(b) - 1; i >= 0 && n > 0; i-- {
		n += uint64(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	out, _ := netip.AddrFromSlice(b)
	return out
}

// Put says that a has a lease in this phase; at is when it was released. Addresses of other spaces are ignored.
func (s *Space) Put(a netip.Addr, phase v1alpha1.LeasePhase, at time.Time) {
	n, ok := s.number(a)
	if !ok {
		return
	}
	s.forget(n)
	i, _ := slices.BinarySearch(s.taken, n)
	s.taken = slices.Insert(s.taken, i, n)
	s.phases[n] = phase
	if phase == v1alpha1.LeaseReleased {
		r := releasedAt{at, n}
		i, _ := slices.BinarySearchFunc(s.released, r, releasedAt.compare)
		s.released = slices.Insert(s.released, i, r)
	}
}

// Forget says that a has no lease.
func (s *Space) Forget(a netip.Addr) {
	if n, ok := s.number(a); ok {
		s.forget(n)
	}
}

func (s *Space) forget(n uint64) {
	phase, ok := s.phases[n]
	if !ok {
		return
	}
	delete(s.phases, n)
	if i, ok := slices.BinarySearch(s.taken, n); ok {
		s.taken = slices.Delete(s.taken, i, i+1)
	}
	if phase == v1alpha1.LeaseReleased {
		s.released = slices.DeleteFunc(s.released, func(r releasedAt) bool { return r.number == n })
	}
}

// Phase of an address; "" if it has no lease.
func (s *Space) Phase(a netip.Addr) v1alpha1.LeasePhase {
	n, ok := s.number(a)
	if !ok {
		return ""
	}
	return s.phases[n]
}

// Next chooses an address to claim: one never used, else the one released longest ago. ok is false if none is free.
//
// Agents must not all prefer one address, or every claim but one meets AlreadyExists. So among the never used ones the seed,
// which differs between nodes, picks uniformly; with F free addresses two nodes meet with probability 1/F, as with any rule that
// does without talking.
func (s *Space) Next(seed uint64) (a netip.Addr, ok bool) {
	if free := s.total - uint64(len(s.taken)); free > 0 {
		return s.address(s.unused(seed % free)), true
	}
	if len(s.released) > 0 {
		return s.address(s.released[0].number), true
	}
	return netip.Addr{}, false
}

// unused returns the number of the k-th (from 0) address without a lease, by binary search in the sorted taken ones: before
// taken[i] there are taken[i]-i unused ones.
func (s *Space) unused(k uint64) uint64 {
	i := sort.Search(len(s.taken), func(i int) bool { return s.taken[i]-uint64(i) > k })
	return k + uint64(i)
}

// Seed for Next: the same for the same words, and well spread.
func Seed(words ...string) uint64 {
	h := fnv.New64a()
	for _, w := range words {
		h.Write([]byte(w))
		h.Write([]byte{0})
	}
	x := h.Sum64() // FNV's low bits are weak; finish as splitmix64 does
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
