package ipam

import (
	"cmp"
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

	taken    []uint64         // numbers of all addresses that have a lease, of any phase; sorted
	states   map[uint64]state // of these
	released []releasedAt     // those in phase Released, longest ago first
}

type state struct {
	phase v1alpha1.LeasePhase
	at    time.Time // of the release, in phase Released
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
	s := &Space{ranges: ranges, states: map[uint64]state{}}
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
	i, ok := s.ranges.Find(a)
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
	old, known := s.states[n]
	if !known { // a move of all that follow, so not at each change of phase
		i, _ := slices.BinarySearch(s.taken, n)
		s.taken = slices.Insert(s.taken, i, n)
	}
	s.unrelease(n, old)
	s.states[n] = state{phase, at}
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
	old, known := s.states[n]
	if !known {
		return
	}
	s.unrelease(n, old)
	delete(s.states, n)
	i, _ := slices.BinarySearch(s.taken, n)
	s.taken = slices.Delete(s.taken, i, i+1)
}

func (s *Space) unrelease(n uint64, old state) {
	if old.phase == v1alpha1.LeaseReleased {
		i, _ := slices.BinarySearchFunc(s.released, releasedAt{old.at, n}, releasedAt.compare)
		s.released = slices.Delete(s.released, i, i+1)
	}
}

// Phase of an address; "" if it has no lease.
func (s *Space) Phase(a netip.Addr) v1alpha1.LeasePhase {
	n, ok := s.number(a)
	if !ok {
		return ""
	}
	return s.states[n].phase
}
