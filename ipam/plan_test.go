package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"
)

var (
	v4 = Want{Family: IPv4}
	v6 = Want{Family: IPv6}
)

func want(f Family, patterns ...string) Want { return Want{Patterns: patterns, Family: f} }

// testPools: of zones a and b, for both families, one family, and with each thing that can be wrong.
func testPools(t testing.TB) []*Pool {
	const s = `subnets: [{cidr: 10.6.0.0/24}, {cidr: "2001:db8::/64"}]`
	return []*Pool{ // not sorted
		pool(t, "zone-b", s, "nodeAffinity: {matchLabels: {zone: b}}"),
		pool(t, "zone-a", s, "nodeAffinity: {matchLabels: {zone: a}}"),
		pool(t, "zone-a2", `subnets: [{cidr: 10.7.0.0/24}]`, "nodeAffinity: {matchLabels: {zone: a}}"),
		pool(t, "four", `subnets: [{cidr: 10.8.0.0/24}]`, "default: true"),
		pool(t, "six", `subnets: [{cidr: "2001:db8:6::/64"}]`, "default: true"),
		pool(t, "off", s, "disabled: true", "default: true"),
		pool(t, "nothing", `subnets: [{cidr: 10.9.0.0/24, ips: ["10.9.0.1"], excludeIPs: ["10.9.0.1"]}]`),
		pool(t, "team", s, "namespaceAffinity: {matchLabels: {team: x}}"),
		pool(t, "app", s, "podAffinity: {matchLabels: {app: x}}"),
		CompileOrRefuse(manifest(t, "broken", "{subnets: [{cidr: 10.6.0.1/24}]}")),
	}
}

var nodeA = Target{NodeName: "n1", Namespace: "ns", Pod: "web-0", NodeLabels: labels.Set{"zone": "a"},
	NamespaceLabels: labels.Set{"team": "y"}, PodLabels: labels.Set{"app": "y"}}

func holding(t Target, a, pool string, more ...string) Target {
	t.Held = map[netip.Addr]string{addr(a): pool}
	for i := 0; i < len(more); i += 2 {
		t.Held[addr(more[i])] = more[i+1]
	}
	return t
}

// text of a plan: options of a want by ",", wants by ";".
func text(plan [][]Option) string {
	var wants []string
	for _, options := range plan {
		var list []string
		for _, o := range options {
			var picks []string
			for _, p := range o.Picks {
				s := strings.TrimPrefix(string(p.Family), "IPv")
				if p.Address.IsValid() {
					s = p.Address.String()
				}
				for i, a := range p.OneOf {
					s += []string{":", "|"}[min(i, 1)] + a.String()
				}
				picks = append(picks, s)
			}
			s := fmt.Sprintf("%s(%s)", o.Pool.Name, strings.Join(picks, " "))
			if o.Refused != "" {
				s += "!"
			}
			list = append(list, s)
		}
		wants = append(wants, strings.Join(list, ", "))
	}
	return strings.Join(wants, "; ")
}

