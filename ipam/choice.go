package ipam

import (
	"hash/fnv"
	"math/bits"
	"net/netip"
	"sort"
	"time"
)

// Choice is what an address is chosen by, beside what is known of the space. Nodes choose at the same time, each from what it knows,
// and a claim that meets another's costs a request more; so they prefer different addresses, without talking.
type Choice struct {
	Seed uint64 // differs between nodes and between pods
	// Rank of this node among the Nodes that use the pool; Nodes 0 is 1. Nodes that know different numbers still choose free addresses,
	// but may prefer the same.
	Rank, Nodes int
	// Cooled: addresses released later than this are the last to be taken. The zero Time makes no difference between them.
	Cooled time.Time
}

// Next chooses an address to claim; ok is false if none is free. The order is
//
//	never used    in this node's share of the numbers, any by the seed
//	never used    elsewhere, any by the seed
//	released      before Cooled, longest ago first of this node's share, see oldest
//	released      later, likewise
func (s *Space) Next(c Choice) (a netip.Addr, ok bool) {
	if c.Nodes < 1 || c.Rank < 0 || c.Rank >= c.Nodes {
		c.Rank, c.Nodes = 0, 1
	}
	if free := s.total - uint64(len(s.taken)); free > 0 {
		return s.address(s.neverUsed(c)), true
	}
	if len(s.released) == 0 {
		return netip.Addr{}, false
	}
	cooled := s.released
	if !c.Cooled.IsZero() {
		cooled = cooled[:sort.Search(len(cooled), func(i int) bool { return cooled[i].at.After(c.Cooled) })]
	}
	if len(cooled) == 0 {
		cooled = s.released
	}
	return s.address(oldest(cooled, c)), true
}

// neverUsed picks uniformly from this node's share of the numbers. If that is used up, so are most others', and it picks from all: with
// F addresses left two nodes meet with probability 1/F, as by any rule that does without talking.
func (s *Space) neverUsed(c Choice) uint64 {
	from, to := s.share(c.Rank, c.Nodes)
	before := s.takenBefore(from)
	if free := to - from - (s.takenBefore(to) - before); free > 0 {
		return s.unused(from - before + c.Seed%free)
	}
	return s.unused(c.Seed % (s.total - uint64(len(s.taken))))
}

// share of the node of a rank: the numbers from total·rank/n to total·(rank+1)/n, exclusive.
func (s *Space) share(rank, n int) (from, to uint64) {
	at := func(k int) uint64 {
		hi, lo := bits.Mul64(s.total, uint64(k))
		q, _ := bits.Div64(hi, lo, uint64(n))
		return q
	}
	return at(rank), at(rank + 1)
}

// takenBefore counts the addresses with a lease below a number.
func (s *Space) takenBefore(n uint64) uint64 {
	return uint64(sort.Search(len(s.taken), func(i int) bool { return s.taken[i] >= n }))
}

// unused returns the number of the k-th (from 0) address without a lease, by binary search in the sorted taken ones: before
// taken[i] there are taken[i]-i unused ones.
func (s *Space) unused(k uint64) uint64 {
	i := sort.Search(len(s.taken), func(i int) bool { return s.taken[i]-uint64(i) > k })
	return k + uint64(i)
}

// window bounds, for each node, how many released addresses are looked through for one of its own share. It is more than a node has
// claims on their way, which are free by what the others know.
const window = 64

// oldest of the released addresses that are this node's, which are those of each n-th number. If there is none within the window, then
// any in it: the order of release is kept as far as nodes can without all taking the same. One node alone takes the very oldest.
func oldest(released []releasedAt, c Choice) uint64 {
	n := uint64(c.Nodes)
	near := released[:min(len(released), window*c.Nodes)]
	for _, r := range near {
		if r.number%n == uint64(c.Rank) {
			return r.number
		}
	}
	return near[c.Seed%uint64(len(near))].number
}

// Seed for a Choice: the same for the same words, and well spread.
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
