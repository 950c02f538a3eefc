package ipam

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/berthdev/berth/api/v1alpha1"
)

const pairing = "pairing: index"

func TestPairs(t *testing.T) {
	for _, tc := range []struct {
		name, subnets string
		want          string // ranges of both families
		pairs         map[string]string
	}{
		{"whole subnets", `{cidr: 10.6.0.0/29}, {cidr: "fd00:6::/125"}`, "10.6.0.1-10.6.0.6 fd00:6::1-fd00:6::6",
			map[string]string{"10.6.0.1": "fd00:6::1", "10.6.0.6": "fd00:6::6"}},
		{"IPv6 first", `{cidr: "fd00:6::/125"}, {cidr: 10.6.0.0/29}`, "10.6.0.1-10.6.0.6 fd00:6::1-fd00:6::6",
			map[string]string{"10.6.0.1": "fd00:6::1"}},
		{"only what both have", `{cidr: 10.6.0.0/24, ips: ["10.6.0.10-10.6.0.20"], excludeIPs: ["10.6.0.12"]}, {cidr: "fd00:6::/120", ips: ["fd00:6::e-fd00:6::ff", "fd00:6::5"], excludeIPs: ["fd00:6::10"]}`,
			"10.6.0.14-10.6.0.15,10.6.0.17-10.6.0.20 fd00:6::e-fd00:6::f,fd00:6::11-fd00:6::14", map[string]string{"10.6.0.14": "fd00:6::e"}},
		{"gateways fall out of both", `{cidr: 10.6.0.0/29, gateway: 10.6.0.1}, {cidr: "fd00:6::/125", gateway: "fd00:6::6"}`, "10.6.0.2-10.6.0.5 fd00:6::2-fd00:6::5", nil},
		{"none", `{cidr: 10.6.0.0/24, ips: ["10.6.0.1"]}, {cidr: "fd00:6::/120", ips: ["fd00:6::2"]}`, " ", nil},
		{"the whole of IPv4", `{cidr: 0.0.0.0/0}, {cidr: "fd00::/96"}`, "0.0.0.1-169.254.1.0,169.254.1.2-255.255.255.254 fd00::1-fd00::a9fe:100,fd00::a9fe:102-fd00::ffff:fffe",
			map[string]string{"255.255.255.254": "fd00::ffff:fffe"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := pool(t, "p", "subnets: ["+tc.subnets+"]", pairing)
			if got := p.Ranges(IPv4).String() + " " + p.Ranges(IPv6).String(); got != tc.want {
				t.Errorf("usable %s, want %s", got, tc.want)
			}
			if p.Ranges(IPv4).Count().Cmp(p.Ranges(IPv6).Count()) != 0 || !p.Paired() {
				t.Error("more of one family than of the other")
			}
			for a, b := range tc.pairs {
				if p.Partner(addr(a)) != addr(b) || p.Partner(addr(b)) != addr(a) {
					t.Errorf("%s is with %s, and %s with %s", a, p.Partner(addr(a)), b, p.Partner(addr(b)))
				}
			}
			if got := p.Partner(addr("192.0.2.1")); tc.name != "the whole of IPv4" && got.IsValid() {
				t.Errorf("a stranger is with %s", got)
			}
		})
	}
}

