package ipam

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berthdev/berth/api/v1alpha1"
)

const (
	bound       = v1alpha1.LeaseBound
	released    = v1alpha1.LeaseReleased
	reserved    = v1alpha1.LeaseReserved
	quarantined = v1alpha1.LeaseQuarantined
)

func TestNext(t *testing.T) {
	s := NewSpace(ranges(t, "10.0.0.1-10.0.0.2", "10.0.0.5", "10.0.1.0/30"))
	seen := map[netip.Addr]bool{}
	for range 7 {
		a, ok := s.Next(Choice{Seed: Seed(a2s(seen))})
		if !ok || seen[a] || !s.ranges.Contains(a) {
			t.Fatalf("%s, %t after %v", a, ok, seen)
		}
		seen[a] = true
		s.Put(a, bound, time.Time{})
	}
	if a, ok := s.Next(Choice{Seed: 0}); ok {
		t.Fatalf("an eighth of seven: %s", a)
	}

	// Longest ago first, whatever the order of news; a reserved one never.
	t0 := time.Unix(1000, 0)
	for i, last := range []string{"10.0.0.5", "10.0.1.3", "10.0.0.1"} {
		s.Put(addr(last), released, t0.Add(time.Duration(2-i)*time.Hour))
	}
	s.Put(addr("10.0.1.1"), reserved, time.Time{})
	for _, want := range []string{"10.0.0.1", "10.0.1.3", "10.0.0.5"} {
		if a, ok := s.Next(Choice{Seed: 42}); !ok || a != addr(want) {
			t.Fatalf("%s, %t; want %s", a, ok, want)
		}
		s.Put(addr(want), bound, time.Time{})
	}
	if a, ok := s.Next(Choice{Seed: 0}); ok {
		t.Fatalf("%s is reserved or bound", a)
	}

	// A never used one before all released.
	s.Put(addr("10.0.0.2"), released, time.Unix(1, 0))
	s.Forget(addr("10.0.1.2"))
	if a, _ := s.Next(Choice{Seed: 7}); a != addr("10.0.1.2") {
		t.Fatalf("%s before the never used one", a)
	}
}

func a2s(m map[netip.Addr]bool) string { return string(rune(len(m))) }

// Addresses that are not of the space change nothing.
func TestForeignAddresses(t *testing.T) {
	s := NewSpace(ranges(t, "10.0.0.1-10.0.0.2"))
	for _, a := range addrs("10.0.0.0", "10.0.0.3", "2001:db8::1", "::ffff:10.0.0.1") {
		s.Put(a, bound, time.Time{})
		s.Forget(a)
		if got := s.Phase(a); got != "" {
			t.Errorf("%s: %s", a, got)
		}
	}
	if len(s.taken) != 0 {
		t.Errorf("taken: %v", s.taken)
	}
	empty := NewSpace(nil)
	empty.Put(addr("10.0.0.1"), bound, time.Time{})
	if a, ok := empty.Next(Choice{Seed: 1}); ok {
		t.Errorf("an address of nothing: %s", a)
	}
}

// All of IPv6 and more than 2^64 addresses.
func TestHuge(t *testing.T) {
	for _, list := range [][]string{{"::/0"}, {"2001:db8::/64"}, {"2001:db8::/65", "2001:db9::/64", "2001:dba::/64"}, {"10.0.0.0/8"}, {"0.0.0.0/0"}} {
		rs := ranges(t, list...)
		s := NewSpace(rs)
		for _, seed := range []uint64{0, 1, 1 << 63, math.MaxUint64 - 1, math.MaxUint64} {
			a, ok := s.Next(Choice{Seed: seed})
			if !ok || !rs.Contains(a) || s.Phase(a) != "" {
				t.Fatalf("%v: %s, %t", list, a, ok)
			}
			s.Put(a, bound, time.Time{})
			if s.Phase(a) != bound {
				t.Fatalf("%v: %s is not taken", list, a)
			}
		}
	}
}

// Nodes must not run after the same address: for different seeds the choices are spread.
func TestNextSpreads(t *testing.T) {
	s := NewSpace(ranges(t, "10.0.0.0/24"))
	count := map[netip.Addr]int{}
	for i := range 2560 {
		a, _ := s.Next(Choice{Seed: Seed("node", string(rune(i)), "net1")})
		count[a]++
	}
	for a, n := range count {
		if n > 40 { // ten each on average
			t.Errorf("%s is the choice of %d seeds of 2560", a, n)
		}
	}
	if len(count) < 250 {
		t.Errorf("only %d of 256 addresses are chosen", len(count))
	}
}

// model is what a Space stands for, walked naively.
type model struct {
	all   []netip.Addr
	phase map[netip.Addr]v1alpha1.LeasePhase
	at    map[netip.Addr]time.Time
}

func (m *model) free() (unused map[netip.Addr]bool, oldest map[netip.Addr]bool) {
	unused, oldest = map[netip.Addr]bool{}, map[netip.Addr]bool{}
	var at time.Time
	for _, a := range m.all {
		switch m.phase[a] {
		case "":
			unused[a] = true
		case released:
			if len(oldest) == 0 || m.at[a].Before(at) {
				oldest, at = map[netip.Addr]bool{}, m.at[a]
			}
			if m.at[a].Equal(at) {
				oldest[a] = true
			}
		}
	}
	return unused, oldest
}

func TestSpaceIsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SampledFrom(addrs("10.0.0.0", "2001:db8::", "255.255.255.200", "2001:db8::ffff:ffff:ffff:fff0")).Draw(t, "base")
		m := &model{phase: map[netip.Addr]v1alpha1.LeasePhase{}, at: map[netip.Addr]time.Time{}}
		var rs []Range
		for _, n := range rapid.SliceOfNDistinct(rapid.Uint64Range(0, 40), 1, 12, rapid.ID).Draw(t, "addresses") {
			rs = append(rs, Range{add(base, n), add(base, n)})
			m.all = append(m.all, add(base, n))
		}
		s := NewSpace(normalize(rs))
		any := rapid.Custom(func(t *rapid.T) netip.Addr { return add(base, rapid.Uint64Range(0, 40).Draw(t, "n")) })
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				a := any.Draw(t, "address")
				phase := rapid.SampledFrom([]v1alpha1.LeasePhase{bound, released, released, reserved, v1alpha1.LeaseQuarantined}).Draw(t, "phase")
				at := time.Unix(int64(rapid.IntRange(0, 5).Draw(t, "at")), 0)
				s.Put(a, phase, at)
				if s.ranges.Contains(a) {
					m.phase[a], m.at[a] = phase, at
				}
			},
			"forget": func(t *rapid.T) {
				a := any.Draw(t, "address")
				s.Forget(a)
				delete(m.phase, a)
			},
			"claim": func(t *rapid.T) {
				nodes := rapid.IntRange(0, 9).Draw(t, "nodes")
				c := Choice{Seed: rapid.Uint64().Draw(t, "seed"), Rank: rapid.IntRange(0, nodes).Draw(t, "rank"), Nodes: nodes,
					Cooled: time.Unix(int64(rapid.IntRange(0, 5).Draw(t, "cooled")), 0)}
				unused, oldest := m.free()
				a, ok := s.Next(c)
				switch phase := m.phase[a]; {
				case ok != (len(unused)+len(oldest) > 0), ok && len(unused) > 0 && !unused[a], ok && phase != "" && phase != released:
					t.Fatalf("Next(%+v): %s, %t, %q; unused %v", c, a, ok, phase, unused)
				}
				if ok {
					s.Put(a, bound, time.Time{})
					m.phase[a] = bound
				}
			},
			"": func(t *rapid.T) {
				unused, oldest := m.free()
				a, ok := s.Next(Choice{Seed: rapid.Uint64().Draw(t, "seed")})
				switch {
				case ok != (len(unused)+len(oldest) > 0):
					t.Fatalf("Next: %s, %t; unused %v, oldest released %v", a, ok, unused, oldest)
				case ok && len(unused) > 0 && !unused[a]:
					t.Fatalf("Next: %s; unused %v", a, unused)
				case ok && len(unused) == 0 && !oldest[a]:
					t.Fatalf("Next: %s; oldest released %v", a, oldest)
				}
				// Every unused address is some seed's.
				for k := range uint64(len(unused)) {
					a, _ := s.Next(Choice{Seed: k})
					delete(unused, a)
				}
				if len(unused) > 0 {
					t.Fatalf("no seed chooses %v", unused)
				}
				for _, a := range m.all {
					if s.Phase(a) != m.phase[a] {
						t.Fatalf("%s is %q, want %q", a, s.Phase(a), m.phase[a])
					}
				}
			},
		})
	})
}

// As many pods as addresses, in spaces of any shape: each gets one, none two, none outside.
func TestEveryAddressOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rs []Range
		for _, from := range rapid.SliceOfN(rapid.Uint64Range(0, 3000), 1, 4).Draw(t, "from") {
			rs = append(rs, Range{add(addr("10.0.0.0"), from), add(addr("10.0.0.0"), from+rapid.Uint64Range(0, 60).Draw(t, "more"))})
		}
		all := normalize(rs)
		s, n := NewSpace(all), int(all.Count().Int64())
		holders := map[netip.Addr]int{}
		for pod := range n {
			a, ok := s.Next(Choice{Seed: rapid.Uint64().Draw(t, "seed")})
			if !ok || !all.Contains(a) {
				t.Fatalf("pod %d of %d gets %s, %t", pod, n, a, ok)
			}
			if other, taken := holders[a]; taken {
				t.Fatalf("pods %d and %d get %s", other, pod, a)
			}
			holders[a] = pod
			s.Put(a, bound, time.Time{})
		}
		if a, ok := s.Next(Choice{Seed: 0}); ok {
			t.Fatalf("one more: %s", a)
		}
	})
}

// Next looks at as many leases as a binary search does, whatever the size of the range: the addresses are numbers, none is
// walked. A walk over a /64 would not end.
func TestCostIsThatOfLeases(t *testing.T) {
	s := NewSpace(ranges(t, "2001:db8::/64"))
	for range 1000 {
		a, _ := s.Next(Choice{Seed: 0}) // always the first unused: the worst case of a walk from the start
		s.Put(a, bound, time.Time{})
	}
	if got := len(s.taken); got != 1000 || s.taken[999] != 999 {
		t.Errorf("%d taken, the last is number %d", got, s.taken[999])
	}
	if a, _ := s.Next(Choice{Seed: math.MaxUint64 - 1001}); a != addr("2001:db8::ffff:ffff:ffff:fffe") {
		t.Errorf("the last unused one is %s", a)
	}
	if n := testing.AllocsPerRun(10, func() { s.Next(Choice{Seed: 1 << 40}) }); n > 10 {
		t.Errorf("Next allocates %v times with 1000 leases", n)
	}
}
