package netspaces

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

func netspace(t *testing.T, name string, age int64, spec string) *v1alpha1.Netspace {
	t.Helper()
	n := &v1alpha1.Netspace{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", CreationTimestamp: metav1.Unix(1000-age, 0)}}
	if err := yaml.UnmarshalStrict([]byte(spec), &n.Spec); err != nil {
		t.Fatal(err)
	}
	return n
}

func subnet(t *testing.T, name string, age int64, spec string) v1alpha1.Subnet {
	t.Helper()
	s := v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(1000-age, 0)}}
	if err := yaml.UnmarshalStrict([]byte(spec), &s.Spec); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMembersOf(t *testing.T) {
	all, _ := ipam.NewNetspaces([]*v1alpha1.Netspace{
		netspace(t, "old", 9, "{namespaces: [a, not-there]}"), netspace(t, "young", 1, "{namespaces: [a, b], namespaceSelector: {matchLabels: {team: c}}}"),
	})
	var spaces []corev1.Namespace
	for name, team := range map[string]string{"a": "", "b": "", "c": "c", "d": "d"} {
		spaces = append(spaces, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}})
	}
	opts := cmp.AllowUnexported(members{})
	if diff := cmp.Diff(members{has: []string{"b", "c"}, taken: map[string]string{"a": "old"}}, membersOf("young", all, spaces), opts); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(members{has: []string{"a"}, taken: map[string]string{}}, membersOf("old", all, spaces), opts); diff != "" {
		t.Error(diff)
	}
	got := membersOf("young", all, spaces).refusals(netspace(t, "young", 1, "{namespaceSelector: {matchExpressions: [{key: a, operator: Inn}]}}"))
	if len(got) != 2 || got[0].reason != reasonMalformed || got[1].reason != reasonTaken || !strings.Contains(got[1].message, `namespace "a" is of netspace "old"`) {
		t.Errorf("%+v", got)
	}
}