func TestNoPairs(t *testing.T) {
	for name, subnets := range map[string]string{
		"one subnet":         `{cidr: 10.6.0.0/24}`,
		"one family":         `{cidr: 10.6.0.0/24}, {cidr: 10.7.0.0/24}`,
		"three":              `{cidr: 10.6.0.0/24}, {cidr: 10.7.0.0/24}, {cidr: "fd00:6::/120"}`,
		"of different sizes": `{cidr: 10.6.0.0/24}, {cidr: "fd00:6::/64"}`,
	} {
		_, err := Compile(manifest(t, "p", "{subnets: ["+subnets+"], pairing: index}"))
		if want := `pool "p": pairing: index needs two subnets, one IPv4 and one IPv6, with equally many host bits`; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}

// Whatever ranges the families have: what is usable has a usable partner, whose partner it is, at the same offset.
func TestPairsProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name, first string) []string {
			var out []string
			for range rapid.IntRange(1, 4).Draw(t, name) {
				from := rapid.IntRange(1, 250).Draw(t, name+" from")
				to := rapid.IntRange(from, 254).Draw(t, name+" to")
				at := func(n int) string { a := addr(first); return add(a, uint64(n)).String() }
				out = append(out, at(from)+"-"+at(to))
			}
			return out
		}
		m := &v1alpha1.IPPool{}
		m.Name, m.Spec.Pairing = "p", v1alpha1.PairingIndex
		m.Spec.Subnets = []v1alpha1.PoolSubnet{{CIDR: "10.6.0.0/24", IPs: draw("v4", "10.6.0.0")}, {CIDR: "fd00:6::/120", IPs: draw("v6", "fd00:6::")}}
		p, err := Compile(m)
		if err != nil {
			t.Fatal(err)
		}
		one := &v1alpha1.IPPool{}
		one.Name = "p"
		one.Spec.Subnets = m.Spec.Subnets
		alone, err := Compile(one)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 256 {
			a, b := add(addr("10.6.0.0"), uint64(i)), add(addr("fd00:6::"), uint64(i))
			usable := alone.Contains(a) && alone.Contains(b)
			if p.Contains(a) != usable || p.Contains(b) != usable {
				t.Fatalf("%s: %t, %s: %t; want %t", a, p.Contains(a), b, p.Contains(b), usable)
			}
			if usable && (p.Partner(a) != b || p.Partner(b) != a) {
				t.Fatalf("%s is with %s, %s with %s", a, p.Partner(a), b, p.Partner(b))
			}
			if four, six := a.As4(), b.As16(); binary.BigEndian.Uint32(four[:])&0xff != uint32(six[15]) {
				t.Fatal(a, b)
			}
		}
	})
}