func TestPlan(t *testing.T) {
	pools := testPools(t)
	for _, tc := range []struct {
		name    string
		wants   []Want
		asked   []netip.Addr
		target  Target
		want    string
		skipped []string
	}{
		{name: "one pool, both its families", wants: []Want{want("", "zone-a")}, want: "zone-a(4 6)"},
		{name: "in the order of the list", wants: []Want{want("", "four", "zone-a", "zone-a2")}, want: "four(4), zone-a(4 6), zone-a2(4)"},
		{name: "those of another zone are passed over", wants: []Want{want("", "zone-b", "zone-a")}, want: "zone-a(4 6)"},
		{name: "wildcard in order of names", wants: []Want{want("", "zone-*")}, want: "zone-a(4 6), zone-a2(4)"},
		{name: "each pool once, where it comes first", wants: []Want{want("", "zone-a2", "zone-*", "zone-a")}, want: "zone-a2(4), zone-a(4 6)"},
		{name: "question mark", wants: []Want{want("", "zone-??")}, want: "zone-a2(4)"},
		{name: "one family", wants: []Want{want(IPv6, "zone-*")}, want: "zone-a(6)"},
		{name: "a list for each family", wants: []Want{want(IPv4, "zone-a2", "zone-a"), want(IPv6, "six", "zone-a")}, want: "zone-a2(4), zone-a(4); six(6), zone-a(6)"},
		{name: "unknown beside known", wants: []Want{want("", "zone-x", "zone-a", "y-*")}, want: "zone-a(4 6)",
			skipped: []string{`pool "zone-x" does not exist; correct the name, or create it`, `no pool matches "y-*"; correct it, or create one that does`}},
		{name: "default pools", wants: []Want{v4, v6}, want: "four(4); six(6)"},
		{name: "default pools, whichever family", wants: []Want{{}}, want: "four(4), six(6)"},

		{name: "asked for", wants: []Want{want("", "zone-a")}, asked: addrs("10.6.0.9"), want: "zone-a(10.6.0.9 6)"},
		{name: "asked for both", wants: []Want{want("", "zone-a")}, asked: addrs("2001:db8::9", "10.6.0.9"), want: "zone-a(10.6.0.9 2001:db8::9)"},
		{name: "asked for two of a family", wants: []Want{want("", "zone-a")}, asked: addrs("10.6.0.9", "10.6.0.8"), want: "zone-a(10.6.0.9 10.6.0.8 6)"},
		{name: "only pools that have it", wants: []Want{want("", "zone-a", "zone-a2", "four")}, asked: addrs("10.7.0.9"), want: "zone-a2(10.7.0.9)"},
		{name: "asked for by family", wants: []Want{want(IPv4, "zone-a", "zone-a2"), want(IPv6, "six")}, asked: addrs("10.7.0.9"), want: "zone-a2(10.7.0.9); six(6)"},

		{name: "held comes first", wants: []Want{want("", "four", "zone-a2")}, target: holding(nodeA, "10.7.0.9", "zone-a2"), want: "zone-a2(4), four(4)"},
		{name: "held in a pool of another zone by now", wants: []Want{want("", "zone-a2", "zone-b")},
			target: holding(nodeA, "10.6.0.9", "zone-b", "2001:db8::9", "zone-b"), want: "zone-b(4 6)!, zone-a2(4)"},
		{name: "held in a disabled pool, nothing new of it", wants: []Want{want("", "off", "four")}, target: holding(nodeA, "10.6.0.9", "off"), want: "off(4)!, four(4)"},
		{name: "held in a pool that is no default by now", wants: []Want{v4, v6}, target: holding(nodeA, "10.7.0.9", "zone-a2"), want: "zone-a2(4), four(4); six(6)"},
		{name: "held in a pool that lost the range", wants: []Want{want("", "nothing")}, target: holding(nodeA, "10.9.0.1", "nothing"), want: "nothing(4)!"},
		{name: "held, asked for, and out of the range by now", wants: []Want{want("", "zone-a2")}, asked: addrs("10.7.5.5"),
			target: holding(nodeA, "10.7.5.5", "zone-a2"), want: "zone-a2(10.7.5.5)"},
		{name: "held in a pool that is not named any more", wants: []Want{want("", "four")}, target: holding(nodeA, "10.7.0.9", "zone-a2"), want: "four(4)"},
		{name: "held in a pool that is gone and not named any more", wants: []Want{want("", "four")}, target: holding(nodeA, "10.7.0.9", "gone"), want: "four(4)"},
		{name: "held in a pool that is gone, of another family", wants: []Want{v6}, target: holding(nodeA, "10.7.0.9", "gone"), want: "six(6)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.target.NodeName == "" {
				tc.target = nodeA
			}
			plan, skipped, err := Plan(pools, tc.wants, Asked{All: tc.asked}, tc.target)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, text(plan)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(tc.skipped, skipped); diff != "" {
				t.Errorf("skipped (-want +got)\n%s", diff)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	pools := testPools(t)
	for _, tc := range []struct {
		name  string
		pools []*Pool
		wants []Want
		asked []netip.Addr
		err   error
		want  string
		held  string // 10.6.0.9 of it
	}{
		{name: "what it holds is of a pool that is gone", wants: []Want{want("", "gone", "four")}, held: "gone", err: ErrNoPool,
			want: `no pool: the interface has 10.6.0.9 of pool "gone", which does not exist; create the pool again, or delete the pod`},
		{name: "which a pattern named", wants: []Want{want("", "four", "g*")}, held: "gone", err: ErrNoPool, want: `of pool "gone", which does not exist`},
		{name: "which was a default", wants: []Want{v6, v4}, held: "gone", err: ErrNoPool, want: `of pool "gone", which does not exist`},
		{name: "unknown", wants: []Want{want("", "zone-x", "q*")}, err: ErrNoPool,
			want: `no pool of pools zone-x, q* serves this interface on node "n1": pool "zone-x" does not exist; correct the name, or create it; no pool matches "q*"`},
		{name: "node", wants: []Want{want("", "zone-b")}, err: ErrNoPool, want: `pool "zone-b" does not serve node "n1" (nodeAffinity zone=b)`},
		{name: "namespace", wants: []Want{want("", "team")}, err: ErrNoPool, want: `pool "team" does not serve namespace "ns" (namespaceAffinity team=x)`},
		{name: "pod", wants: []Want{want("", "app")}, err: ErrNoPool, want: `pool "app" does not serve pod "ns/web-0" (podAffinity app=x)`},
		{name: "disabled", wants: []Want{want("", "off")}, err: ErrNoPool, want: `pool "off" is disabled`},
		{name: "malformed", wants: []Want{want("", "broken")}, err: ErrNoPool, want: `pool "broken" is malformed: pool "broken": subnets[0].cidr: CIDR "10.6.0.1/24" has host bits`},
		{name: "family", wants: []Want{want(IPv6, "four")}, err: ErrNoPool, want: `no pool of pools four (IPv6) serves this interface on node "n1": pool "four" has no IPv6 addresses`},
		{name: "nothing left", wants: []Want{want("", "nothing")}, err: ErrNoPool, want: `pool "nothing" gives out no address: everything in ips is excluded`},
		{name: "each says why", wants: []Want{want("", "off", "zone-b")}, err: ErrNoPool, want: `pool "off" is disabled; pool "zone-b" does not serve node`},
		{name: "the second want", wants: []Want{want(IPv4, "four"), want(IPv6, "four")}, err: ErrNoPool, want: "has no IPv6 addresses"},
		{name: "no default", pools: []*Pool{pools[0]}, wants: []Want{{}}, err: ErrNoPool, want: `no pool of the default pools serves this interface on node "n1": no pool is marked default; name one by the annotation berth.dev/ippool`},
		{name: "outside", wants: []Want{want("", "zone-a", "zone-a2")}, asked: addrs("10.99.0.1"), err: ErrOutside,
			want: `address outside the pools: 10.99.0.1 asked for, but not given out by pool "zone-a", pool "zone-a2"; ask for an address inside, or name its pool`},
		{name: "network address", wants: []Want{want("", "zone-a")}, asked: addrs("10.6.0.0"), err: ErrOutside},
		{name: "in no single pool", wants: []Want{want("", "zone-a2", "four")}, asked: addrs("10.7.0.1", "10.8.0.1"), err: ErrOutside},
		{name: "no pool of the family", wants: []Want{want(IPv4, "zone-a")}, asked: addrs("2001:db8::9"), err: ErrOutside,
			want: "2001:db8::9 asked for, but no pool of that family is"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.pools == nil {
				tc.pools = pools
			}
			target := nodeA
			if tc.held != "" {
				target = holding(nodeA, "10.6.0.9", tc.held)
			}
			plan, _, err := Plan(tc.pools, tc.wants, Asked{All: tc.asked}, target)
			if !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s, %v\nwant %q", text(plan), err, tc.want)
			}
		})
	}
}