func TestWhole(t *testing.T) {
	share := subnet(t, "share", 1, "{netspace: team}")
	share.Labels = map[string]string{LabelShareOf: "total"}
	going := subnet(t, "going", 1, "{netspace: team}")
	going.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	own, refusals := whole(netspace(t, "team", 1, "{subnets: [mine, theirs, nobodys, missing, going]}"), []v1alpha1.Subnet{
		subnet(t, "mine", 1, "{netspace: team}"), subnet(t, "theirs", 1, "{netspace: m}"), subnet(t, "nobodys", 1, "{}"), subnet(t, "unnamed", 1, "{netspace: team}"), share, going,
	})
	if len(own) != 1 || own[0].Name != "mine" {
		t.Errorf("own %+v", own)
	}
	var got []string
	for _, r := range refusals {
		got = append(got, r.message)
	}
	for i, want := range []string{`Subnet "unnamed" says netspace "team", which does not name it`, `Subnet "theirs" is netspace "m"'s`, `Subnet "nobodys" is of no netspace`, `there is no Subnet "missing"`, `Subnet "going" is being deleted`} {
		if i >= len(got) || !strings.Contains(got[i], want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestParseVLANs(t *testing.T) {
	for s, want := range map[string]vlanRange{"910-929": {910, 929}, "910": {910, 910}, "1-4094": {1, 4094}} {
		if got, err := parseVLANs(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "0-9", "9-4095", "929-910", "a-b", "9-", "-9", "1-2-3"} {
		if got, err := parseVLANs(s); err == nil || !strings.Contains(err.Error(), "such as 910-929") {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
}

func TestPickVLAN(t *testing.T) {
	r := vlanRange{910, 912}
	for _, tc := range []struct {
		name string
		have []v1alpha1.Subnet
		want int32 // 0: none
	}{
		{"none", nil, 910},
		{"on the link", []v1alpha1.Subnet{subnet(t, "a", 1, "{vlan: 910, parent: bond0.910}")}, 911},
		{"on another link", []v1alpha1.Subnet{subnet(t, "a", 1, "{vlan: 910, parent: bond1.910}")}, 910},
		{"nobody knows where", []v1alpha1.Subnet{subnet(t, "a", 1, "{vlan: 910}")}, 911},
		{"a gap", []v1alpha1.Subnet{subnet(t, "a", 1, "{vlan: 912}"), subnet(t, "b", 1, "{vlan: 910}")}, 911},
		{"all", []v1alpha1.Subnet{subnet(t, "a", 1, "{vlan: 912}"), subnet(t, "b", 1, "{vlan: 910}"), subnet(t, "c", 1, "{vlan: 911}")}, 0},
	} {
		if got, ok := r.pick("bond0", tc.have); got != tc.want || ok != (tc.want != 0) {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestRival(t *testing.T) {
	const waiting = `parent: bond0.910, cidrs: [{cidr: 10.1.0.0/24, reserved: [10.1.0.0/24]}]`
	child := subnet(t, "m", 5, "{vlan: 910, parent: bond0.910}")
	const none, wins, waits = "none", "wins", "waits"
	for _, tc := range []struct {
		other v1alpha1.Subnet
		want  string
	}{
		{subnet(t, "older", 6, "{vlan: 910, "+waiting+"}"), wins},
		{subnet(t, "a", 5, "{vlan: 910, "+waiting+"}"), wins},
		{subnet(t, "z", 5, "{vlan: 910, "+waiting+"}"), waits},
		{subnet(t, "younger", 4, "{vlan: 910, "+waiting+"}"), waits},
		{subnet(t, "younger", 4, "{vlan: 910, parent: bond0.910, cidrs: [{cidr: 10.1.0.0/24}]}"), wins},
		{subnet(t, "older", 6, "{vlan: 911, parent: bond0.911}"), none},
		{subnet(t, "older", 6, "{vlan: 910, parent: bond1.910}"), none},
		{subnet(t, "m", 6, "{vlan: 910, parent: bond0.910}"), none},
	} {
		got := none
		if other, first := rival(&child, "bond0", []v1alpha1.Subnet{tc.other}); other != nil && first {
			got = wins
		} else if other != nil {
			got = waits
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", tc.other.Name, got, tc.want)
		}
	}
}

func TestChildName(t *testing.T) {
	v := int32(910)
	long := strings.Repeat("x", 60)
	for _, tc := range []struct {
		parent string
		vlan   *int32
		want   string
	}{
		{"total", &v, "total-910"}, {"total", nil, "total-team"}, {long, &v, long[:54] + "-" + childName(long, "team", &v)[55:]},
	} {
		if got := childName(tc.parent, "team", tc.vlan); got != tc.want || len(got) > 63 {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
	if w := int32(911); childName(long, "team", &v) == childName(long, "team", &w) {
		t.Error("two VLANs have one name")
	}
}

func TestShareLink(t *testing.T) {
	for _, tc := range []struct{ share, parent, want string }{
		{"{subnet: s, size: 8, vlans: 1-9, parent: bond0}", "{parent: eth0}", "bond0"},
		{"{subnet: s, size: 8, vlans: 1-9}", "{parent: eth0.12, vlan: 12}", "eth0"},
		{"{subnet: s, size: 8, vlans: 1-9}", "{parent: eth0.12}", "eth0.12"}, // for all that is known its own
		{"{subnet: s, size: 8}", "{parent: eth0.12, vlan: 12}", "eth0.12"},
		{"{subnet: s, size: 8}", "{}", ""},
	} {
		parent := subnet(t, "s", 1, tc.parent)
		if got := shareLink(netspace(t, "n", 1, "{share: "+tc.share+"}"), &parent); got != tc.want {
			t.Errorf("%s of %s: %q, want %q", tc.share, tc.parent, got, tc.want)
		}
	}
}

// TestChildIsPending: nothing can be carved from it before it has its addresses, and it is known not to have them.
func TestChildIsPending(t *testing.T) {
	parent := subnet(t, "s", 1, `{vlan: 7, parent: eth0.7, pairing: index, nodeAffinity: {matchLabels: {zone: a}}, cidrs: [{cidr: 10.6.0.0/24, gateway: 10.6.0.1}, {cidr: "fd00::/120"}]}`)
	v := int32(9)
	c := newChild(netspace(t, "n", 1, "{share: {subnet: s, size: 8, vlans: 9-9}}"), &parent, &v)
	if !pending(c) || *c.Spec.VLAN != 9 || c.Spec.Parent != "eth0.9" || c.Spec.Network != "s-9" || c.Spec.Pairing != "index" || c.Spec.NodeAffinity == nil || !childOf(c, netspace(t, "n", 1, "{}"), "s") {
		t.Errorf("%+v", c)
	}
	var err error
	if c.Spec.CIDRs, err = cidrs(&parent, []netip.Prefix{netip.MustParsePrefix("10.6.0.8/29")}, true); err != nil || pending(c) {
		t.Errorf("%+v, %v", c.Spec, err)
	}
}

func TestCIDRs(t *testing.T) {
	parent := subnet(t, "s", 1, `{cidrs: [{cidr: 10.6.0.0/24, gateway: 10.6.0.1, routes: [{dst: 172.16.0.0/12}, {dst: 192.0.2.0/24, gw: 10.6.0.9}]}, {cidr: "fd00::/64"}]}`)
	both := []netip.Prefix{netip.MustParsePrefix("10.6.0.64/26"), netip.MustParsePrefix("fd00::40/122")}
	for _, tc := range []struct {
		own  bool
		want []v1alpha1.SubnetCIDR
	}{
		{true, []v1alpha1.SubnetCIDR{{CIDR: "10.6.0.64/26", Gateway: "10.6.0.65", Routes: []v1alpha1.Route{{Dst: "172.16.0.0/12"}}}, {CIDR: "fd00::40/122"}}},
		{false, []v1alpha1.SubnetCIDR{
			{CIDR: "10.6.0.0/24", Gateway: "10.6.0.1", Routes: parent.Spec.CIDRs[0].Routes, Reserved: []string{"10.6.0.0-10.6.0.63", "10.6.0.128-10.6.0.255"}},
			{CIDR: "fd00::/64", Reserved: []string{"fd00::-fd00::3f", "fd00::80-fd00::ffff:ffff:ffff:ffff"}},
		}},
	} {
		got, err := cidrs(&parent, both, tc.own)
		if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
			t.Errorf("VLAN of its own %v: %v, -want +got\n%s", tc.own, err, diff)
		}
	}
	if _, err := cidrs(&parent, []netip.Prefix{netip.MustParsePrefix("10.7.0.0/26")}, true); err == nil || !strings.Contains(err.Error(), "in none of its CIDRs any more") {
		t.Errorf("%v", err)
	}
}

func TestSizeOf(t *testing.T) {
	for _, tc := range []struct{ now, used, most, want int64 }{
		{0, 0, 1000, 16}, {0, 0, 13, 13}, {16, 0, 1000, 16}, {16, 1, 1000, 32}, {32, 16, 1000, 32}, {32, 17, 1000, 48},
		{64, 0, 1000, 64}, {96, 0, 1000, 16}, {96, 40, 1000, 96}, // shrinks when much is spare
		{32, 30, 40, 40}, {40, 40, 40, 40}, {32, 0, -5, 0}, {65000, 65000, 1 << 40, 65024}, {65500, 65530, 1 << 40, 65536},
	} {
		if got := sizeOf(tc.now, tc.used, tc.most); got != tc.want {
			t.Errorf("%d now, %d used, %d at most: %d, want %d", tc.now, tc.used, tc.most, got, tc.want)
		}
	}
}

func TestLeast(t *testing.T) {
	s := subnet(t, "s", 1, "{}")
	s.Generation = 2
	s.Status = v1alpha1.SubnetStatus{ObservedGeneration: 1, IPv4: &v1alpha1.SubnetCount{Total: "13"}}
	if n, ok := least(&s); ok {
		t.Errorf("%d of a status of before", n)
	}
	s.Status.ObservedGeneration = 2
	s.Status.IPv6 = &v1alpha1.SubnetCount{Total: "18446744073709551616"}
	if n, ok := least(&s); !ok || n != 13 {
		t.Errorf("%d, %v", n, ok)
	}
	s.Status.IPv4 = nil
	if n, ok := least(&s); !ok || n != mostSize {
		t.Errorf("%d, %v", n, ok)
	}
}