// What a paired pool makes of what is asked for.
func TestPlanPaired(t *testing.T) {
	pools := []*Pool{
		pool(t, "pairs", `subnets: [{cidr: 10.6.0.0/24}, {cidr: "fd00:6::/120"}]`, pairing, "default: true"),
		pool(t, "six", `subnets: [{cidr: "fd00:7::/120"}]`, "default: true"),
		pool(t, "plain", `subnets: [{cidr: 10.8.0.0/24}, {cidr: "fd00:8::/120"}]`),
	}
	for _, tc := range []struct {
		name   string
		wants  []Want
		asked  Asked
		target Target
		want   string // "" with err
		err    string
	}{
		{name: "both families", wants: []Want{want("", "pairs")}, want: "pairs(4 6)"},
		{name: "one family alone", wants: []Want{want(IPv4, "pairs")}, err: `pool "pairs" pairs its addresses, and gives no IPv4 address alone; name it for both families`},
		{name: "one family, another pool", wants: []Want{want(IPv6, "pairs", "six")}, want: "six(6)"},
		{name: "asked for by IPv4", wants: []Want{want("", "pairs")}, asked: Asked{All: addrs("10.6.0.5")}, want: "pairs(10.6.0.5 6)"},
		{name: "asked for by IPv6", wants: []Want{want("", "pairs")}, asked: Asked{All: addrs("fd00:6::5")}, want: "pairs(10.6.0.5 6)"},
		{name: "asked for by both", wants: []Want{want("", "pairs")}, asked: Asked{All: addrs("fd00:6::5", "10.6.0.5")}, want: "pairs(10.6.0.5 6)"},
		{name: "asked for two that are no pair", wants: []Want{want("", "pairs")}, asked: Asked{All: addrs("10.6.0.5", "fd00:6::6")},
			err: `10.6.0.5, fd00:6::6 asked for, but not given out by pool "pairs"; ask for an address inside (with its partner, or alone: the pool is paired)`},
		{name: "asked for a stranger", wants: []Want{want("", "pairs")}, asked: Asked{All: addrs("fd00:9::5")}, err: "address outside the pools"},
		{name: "one of, by IPv4", wants: []Want{want("", "pairs")}, asked: Asked{OneOf: addrs("10.6.0.5", "10.6.0.6")}, want: "pairs(4:10.6.0.5|10.6.0.6 6)"},
		{name: "one of, by IPv6", wants: []Want{want("", "pairs")}, asked: Asked{OneOf: addrs("fd00:6::5", "fd00:6::6")}, want: "pairs(4:10.6.0.5|10.6.0.6 6)"},
		{name: "one of, by both", wants: []Want{want("", "pairs")}, asked: Asked{OneOf: addrs("10.6.0.5", "10.6.0.6", "fd00:6::6", "fd00:6::7")}, want: "pairs(4:10.6.0.6 6)"},
		{name: "one of, by both, and no pair", wants: []Want{want("", "pairs")}, asked: Asked{OneOf: addrs("10.6.0.5", "fd00:6::6")}, err: "the pool is paired"},
		{name: "one of, partly outside", wants: []Want{want("", "plain")}, asked: Asked{OneOf: addrs("10.8.0.5", "10.9.0.5")}, want: "plain(4:10.8.0.5 6)"},
		{name: "one of, all outside", wants: []Want{want("", "plain")}, asked: Asked{OneOf: addrs("10.9.0.5")}, err: "10.9.0.5 asked for, but not given out by"},
		{name: "one of, of the other family's pool", wants: []Want{want(IPv6, "six")}, asked: Asked{OneOf: addrs("10.9.0.5")}, err: "no pool of that family is"},
		{name: "kept comes first", wants: []Want{want("", "pairs", "plain")}, target: kept(nodeA, "10.8.0.7", "plain"), want: "plain(4 6), pairs(4 6)"},
		{name: "kept after held", wants: []Want{want("", "six", "pairs", "plain")}, target: kept(holding(nodeA, "10.8.0.9", "plain"), "10.6.0.7", "pairs"), want: "plain(4 6), pairs(4 6), six(6)"},
		{name: "kept, of the other family", wants: []Want{want(IPv6, "six", "plain")}, target: kept(nodeA, "10.8.0.7", "plain"), want: "six(6), plain(6)"},
		{name: "kept, of a pool that is not named", wants: []Want{want("", "pairs")}, target: kept(nodeA, "10.8.0.7", "plain"), want: "pairs(4 6)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.target.NodeName == "" {
				tc.target = nodeA
			}
			plan, _, err := Plan(pools, tc.wants, tc.asked, tc.target)
			switch {
			case tc.err != "":
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%s, %v\nwant %s", text(plan), err, tc.err)
				}
			case err != nil:
				t.Error(err)
			default:
				if diff := cmp.Diff(tc.want, text(plan)); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
			}
		})
	}
	// By default a pair is wanted where a default pool gives pairs: one from a pool of each family would be none.
	if diff := cmp.Diff([]Want{want("", "pairs")}, DefaultWants(pools, nodeA)); diff != "" {
		t.Errorf("by default (-want +got)\n%s", diff)
	}
}

// A pool that refuses the pod today keeps no address for it: it is one of the others, or none.
func TestKeptByAPoolThatRefuses(t *testing.T) {
	pools := []*Pool{
		pool(t, "off", `subnets: [{cidr: 10.6.0.0/24}]`, "disabled: true"),
		pool(t, "zone-b", `subnets: [{cidr: 10.7.0.0/24}]`, "nodeAffinity: {matchLabels: {zone: b}}"),
		pool(t, "plain", `subnets: [{cidr: 10.8.0.0/24}]`),
	}
	target := nodeA
	target.Kept = map[netip.Addr]string{addr("10.6.0.5"): "off", addr("10.7.0.5"): "zone-b"}
	plan, _, err := Plan(pools, []Want{want("", "off", "zone-b", "plain")}, Asked{}, target)
	if err != nil || text(plan) != "plain(4)" {
		t.Errorf("%s, %v", text(plan), err)
	}
}

func kept(t Target, a, pool string) Target {
	t.Kept = map[netip.Addr]string{addr(a): pool}
	return t
}
