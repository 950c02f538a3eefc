package ipam

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// The shares are the whole of any space, each number once, and equal but for one.
func TestShares(t *testing.T) {
	for _, cidr := range []string{"10.0.0.0/29", "10.0.0.0/24", "10.0.0.0/8", "2001:db8::/64", "::/0"} {
		s := NewSpace(ranges(t, cidr))
		for _, n := range []int{1, 2, 3, 7, 8, 1000} {
			var at uint64
			for r := range n {
				from, to := s.share(r, n)
				if size := to - from; from != at || size != s.total/uint64(n) && size != s.total/uint64(n)+1 {
					t.Fatalf("%s: share %d of %d is %d to %d, after %d", cidr, r, n, from, to, at)
				}
				at = to
			}
			if at != s.total {
				t.Errorf("%s: %d shares end at %d of %d", cidr, n, at, s.total)
			}
		}
	}
}

// A node first takes all of its own share, then what is left, then what was released.
func TestNextOfShare(t *testing.T) {
	s := NewSpace(ranges(t, "10.0.0.0/28"))
	var got []netip.Addr
	for i := range 16 {
		a, ok := s.Next(Choice{Seed: Seed(string(rune(i))), Rank: 2, Nodes: 4})
		if !ok {
			t.Fatalf("none of the rest of %d", 16-i)
		}
		s.Put(a, bound, time.Time{})
		got = append(got, a)
	}
	slices.SortFunc(got[:4], netip.Addr.Compare)
	if want := addrs("10.0.0.8", "10.0.0.9", "10.0.0.10", "10.0.0.11"); !slices.Equal(got[:4], want) {
		t.Errorf("first %v, want %v", got[:4], want)
	}
	for _, wrong := range []Choice{{Rank: 4, Nodes: 4}, {Rank: -1, Nodes: 4}, {Rank: 1}, {Nodes: -1}, {Seed: math.MaxUint64}} {
		if a, ok := s.Next(wrong); ok {
			t.Errorf("%+v: %s, but all are bound", wrong, a)
		}
		s.Put(addr("10.0.0.3"), released, time.Unix(1, 0))
		if a, ok := s.Next(wrong); !ok || a != addr("10.0.0.3") {
			t.Errorf("%+v: %s, %t; want the only free one", wrong, a, ok)
		}
		s.Put(addr("10.0.0.3"), bound, time.Time{})
	}
}

func TestOldestOfShare(t *testing.T) {
	s := NewSpace(ranges(t, "10.0.0.0/24"))
	for i := range uint64(256) { // the oldest is number 255
		s.Put(s.address(i), released, time.Unix(int64(1000-i), 0))
	}
	for _, tt := range []struct {
		name string
		c    Choice
		want string
	}{
		{"alone", Choice{Seed: 7}, "10.0.0.255"},
		{"first of two", Choice{Seed: 7, Rank: 0, Nodes: 2}, "10.0.0.254"},
		{"second of two", Choice{Seed: 7, Rank: 1, Nodes: 2}, "10.0.0.255"},
		{"cooled", Choice{Rank: 0, Nodes: 2, Cooled: time.Unix(1000-255, 0)}, "10.0.0.255"},
		{"some cooled", Choice{Rank: 0, Nodes: 2, Cooled: time.Unix(1000-250, 0)}, "10.0.0.254"},
		{"none cooled", Choice{Rank: 0, Nodes: 2, Cooled: time.Unix(1, 0)}, "10.0.0.254"},
		{"all cooled", Choice{Rank: 0, Nodes: 2, Cooled: time.Unix(5000, 0)}, "10.0.0.254"},
	} {
		if got, ok := s.Next(tt.c); !ok || got != addr(tt.want) {
			t.Errorf("%s: %s, %t; want %s", tt.name, got, ok, tt.want)
		}
	}
}

// A burst of as many pods as addresses on nodes that hear of each other's claims late. The requests beyond one for each pod are
// claims that met another's; each waits until it hears of that. Picked from all by each node, as if it was alone, they are several times more.
func TestNodesSeldomMeet(t *testing.T) {
	for _, tt := range []struct {
		name     string
		released bool
	}{{"never used", false}, {"released", true}} {
		t.Run(tt.name, func(t *testing.T) {
			alone, shared := burst(t, tt.released, false), burst(t, tt.released, true)
			t.Logf("requests for each pod: %.3f, without shares %.3f", shared, alone)
			if shared > 1.1 || alone < 1.2 {
				t.Errorf("%.3f requests for each pod, want at most 1.1; without shares %.3f, want more", shared, alone)
			}
		})
	}
}

func burst(t *testing.T, wasReleased, shares bool) float64 {
	const nodes, pods, inFlight, writesAStep, lag = 8, 1024, 8, 4, 16
	rnd := rand.New(rand.NewPCG(1, 2))
	spaces := make([]*Space, nodes)
	for i := range spaces {
		spaces[i] = NewSpace(ranges(t, "10.0.0.0/22"))
		for k := range uint64(pods) {
			if wasReleased {
				spaces[i].Put(spaces[i].address(k), released, time.Unix(int64(k*7919%pods), 0))
			}
		}
	}
	type claim struct {
		node int
		a    netip.Addr
		step int
	}
	var onTheWay, heard []claim
	given := map[netip.Addr]bool{}
	waiting := map[netip.Addr][]int{} // nodes, by what they met
	begin := func(node, step int) {
		c := Choice{Seed: rnd.Uint64()}
		if shares {
			c.Rank, c.Nodes = node, nodes
		}
		a, ok := spaces[node].Next(c)
		if !ok {
			t.Fatalf("node %d finds none, %d of %d given", node, len(given), pods)
		}
		spaces[node].Put(a, bound, time.Time{})
		onTheWay = append(onTheWay, claim{node, a, step})
	}
	var left [nodes]int
	for node := range nodes {
		left[node] = pods/nodes - inFlight
		for range inFlight {
			begin(node, 0)
		}
	}
	requests := 0
	for step := 0; len(onTheWay)+len(waiting) > 0; step++ {
		for ; len(heard) > 0 && heard[0].step+lag <= step; heard = heard[1:] {
			for _, s := range spaces {
				s.Put(heard[0].a, bound, time.Time{})
			}
			for _, node := range waiting[heard[0].a] {
				begin(node, step)
			}
			delete(waiting, heard[0].a)
		}
		for range min(writesAStep, len(onTheWay)) {
			k := rnd.IntN(len(onTheWay))
			c := onTheWay[k]
			onTheWay = slices.Delete(onTheWay, k, k+1)
			requests++
			switch {
			case given[c.a] && slices.ContainsFunc(heard, func(h claim) bool { return h.a == c.a }):
				waiting[c.a] = append(waiting[c.a], c.node)
				continue
			case given[c.a]: // it has heard meanwhile
				begin(c.node, step)
				continue
			case left[c.node] > 0:
				left[c.node]--
				begin(c.node, step)
			}
			given[c.a] = true
			heard = append(heard, claim{c.node, c.a, step})
		}
	}
	if len(given) != pods {
		t.Fatalf("%d of %d given", len(given), pods)
	}
	return float64(requests) / pods
}