func TestDefaultWants(t *testing.T) {
	pools := testPools(t)
	const s = `subnets: [{cidr: 10.6.0.0/24}, {cidr: "2001:db8::/64"}]`
	dual := pool(t, "dual", s, "default: true")
	pairs := pool(t, "pairs", `subnets: [{cidr: 10.5.0.0/24}, {cidr: "2001:db8:5::/120"}]`, "default: true", pairing)
	other := pool(t, "other", s, "default: true", "nodeAffinity: {matchLabels: {zone: b}}")
	for _, tc := range []struct {
		name   string
		pools  []*Pool
		target Target
		want   []Want
	}{
		{"a pool for each family", pools, nodeA, []Want{v4, v6}},
		{"one for both", []*Pool{dual}, nodeA, []Want{v4, v6}},
		{"only one family", []*Pool{pools[4], other}, nodeA, []Want{v6}},
		{"none", []*Pool{pools[0], other}, nodeA, []Want{{}}},
		{"what is held", []*Pool{pools[4], other}, holding(nodeA, "10.6.0.9", "other"), []Want{v4, v6}},
		{"pairs", []*Pool{pools[3], pairs}, nodeA, []Want{want("", "pairs")}},
		{"pairs, but something else is held", []*Pool{pools[3], pools[4], pairs}, holding(nodeA, "10.8.0.9", "four"), []Want{v4, v6}},
		{"pairs are held", []*Pool{pools[3], pairs}, holding(nodeA, "10.5.0.9", "pairs", "2001:db8:5::9", "pairs"), []Want{want("", "pairs")}},
	} {
		if diff := cmp.Diff(tc.want, DefaultWants(tc.pools, tc.target)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tc.name, diff)
		}
	}
}

