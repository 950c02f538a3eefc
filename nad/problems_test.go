package nad

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

func aPool(name string, change func(*v1alpha1.IPPoolSpec), cidrs ...string) v1alpha1.IPPool {
	p := v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, c := range cidrs {
		p.Spec.Subnets = append(p.Spec.Subnets, v1alpha1.PoolSubnet{CIDR: c})
	}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

func vlan(n int32) func(*v1alpha1.IPPoolSpec) {
	return func(s *v1alpha1.IPPoolSpec) { s.VLAN = &n }
}

// conf is a macvlan network: what is inside of its ipam section, and further keys.
func conf(ipam, more string) string {
	if ipam != "" {
		ipam = ", " + ipam
	}
	if more != "" {
		more = ", " + more
	}
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "n", "type": "macvlan", "ipam": {"type": "berth"%s}%s}`, ipam, more)
}

func TestProblems(t *testing.T) {
	mtu := int32(9000)
	network := v1alpha1.HostNetwork{ObjectMeta: metav1.ObjectMeta{Name: "lan", Generation: 2}}
	network.Spec = v1alpha1.HostNetworkSpec{Bond: &v1alpha1.Bond{Name: "bond0"}, VLANs: []int32{910, 911}, MTU: &mtu}
	network.Status.Nodes = []v1alpha1.HostNetworkNode{
		{Node: "node-a", Ready: true, ObservedGeneration: 2},
		{Node: "node-b", ObservedGeneration: 2, Message: "no link eth2", Links: []string{"bond0", "bond0.910"}},
		{Node: "node-c", ObservedGeneration: 1, Message: "of yesterday"},
	}
	cluster := Cluster{
		Pools: []v1alpha1.IPPool{
			aPool("zone-a", nil, "10.6.0.0/16"),
			aPool("six", nil, "fd00::/64"),
			aPool("p910", vlan(910), "10.9.0.0/16"),
			aPool("team", func(s *v1alpha1.IPPoolSpec) { s.Netspace = "team" }, "10.8.0.0/16"),
			aPool("closed", func(s *v1alpha1.IPPoolSpec) { s.Netspace = "closed" }, "10.7.0.0/16"),
			aPool("bare", func(s *v1alpha1.IPPoolSpec) { s.Steering = v1alpha1.SteeringNever }, "10.5.0.0/16"),
			aPool("strict", func(s *v1alpha1.IPPoolSpec) { s.SourceGuard = v1alpha1.SourceGuardRequired }, "10.4.0.0/16"),
			aPool("uncarved", func(s *v1alpha1.IPPoolSpec) { s.Subnet = "total" }),
		},
		Guests: map[string]bool{"team": true},
		Parents: ParentsOf([]v1alpha1.HostNetwork{network}, map[string]string{
			"node-a": "eth0=1500,eth1=1500/910,eth2=1500,eth9=-", "node-b": "eth0=9000,eth1=-,eth2=1500/910,eth9=-",
		}),
	}
	member := cluster
	member.Netspace = "team"
	for _, tt := range []struct {
		name, config string
		cluster      *Cluster // nil: cluster
		want         []string // a part of each problem
	}{
		{name: "well", config: conf("", "")},
		{name: "well, all said", config: conf(`"ippools": ["zone-*", "p910"], "steering": "Always"`, `"master": "bond0.910", "mode": "bridge", "mtu": 9000`)},
		{name: "empty: a file of Multus", config: " "},
		{name: "of another plugin", config: `{"type": "macvlan", "ipam": {"type": "host-local", "rangeStart": 7}, "mode": "odd"}`},
		{name: "no ipam", config: `{"type": "macvlan"}`},
		{name: "no JSON, nothing of Berth", config: `{"type": }`},
		{name: "no JSON", config: `{"type": "macvlan", "ipam": {"type": "berth"}`, want: []string{"config is not a JSON object: unexpected end"}},
		{name: "plugins of another form", config: `{"plugins": {"ipam": {"type": "berth"}}}`, want: []string{"plugins is not a list"}},
		{name: "main plugin", config: `{"type": "berth"}`, want: []string{`type "berth" is an IPAM plugin; write "type": "macvlan"`}},
		{name: "no type", config: `{"ipam": {"type": "berth"}}`, want: []string{`no type`}},
		{name: "misspelt", config: conf(`"ippool": ["zone-a"]`, ""), want: []string{"ipam ippool: unknown key"}},
		{name: "chain", config: `{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "macvlan", "ipam": {"type": "berth", "ippols": "a"}}, {"type": "tuning"}]}`,
			want: []string{"plugins[0]: ipam ippols: unknown key"}},
		{name: "chain of one", config: `{"name": "n", "plugins": [{"type": "macvlan", "ipam": {"type": "berth"}}]}`},
		{name: "chain with a null", config: `{"name": "n", "plugins": [null, {"type": "macvlan", "ipam": {"type": "berth"}}]}`},
		{name: "unknown pool", config: conf(`"ippools": ["zone-a", "zone-b"]`, ""), want: []string{`ipam ippools: there is no pool "zone-b"; make it`}},
		{name: "unknown pattern", config: conf(`"ipv4": ["x-*"]`, ""), want: []string{`ipam ipv4: no pool matches "x-*"`}},
		{name: "other family", config: conf(`"ipv4": ["six"]`, ""), want: []string{`ipam ipv4: pool "six" has no subnet of that family`}},
		{name: "its family", config: conf(`"ipv6": ["six", "uncarved"], "ipv4": ["uncarved"]`, "")},
		{name: "mode of none", config: conf("", `"mode": "brigde"`), want: []string{`mode "brigde" is none of macvlan's`}},
		{name: "mode without service path", config: conf("", `"mode": "private"`), want: []string{`mode "private" has no service path`}},
		{name: "and none wanted", config: conf(`"steering": "never"`, `"mode": "private"`)},
		{name: "and none in the pool", config: conf(`"ippools": "bare"`, `"mode": "vepa"`)},
		{name: "plugin without service path", config: `{"type": "bridge", "ipam": {"type": "berth", "steering": "Always"}}`, want: []string{`type "bridge" has no service path, and steering is Always`}},
		{name: "plugin without service path, which nobody wants", config: `{"type": "bridge", "ipam": {"type": "berth"}}`},
		{name: "guard", config: conf(`"ippools": "strict", "steering": "Never"`, `"mode": "private"`), want: []string{`pool "strict" has sourceGuard Required`}},
		{name: "MTU", config: conf("", `"master": "bond0", "mtu": 9001`), want: []string{`mtu 9001 is more than that of its master "bond0", 9000`}},
		{name: "MTU of none", config: conf("", `"master": "bond0", "mtu": "9000"`), want: []string{`mtu "9000" is no number`}},
		{name: "MTU of a parent that is not known", config: conf("", `"master": "eth8", "mtu": 9001`)},
		{name: "MTU of some node", config: conf("", `"master": "eth0", "mtu": 9000`), want: []string{`mtu 9000 is more than that of its master "eth0", 1500`}},
		{name: "parent that no node has", config: conf("", `"master": "eth9"`), want: []string{`master "eth9": no node has it, by the word of node-a, node-b`}},
		{name: "parent that some node has not", config: conf(`"ippools": "p910"`, `"master": "eth1"`)},
		{name: "VLAN of a parent that is in none", config: conf(`"ippools": "p910"`, `"master": "eth0"`), want: []string{`pool "p910" is of VLAN 910, and master "eth0" is in none`}},
		{name: "VLAN of which nodes do not agree", config: conf(`"ippools": "p910"`, `"master": "eth2"`)},
		{name: "parent missing", config: conf("", `"master": "bond0.911"`), want: []string{`master "bond0.911": HostNetwork "lan" has not made it on node-b (no link eth2)`}},
		{name: "VLAN by name", config: conf(`"ippools": "p910"`, `"master": "eth7.12"`), want: []string{`pool "p910" is of VLAN 910, and master "eth7.12" is in VLAN 12`}},
		{name: "VLAN by HostNetwork", config: conf(`"ippools": "p910"`, `"master": "bond0.911"`), want: []string{"has not made it", `pool "p910" is of VLAN 910, and master "bond0.911" is in VLAN 911`}},
		{name: "VLAN of a bond: perhaps an access port", config: conf(`"ippools": "p910"`, `"master": "bond0"`)},
		{name: "VLAN not known", config: conf(`"ippools": "p910"`, `"master": "eth8"`)},
		{name: "VLAN of the default route's link", config: conf(`"ippools": "p910"`, "")},
		{name: "guest", config: conf(`"ippools": "team"`, "")},
		{name: "no guest", config: conf(`"ippools": "closed"`, ""), want: []string{`pool "closed" serves netspace "closed" only, this namespace is of none`}},
		{name: "member", cluster: &member, config: conf(`"ippools": "team"`, "")},
		{name: "member elsewhere", cluster: &member, config: conf(`"ippools": ["closed", "zone-a"]`, ""),
			want: []string{`pool "closed" serves netspace "closed" only, and this namespace is of "team"`, `pool "zone-a" is of no netspace, and this namespace is of netspace "team"`}},
		{name: "more than one", config: conf(`"ippools": "gone"`, `"master": "bond0.911", "mtu": 9100, "mode": "passthru"`),
			want: []string{`mode "passthru"`, "has not made it", "mtu 9100", `no pool "gone"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := cluster
			if tt.cluster != nil {
				c = *tt.cluster
			}
			got := Problems(tt.config, c)
			if len(got) != len(tt.want) {
				t.Fatalf("%q, want %q", got, tt.want)
			}
			for i := range got {
				if !strings.Contains(got[i], tt.want[i]) {
					t.Errorf("%q, want %q", got[i], tt.want[i])
				}
			}
		})
	}
}

func TestParentsOf(t *testing.T) {
	small, large := int32(1500), int32(9000)
	a := v1alpha1.HostNetwork{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	a.Spec = v1alpha1.HostNetworkSpec{Parent: "eth0", VLANs: []int32{12}, MTU: &large}
	for i := range 5 {
		a.Status.Nodes = append(a.Status.Nodes, v1alpha1.HostNetworkNode{Node: fmt.Sprintf("node-%d", i)})
	}
	b := v1alpha1.HostNetwork{ObjectMeta: metav1.ObjectMeta{Name: "b"}}
	b.Spec = v1alpha1.HostNetworkSpec{Parent: "eth0", VLANs: []int32{12}, MTU: &small}
	want := map[string]Parent{"eth0.12": {
		MTU: 1500, VLAN: 12, Missing: `HostNetwork "a" has not made it on node-0, node-1, node-2 and 2 more`,
	}}
	if diff := cmp.Diff(want, ParentsOf([]v1alpha1.HostNetwork{a, b}, nil)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestVLANByName(t *testing.T) {
	for name, want := range map[string]int32{"bond0.910": 910, "eth0": 0, "eth0.": 0, "eth0.4095": 0, "eth0.4094": 4094, "eth0.0": 0, "eth0.07": 0, "eth0.1.2": 2, ".5": 0, "vlan910": 0, "eth0.99999": 0} {
		if got := VLANByName(name); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
}

// FuzzProblems: whatever a user writes has an answer, and the same again.
func FuzzProblems(f *testing.F) {
	f.Add(conf(`"ippools": ["a", "b-*"]`, `"master": "bond0.910", "mtu": 9000`))
	f.Add(`{"plugins": [null, {"type": "macvlan", "ipam": {"type": "berth"}}]}`)
	f.Add(`{"type": "berth"}`)
	c := Cluster{Pools: []v1alpha1.IPPool{aPool("a", vlan(3))}}
	f.Fuzz(func(t *testing.T, config string) {
		if diff := cmp.Diff(Problems(config, c), Problems(config, c)); diff != "" {
			t.Errorf("%q: %s", config, diff)
		}
	})
}
