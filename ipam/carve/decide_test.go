package carve

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Each row is what pools ask for, one after the other, and what the last one has then.
func TestDecide(t *testing.T) {
	type step struct {
		pool string
		size uint64
	}
	for _, tc := range []struct {
		name  string
		cidrs []v1alpha1.SubnetCIDR
		pair  v1alpha1.Pairing
		steps []step
		want  string // of the last pool; with an error, what it says
		short bool
	}{
		{name: "first", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16")}, steps: []step{{"a", 5}}, want: "10.6.0.1-10.6.0.5"},
		{name: "behind the gateway", cidrs: []v1alpha1.SubnetCIDR{{CIDR: "10.6.0.0/16", Gateway: "10.6.0.3"}}, steps: []step{{"a", 5}}, want: "10.6.0.4-10.6.0.8"},
		{name: "the same block", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16")}, steps: []step{{"a", 5}, {"b", 5}}, want: "10.6.0.6-10.6.0.10"},
		{name: "grow behind its own", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16")}, steps: []step{{"a", 5}, {"a", 8}}, want: "10.6.0.1-10.6.0.8"},
		{name: "grow where others are", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16")}, steps: []step{{"a", 5}, {"b", 1}, {"a", 8}}, want: "10.6.0.1-10.6.0.5 10.6.0.7-10.6.0.9"},
		{name: "shrink from the end", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16")}, steps: []step{{"a", 5}, {"b", 1}, {"a", 8}, {"a", 4}}, want: "10.6.0.1-10.6.0.4"},
		{name: "its own again", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16")}, steps: []step{{"a", 9}, {"a", 2}, {"b", 5}, {"a", 5}}, want: "10.6.0.1-10.6.0.5"},
		{name: "given up is not another's", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16")}, steps: []step{{"a", 9}, {"a", 2}, {"b", 5}}, want: "10.6.0.10-10.6.0.14"},
		{name: "the smallest gap", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16", "10.6.0.21-10.6.0.29", "10.6.0.35-10.6.0.39")},
			steps: []step{{"a", 1}, {"b", 5}}, want: "10.6.0.30-10.6.0.34"},
		{name: "a whole block", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16")}, steps: []step{{"a", 5}, {"b", 256}}, want: "10.6.1.0-10.6.1.255"},
		{name: "few blocks", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16")}, steps: []step{{"a", 512}}, want: "10.6.1.0-10.6.2.255"},
		{name: "the largest pool", cidrs: []v1alpha1.SubnetCIDR{cidr("10.0.0.0/8")}, steps: []step{{"a", 65536}}, want: "10.0.1.0-10.1.0.255"},
		{name: "a /64", cidrs: []v1alpha1.SubnetCIDR{cidr("fd00:6::/64")}, steps: []step{{"a", 5}, {"b", 5}}, want: "fd00:6::6-fd00:6::a"},
		{name: "dual stack", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16"), cidr("fd00:6::/64", "fd00:6::-fd00:6::f")}, steps: []step{{"a", 5}},
			want: "10.6.0.1-10.6.0.5 fd00:6::10-fd00:6::14"},
		{name: "pairs", pair: v1alpha1.PairingIndex, cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/16"), cidr("fd00:6::/112", "fd00:6::-fd00:6::f")},
			steps: []step{{"a", 5}}, want: "10.6.0.16-10.6.0.20 fd00:6::10-fd00:6::14"},
		{name: "pairs in halves of blocks", pair: v1alpha1.PairingIndex, cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.128/25"), cidr("fd00:6::/121")},
			steps: []step{{"a", 126}}, want: "10.6.0.129-10.6.0.254 fd00:6::1-fd00:6::7e"},
		{name: "the last address", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/28")}, steps: []step{{"a", 5}, {"b", 9}}, want: "10.6.0.6-10.6.0.14"},
		{name: "one too many", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/28")}, steps: []step{{"a", 5}, {"b", 10}}, short: true,
			want: `size 10: wants 10 IPv4 addresses more of subnet "plan", in which 9 are free; make it smaller, or give the subnet another CIDR`},
		{name: "too large to grow", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/28")}, steps: []step{{"a", 5}, {"a", 16}}, short: true,
			want: `size 16: wants 11 IPv4 addresses more of subnet "plan", in which 9 are free`},
		{name: "too many of one family", cidrs: []v1alpha1.SubnetCIDR{cidr("10.6.0.0/24"), cidr("fd00:6::/125")}, steps: []step{{"a", 8}}, short: true,
			want: `wants 8 IPv6 addresses more of subnet "plan", in which 7 are free`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, b := subnet(t, tc.pair, tc.cidrs...), NewBook()
			var err error
			var before []string
			last := tc.steps[len(tc.steps)-1]
			for _, st := range tc.steps {
				before = has(s, b, last.pool)
				_, err = ask(t, s, b, st.pool, st.size)
			}
			if tc.short {
				if !errors.Is(err, ErrShort) || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%v, want %s", err, tc.want)
				}
				if d := cmp.Diff(before, has(s, b, last.pool)); d != "" {
					t.Errorf("it did not keep what it had: %s", d)
				}
				return
			}
			if got := strings.Join(has(s, b, last.pool), " "); err != nil || got != tc.want {
				t.Errorf("%s (%v), want %s", got, err, tc.want)
			}
		})
	}
}

func TestShrinkKeepsWhatIsInUse(t *testing.T) {
	s, b := subnet(t, v1alpha1.PairingIndex, cidr("10.6.0.0/24"), cidr("fd00:6::/120")), NewBook()
	if _, err := ask(t, s, b, "a", 6); err != nil {
		t.Fatal(err)
	}
	d, err := ask(t, s, b, "a", 2, netip.MustParseAddr("10.6.0.6"), netip.MustParseAddr("fd00:6::4"), netip.MustParseAddr("10.6.0.3"))
	if err != nil || d.Kept != 1 {
		t.Errorf("kept %d (%v), want 1", d.Kept, err)
	}
	want := []string{"10.6.0.3-10.6.0.4", "10.6.0.6", "fd00:6::3-fd00:6::4", "fd00:6::6"}
	if d := cmp.Diff(want, has(s, b, "a")); d != "" {
		t.Error(d)
	}
}

// TestHalfOfAPair: whoever crashed between the blocks of a pair completes it, and no other.
func TestHalfOfAPair(t *testing.T) {
	s := subnet(t, v1alpha1.PairingIndex, cidr("10.6.0.0/24"), cidr("fd00:6::/120"))
	half := func() *Book {
		b := NewBook()
		b.Put(Part{Range: rng(t, "10.6.0.9-10.6.0.11"), Subnet: "plan", Owner: Owner{Pool: "a"}})
		return b
	}
	for _, tc := range []struct {
		pool string
		size uint64
		want []string
	}{
		{"a", 3, []string{"10.6.0.9-10.6.0.11", "fd00:6::9-fd00:6::b"}},
		{"a", 2, []string{"10.6.0.9-10.6.0.10", "fd00:6::9-fd00:6::a"}},
		{"a", 0, nil},
		{"b", 10, []string{"10.6.0.12-10.6.0.21", "fd00:6::c-fd00:6::15"}},
	} {
		b := half()
		if _, err := ask(t, s, b, tc.pool, tc.size); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(tc.want, has(s, b, tc.pool)); d != "" {
			t.Errorf("%s, %d: %s", tc.pool, tc.size, d)
		}
		had, _ := b.Of(Owner{Pool: "a"}, "plan", ipam.IPv4)
		if tc.pool == "a" && total(had) != tc.size {
			t.Errorf("of %d pairs it has %s", tc.size, had)
		}
	}
}

// TestCycles: pools are made, grow, shrink and go, at random; nothing overlaps at any time, each has what it asked for, and in the end
// the subnet has all of its addresses again, and gives all of them.
func TestCycles(t *testing.T) {
	for _, tc := range []struct {
		name  string
		pair  v1alpha1.Pairing
		cidrs []v1alpha1.SubnetCIDR
		all   uint64
	}{
		{"one block", "", []v1alpha1.SubnetCIDR{{CIDR: "10.6.0.0/24", Gateway: "10.6.0.1"}}, 253},
		{"blocks and halves", "", []v1alpha1.SubnetCIDR{cidr("10.6.0.0/22", "10.6.1.7", "10.6.2.0/25"), cidr("10.7.0.128/25")}, 1022 - 1 - 128 + 126},
		{"dual stack", "", []v1alpha1.SubnetCIDR{cidr("10.6.0.0/23"), cidr("fd00:6::/118")}, 510},
		{"paired", v1alpha1.PairingIndex, []v1alpha1.SubnetCIDR{cidr("10.6.0.64/26", "10.6.0.70"), {CIDR: "fd00:6::/122", Gateway: "fd00:6::1"}}, 60},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for seed := range uint64(4) {
				cycles(t, subnet(t, tc.pair, tc.cidrs...), tc.all, rand.New(rand.NewPCG(seed, 5)))
			}
		})
	}
}

func cycles(t *testing.T, s *Subnet, all uint64, random *rand.Rand) {
	t.Helper()
	b := NewBook()
	sizes := map[string]uint64{}
	want := fmt.Sprint(all) // free of the scarcer family
	for range 100 {
		for range 10 {
			pool, size := fmt.Sprintf("p%d", random.IntN(8)), random.Uint64N(all/3+1)
			if random.IntN(4) == 0 {
				size = 0
			}
			_, err := ask(t, s, b, pool, size)
			if err == nil {
				sizes[pool] = size
			} else if !errors.Is(err, ErrShort) {
				t.Fatal(err)
			}
			for p, n := range sizes {
				for _, f := range s.Families() {
					if had, _ := b.Of(Owner{Pool: p}, s.Name, f); total(had) != n {
						t.Fatalf("pool %s has %s, %d addresses, want %d", p, had, total(had), n)
					}
				}
			}
			if random.IntN(3) == 0 {
				b.forget()
			}
		}
		// All but one go, and that one wants all that there is.
		for p := range sizes {
			if _, err := ask(t, s, b, p, 0); err != nil {
				t.Fatal(err)
			}
		}
		b.forget()
		if len(b.blocks) > 0 {
			t.Fatalf("%d blocks are left", len(b.blocks))
		}
		least := Tally(s, b, nil)[s.Families()[0]].Free.String()
		if least != want {
			t.Fatalf("%s free, want %s", least, want)
		}
		if _, err := ask(t, s, b, "p0", all); err != nil {
			t.Fatal(err)
		}
		if _, err := ask(t, s, b, "p1", 1); !errors.Is(err, ErrShort) {
			t.Fatalf("one more than all: %v", err)
		}
		if _, err := ask(t, s, b, "p0", 0); err != nil {
			t.Fatal(err)
		}
		b.forget()
		clear(sizes)
	}
}

// TestTakenOnly: of what several take the IPv4 blocks are written first, so that nobody has the second half of a pair before the first.
func TestTakenOnly(t *testing.T) {
	s, b := subnet(t, v1alpha1.PairingIndex, cidr("10.6.0.0/20"), cidr("fd00:6::/116")), NewBook()
	for _, pool := range []string{"a", "b", "c"} {
		if _, err := ask(t, s, b, pool, 200); err != nil {
			t.Fatal(err)
		}
	}
	b.TakenOnly()
	var got []string
	for _, x := range b.Changed() {
		got = append(got, x.First.String())
	}
	want := []string{"10.6.0.0", "10.6.1.0", "10.6.2.0", "fd00:6::", "fd00:6::100", "fd00:6::200"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