func TestSettled(t *testing.T) {
	dual := []Want{{Patterns: []string{"zone-a"}}}
	for _, tc := range []struct {
		name       string
		wants      []Want
		asked      Asked
		held, kept map[netip.Addr]string
		want       bool
	}{
		{"nothing is known", dual, Asked{}, nil, nil, false},
		{"one family is kept", dual, Asked{}, nil, map[netip.Addr]string{addr("10.6.0.1"): "zone-a"}, false},
		{"one family is held", dual, Asked{}, map[netip.Addr]string{addr("10.6.0.1"): "zone-a"}, nil, false},
		{"both are kept", dual, Asked{}, nil, map[netip.Addr]string{addr("10.6.0.1"): "zone-a", addr("2001:db8::1"): "zone-a"}, true},
		{"one is held, one kept", dual, Asked{}, map[netip.Addr]string{addr("10.6.0.1"): "zone-a"}, map[netip.Addr]string{addr("2001:db8::1"): "zone-a"}, true},
		{"kept of another pool", dual, Asked{}, nil, map[netip.Addr]string{addr("10.6.0.1"): "zone-b", addr("2001:db8::1"): "zone-b"}, false},
		{"all is asked for by address", dual, Asked{All: []netip.Addr{addr("10.6.0.1"), addr("2001:db8::1")}}, nil, nil, true},
		{"kept is not one of those asked for", []Want{want(IPv4, "zone-a")}, Asked{OneOf: []netip.Addr{addr("10.6.0.2")}}, nil, map[netip.Addr]string{addr("10.6.0.1"): "zone-a"}, false},
		{"the second want has nothing", []Want{want(IPv4, "zone-a"), want(IPv6, "six")}, Asked{}, nil, map[netip.Addr]string{addr("10.6.0.1"): "zone-a"}, false},
		{"the pool with what is kept comes first", []Want{want(IPv4, "zone-a", "zone-a2")}, Asked{}, nil, map[netip.Addr]string{addr("10.7.0.1"): "zone-a2"}, true},
		{"a delegate's", []Want{want(IPv4, "dhcp")}, Asked{}, nil, nil, false},
		{"a delegate's, kept", []Want{want(IPv4, "dhcp")}, Asked{}, nil, map[netip.Addr]string{addr("10.5.0.1"): "dhcp"}, true},
	} {
		target := nodeA
		target.Held, target.Kept = tc.held, tc.kept
		pools := append(testPools(t), pool(t, "dhcp", "delegate: {type: dhcp}"))
		plan, _, err := Plan(pools, tc.wants, tc.asked, target)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if got := target.Settled(plan); got != tc.want {
			t.Errorf("%s: settled %t", tc.name, got)
		}
	}
}
