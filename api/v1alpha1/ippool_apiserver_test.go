//go:build apiserver

package v1alpha1

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Each row is a subnet as a person writes it, and what the refusal must say: the field, the value and what is wrong.
func TestSubnetValidation(t *testing.T) {
	pools := apiserver(t).Resource(GroupVersion.WithResource("ippools"))
	for _, tc := range []struct {
		name, subnets string
		want          []string // parts of the refusal; none: accepted
	}{
		// The CIDR.
		{name: "IPv4", subnets: `[{cidr: 10.6.0.0/16, gateway: 10.6.0.1}]`},
		{name: "IPv6", subnets: `[{cidr: "2001:db8::/64", gateway: "2001:db8::1"}]`},
		{name: "dual stack", subnets: `[{cidr: 10.6.0.0/16}, {cidr: "2001:db8::/64"}]`},
		{name: "upper case", subnets: `[{cidr: "2001:DB8::/64", gateway: "2001:DB8::A"}]`},
		{name: "link-local IPv4", subnets: `[{cidr: 169.254.0.0/16}]`},
		{name: "/31", subnets: `[{cidr: 10.6.0.0/31, gateway: 10.6.0.0, ips: [10.6.0.1]}]`},
		{name: "/32", subnets: `[{cidr: 10.6.0.9/32, ips: [10.6.0.9]}]`},
		{name: "/127", subnets: `[{cidr: "2001:db8::/127", gateway: "2001:db8::", ips: ["2001:db8::1"]}]`},
		{name: "/128", subnets: `[{cidr: "2001:db8::9/128", ips: ["2001:db8::9/128"]}]`},
		{name: "no subnet", subnets: `[]`, want: []string{"spec.subnets", "subnets is empty; name at least one CIDR, a Subnet to carve it from in subnet, or another IPAM plugin in delegate"}},
		{name: "no CIDR", subnets: `[{gateway: 10.6.0.1}]`, want: []string{"spec.subnets[0].cidr"}},
		{name: "empty CIDR", subnets: `[{cidr: ""}]`, want: []string{"subnets[0].cidr", `cidr "" is not ADDRESS/LENGTH`}},
		{name: "no length", subnets: `[{cidr: 10.6.0.0}]`, want: []string{"subnets[0].cidr", `cidr "10.6.0.0" is not ADDRESS/LENGTH`}},
		{name: "length 33", subnets: `[{cidr: 10.6.0.0/33}]`, want: []string{"subnets[0].cidr", `"10.6.0.0/33"`}},
		{name: "leading zero", subnets: `[{cidr: 10.06.0.0/16}]`, want: []string{"subnets[0].cidr", `"10.06.0.0/16"`}},
		{name: "blank", subnets: `[{cidr: "10.6.0.0/16 "}]`, want: []string{"subnets[0].cidr", `"10.6.0.0/16 "`}},
		{name: "host bits", subnets: `[{cidr: 10.6.1.5/16}]`, want: []string{"subnets[0].cidr", "10.6.1.5/16 has host bits; write 10.6.0.0/16"}},
		{name: "IPv6 host bits", subnets: `[{cidr: "2001:db8::1/64"}]`, want: []string{"2001:db8::1/64 has host bits; write 2001:db8::/64"}},
		{name: "IPv4-mapped", subnets: `[{cidr: "::ffff:10.6.0.0/112"}]`, want: []string{"subnets[0].cidr", "::ffff:10.6.0.0/112"}},
		{name: "multicast", subnets: `[{cidr: 224.0.0.0/8}]`, want: []string{"subnets[0].cidr", "224.0.0.0/8", "unicast"}},
		{name: "loopback", subnets: `[{cidr: 127.0.0.0/8}]`, want: []string{"127.0.0.0/8", "unicast"}},
		{name: "everything", subnets: `[{cidr: 0.0.0.0/0}]`, want: []string{"0.0.0.0/0", "unicast"}},
		{name: "link-local IPv6", subnets: `[{cidr: "fe80::/64"}]`, want: []string{"fe80::/64", "unicast"}},
		{name: "repeated", subnets: `[{cidr: 10.6.0.0/16}, {cidr: 10.6.0.0/16}]`, want: []string{"spec.subnets", "subnet 10.6.0.0/16 overlaps or repeats"}},
		{name: "overlapping", subnets: `[{cidr: 10.6.1.0/24}, {cidr: "2001:db8::/64"}, {cidr: 10.6.0.0/16}]`,
			want: []string{"spec.subnets", "subnet 10.6.0.0/16 overlaps or repeats"}},
		{name: "overlapping IPv6", subnets: `[{cidr: "2001:db8::/32"}, {cidr: "2001:db8:1::/64"}]`, want: []string{"2001:db8::/32 overlaps"}},

		// The addresses to give out, and those not to.
		{name: "all forms", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.1.1, 10.6.1.5-10.6.1.9, 10.6.2.0/24], excludeIPs: [10.6.2.0/30, 10.6.1.7]}]`},
		{name: "all forms, IPv6", subnets: `[{cidr: "2001:db8::/64", ips: ["2001:db8::5", "2001:db8::9-2001:db8::a", "2001:db8::1:0/112"], excludeIPs: ["2001:db8::1:0"]}]`},
		{name: "range of one", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.1.1-10.6.1.1]}]`},
		{name: "range over a digit", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.1.9-10.6.1.10, 10.6.1.99-10.6.1.100, 10.6.2.255-10.6.10.0]}]`},
		{name: "range over a hex digit", subnets: `[{cidr: "2001:db8::/64", ips: ["2001:db8::9-2001:DB8::A", "2001:db8::ff-2001:db8::100"]}]`},
		{name: "range over groups", subnets: `[{cidr: "2001:db8::/32", ips: ["2001:db8::-2001:db8:0:0:1::", "2001:db8:0:1::2-2001:db8:0:1:1::"]}]`},
		{name: "range written differently", subnets: `[{cidr: "2001:db8::/32", ips: ["2001:0db8:0000::0001-2001:db8:0:0:0:0:0:2"]}]`},
		{name: "whole IPv6", subnets: `[{cidr: "2001:db8::/64", ips: ["2001:db8::-2001:db8::ffff:ffff:ffff:ffff"]}]`},
		{name: "malformed ips", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.1.1, 10.6.1]}]`,
			want: []string{"subnets[0].ips[1]", `ips entry "10.6.1" is not an address, FIRST-LAST or a CIDR`}},
		{name: "empty entry", subnets: `[{cidr: 10.6.0.0/16, ips: [""]}]`, want: []string{"subnets[0].ips[0]", `ips entry ""`}},
		{name: "short range", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.1.1-9]}]`, want: []string{"ips[0]", `"10.6.1.1-9"`}},
		{name: "open range", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.1.1-]}]`, want: []string{"ips[0]", `"10.6.1.1-"`}},
		{name: "range of three", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.1.1-10.6.1.2-10.6.1.3]}]`, want: []string{"ips[0]", `"10.6.1.1-10.6.1.2-10.6.1.3"`}},
		{name: "range of CIDRs", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.1.0/24-10.6.2.0/24]}]`, want: []string{"ips[0]", `"10.6.1.0/24-10.6.2.0/24"`}},
		{name: "mixed notation", subnets: `[{cidr: "2001:db8::/32", ips: ["2001:db8::10.6.0.1-2001:db8::10.6.0.9"]}]`, want: []string{"ips[0]", "2001:db8::10.6.0.1"}},
		{name: "host bits in ips", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.1.5/24]}]`, want: []string{"ips[0]", "10.6.1.5/24 has host bits; write 10.6.1.0/24"}},
		{name: "outside", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.1.1, 10.7.0.1]}]`,
			want: []string{"subnets[0].ips", "ips entry 10.7.0.1 is not inside the subnet 10.6.0.0/16"}},
		{name: "range outside", subnets: `[{cidr: 10.6.0.0/24, ips: [10.6.0.250-10.6.1.3]}]`, want: []string{"10.6.0.250-10.6.1.3 is not inside"}},
		{name: "CIDR outside", subnets: `[{cidr: 10.6.0.0/24, ips: [10.6.0.0/16]}]`, want: []string{"10.6.0.0/16 is not inside the subnet 10.6.0.0/24"}},
		{name: "other family", subnets: `[{cidr: 10.6.0.0/24, ips: ["2001:db8::1"]}]`, want: []string{"2001:db8::1 is not inside"}},
		{name: "IPv6 outside", subnets: `[{cidr: "2001:db8::/64", ips: ["2001:db8:0:1::1"]}]`, want: []string{"2001:db8:0:1::1 is not inside"}},
		{name: "mixed families", subnets: `[{cidr: 10.6.0.0/24, ips: ["10.6.0.1-2001:db8::1"]}]`, want: []string{"ips[0]", "10.6.0.1-2001:db8::1 mixes IPv4 and IPv6"}},
		{name: "reversed", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.1.20-10.6.1.10]}]`,
			want: []string{"subnets[0].ips[0]", "10.6.1.20-10.6.1.10 is reversed; write 10.6.1.10-10.6.1.20"}},
		{name: "reversed over a digit", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.1.10-10.6.1.9]}]`, want: []string{"is reversed; write 10.6.1.9-10.6.1.10"}},
		{name: "reversed over octets", subnets: `[{cidr: 10.6.0.0/16, ips: [10.6.10.0-10.6.9.255]}]`, want: []string{"is reversed"}},
		{name: "reversed IPv6", subnets: `[{cidr: "2001:db8::/64", ips: ["2001:db8::10-2001:db8::f"]}]`, want: []string{"is reversed; write 2001:db8::f-2001:db8::10"}},
		{name: "reversed over groups", subnets: `[{cidr: "2001:db8::/32", ips: ["2001:db8:0:0:1::-2001:db8::"]}]`, want: []string{"is reversed"}},
		{name: "reversed in the first group", subnets: `[{cidr: "2000::/3", ips: ["3000::1-2000::2"]}]`, want: []string{"is reversed"}},
		{name: "malformed excludeIPs", subnets: `[{cidr: 10.6.0.0/16, excludeIPs: [router]}]`, want: []string{"subnets[0].excludeIPs[0]", `excludeIPs entry "router"`}},
		{name: "exclude outside", subnets: `[{cidr: 10.6.0.0/16, excludeIPs: [10.7.0.1]}]`, want: []string{"subnets[0].excludeIPs", "excludeIPs entry 10.7.0.1 is not inside the subnet"}},
		{name: "exclude reversed", subnets: `[{cidr: 10.6.0.0/16, excludeIPs: [10.6.0.9-10.6.0.1]}]`, want: []string{"excludeIPs[0]", "reversed"}},
		{name: "exclude host bits", subnets: `[{cidr: 10.6.0.0/16, excludeIPs: [10.6.0.9/24]}]`, want: []string{"excludeIPs[0]", "write 10.6.0.0/24"}},

		// The gateway.
		{name: "gateway excluded", subnets: `[{cidr: 10.6.0.0/16, gateway: 10.6.1.1, ips: [10.6.1.0/24], excludeIPs: [10.6.1.0-10.6.1.3]}]`},
		{name: "gateway beside a range", subnets: `[{cidr: 10.6.0.0/16, gateway: 10.6.0.10, ips: [10.6.0.11-10.6.0.99, 10.6.0.1-10.6.0.9]}]`},
		{name: "link-local gateway", subnets: `[{cidr: "2001:db8::/64", gateway: "fe80::ff"}]`},
		{name: "link-local gateway, ranges", subnets: `[{cidr: "2001:db8::/64", gateway: "fe80::ff", ips: ["2001:db8::1-2001:db8::ffff"]}]`},
		{name: "malformed gateway", subnets: `[{cidr: 10.6.0.0/16, gateway: 10.6.0}]`, want: []string{"subnets[0].gateway", `gateway "10.6.0" is not an address`}},
		{name: "gateway with length", subnets: `[{cidr: 10.6.0.0/16, gateway: 10.6.0.1/16}]`, want: []string{"subnets[0].gateway", `"10.6.0.1/16"`}},
		{name: "gateway of other family", subnets: `[{cidr: 10.6.0.0/16, gateway: "fe80::1"}]`, want: []string{"subnets[0].gateway", "gateway fe80::1 is not inside the subnet 10.6.0.0/16"}},
		{name: "gateway outside", subnets: `[{cidr: 10.6.0.0/24, gateway: 10.6.1.1}]`, want: []string{"subnets[0].gateway", "gateway 10.6.1.1 is not inside the subnet 10.6.0.0/24"}},
		{name: "gateway is the network", subnets: `[{cidr: 10.6.0.0/24, gateway: 10.6.0.0}]`, want: []string{"gateway 10.6.0.0 is the network address"}},
		{name: "gateway is an entry", subnets: `[{cidr: 10.6.0.0/24, gateway: 10.6.0.1, ips: [10.6.0.1]}]`, want: []string{"gateway 10.6.0.1 is inside the ips"}},
		{name: "gateway in a range", subnets: `[{cidr: 10.6.0.0/24, gateway: 10.6.0.10, ips: [10.6.0.9-10.6.0.100]}]`, want: []string{"gateway 10.6.0.10 is inside the ips", "excludeIPs"}},
		{name: "gateway ends a range", subnets: `[{cidr: 10.6.0.0/24, gateway: 10.6.0.100, ips: [10.6.0.9-10.6.0.100]}]`, want: []string{"is inside the ips"}},
		{name: "gateway in a CIDR", subnets: `[{cidr: 10.6.0.0/24, gateway: 10.6.0.1, ips: [10.6.0.0/25]}]`, want: []string{"is inside the ips"}},
		{name: "gateway in an IPv6 range", subnets: `[{cidr: "2001:db8::/64", gateway: "2001:db8::1", ips: ["2001:db8::-2001:db8::9"]}]`, want: []string{"gateway 2001:db8::1 is inside the ips"}},

		// Routes.
		{name: "routes", subnets: `[{cidr: 10.6.0.0/16, gateway: 10.6.0.1, routes: [{dst: 172.16.0.0/12}, {dst: 0.0.0.0/0, gw: 10.6.0.254}]}]`},
		{name: "route via link-local", subnets: `[{cidr: "2001:db8::/64", routes: [{dst: "::/0", gw: "fe80::ff"}]}]`},
		{name: "malformed dst", subnets: `[{cidr: 10.6.0.0/16, gateway: 10.6.0.1, routes: [{dst: default}]}]`, want: []string{"subnets[0].routes[0].dst", `route dst "default"`}},
		{name: "dst with host bits", subnets: `[{cidr: 10.6.0.0/16, gateway: 10.6.0.1, routes: [{dst: 172.16.0.1/12}]}]`, want: []string{"routes[0].dst", "write 172.16.0.0/12"}},
		{name: "dst of other family", subnets: `[{cidr: 10.6.0.0/16, gateway: 10.6.0.1, routes: [{dst: "::/0"}]}]`, want: []string{"subnets[0].routes", "route to ::/0 is of another family than the subnet 10.6.0.0/16"}},
		{name: "malformed gw", subnets: `[{cidr: 10.6.0.0/16, routes: [{dst: 172.16.0.0/12, gw: here}]}]`, want: []string{"subnets[0].routes[0].gw", `route gw "here"`}},
		{name: "gw of other family", subnets: `[{cidr: 10.6.0.0/16, routes: [{dst: 172.16.0.0/12, gw: "fe80::1"}]}]`, want: []string{"route gw fe80::1 is not inside"}},
		{name: "gw outside", subnets: `[{cidr: 10.6.0.0/16, routes: [{dst: 172.16.0.0/12, gw: 10.7.0.1}]}]`, want: []string{"subnets[0].routes", "route gw 10.7.0.1 is not inside the subnet 10.6.0.0/16"}},
		{name: "no gw at all", subnets: `[{cidr: 10.6.0.0/16, routes: [{dst: 172.16.0.0/12}]}]`, want: []string{"route to 172.16.0.0/12 has no gw, and the subnet has no gateway"}},
		{name: "the second subnet", subnets: `[{cidr: 10.6.0.0/16}, {cidr: 10.7.0.0/16, gateway: 10.6.0.1}]`, want: []string{"subnets[1].gateway"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := create(t, pools, "{apiVersion: berth.dev/v1alpha1, kind: IPPool, metadata: {name: test}, spec: {subnets: "+tc.subnets+"}}")
			checkRefusal(t, err, tc.want)
		})
	}
}

func TestPoolValidation(t *testing.T) {
	pools := apiserver(t).Resource(GroupVersion.WithResource("ippools"))
	const subnets = "subnets: [{cidr: 10.6.0.0/16}]"
	for _, tc := range []struct {
		name, pool, spec string
		want             []string
	}{
		{name: "63 characters", pool: strings.Repeat("a", 63), spec: subnets},
		{name: "64 characters", pool: strings.Repeat("a", 64), spec: subnets, want: []string{"metadata.name", "is not a DNS label"}},
		{name: "a dot", pool: "zone.a", spec: subnets, want: []string{`metadata.name "zone.a" is not a DNS label`}},
		{name: "network", pool: "test", spec: "network: vlan910, " + subnets},
		{name: "network with a dot", pool: "test", spec: "network: vlan.910, " + subnets, want: []string{"spec.network", `network "vlan.910" is not a DNS label`}},
		{name: "empty network", pool: "test", spec: `network: "", ` + subnets, want: []string{"spec.network", `network ""`}},
		{name: "network too long", pool: "test", spec: "network: " + strings.Repeat("n", 64) + ", " + subnets, want: []string{"spec.network"}},
		{name: "selectors", pool: "test", spec: subnets + ", nodeAffinity: {matchLabels: {zone: a}}, podAffinity: {matchExpressions: [{key: app, operator: In, values: [quotes]}, {key: x, operator: Exists}]}"},
		{name: "router at the service gateway", pool: "test", spec: `subnets: [{cidr: 10.6.0.0/16, gateway: 10.6.0.1}, {cidr: "2001:db8::/64", gateway: "fe80::1"}]`,
			want: []string{"spec.subnets", "gateway fe80::1 is the service gateway", "another address of the router, or, unless by macvlan in bridge mode, set steering: Never"}},
		{name: "written differently", pool: "test", spec: `steering: Always, subnets: [{cidr: "2001:db8::/64", gateway: "FE80:0::0001"}]`, want: []string{"gateway FE80:0::0001 is"}},
		{name: "IPv4 router at the service gateway", pool: "test", spec: `steering: Auto, subnets: [{cidr: 169.254.0.0/16, gateway: 169.254.1.1}]`, want: []string{"gateway 169.254.1.1 is"}},
		{name: "route via the service gateway", pool: "test", spec: `subnets: [{cidr: "2001:db8::/64", gateway: "fe80::2", routes: [{dst: "::/1"}, {dst: "8000::/1", gw: "fe80::1"}]}]`, want: []string{"spec.subnets", "a route gw is the service gateway, 169.254.1.1 or fe80::1", "set steering: Never"}},
		{name: "no steering", pool: "test", spec: `steering: Never, subnets: [{cidr: 169.254.0.0/16, gateway: 169.254.1.1}, {cidr: "2001:db8::/64", gateway: "fe80::1", routes: [{dst: "::/1", gw: "fe80::1"}]}]`},
		{name: "operator", pool: "test", spec: subnets + ", nodeAffinity: {matchExpressions: [{key: zone, operator: Equals, values: [a]}]}", want: []string{"spec.nodeAffinity", "In and NotIn"}},
		{name: "In without values", pool: "test", spec: subnets + ", namespaceAffinity: {matchExpressions: [{key: zone, operator: In}]}", want: []string{"spec.namespaceAffinity"}},
		{name: "Exists with values", pool: "test", spec: subnets + ", podAffinity: {matchExpressions: [{key: zone, operator: Exists, values: [a]}]}", want: []string{"spec.podAffinity"}},
		{name: "steering", pool: "test", spec: subnets + ", steering: Sometimes", want: []string{"spec.steering", "Sometimes"}},
		{name: "source guard", pool: "test", spec: subnets + ", sourceGuard: Never", want: []string{"spec.sourceGuard", "Never"}},
		{name: "source guard required", pool: "test", spec: subnets + ", sourceGuard: Required"},
		{name: "unknown field", pool: "test", spec: subnets + ", gateway: 10.6.0.1", want: []string{"gateway"}},

		{name: "pairs", pool: "test", spec: `pairing: index, subnets: [{cidr: 10.6.0.0/24}, {cidr: "fd00:6::/120"}]`},
		{name: "pairs, IPv6 first", pool: "test", spec: `pairing: index, subnets: [{cidr: "fd00:6::/112"}, {cidr: 10.6.0.0/16}]`},
		{name: "pairs of different size", pool: "test", spec: `pairing: index, subnets: [{cidr: 10.6.0.0/24}, {cidr: "fd00:6::/64"}]`,
			want: []string{"spec.pairing", "pairing: index needs two subnets, one IPv4 and one IPv6, with equally many host bits, such as 10.6.0.0/24 and fd00:6::/120"}},
		{name: "pairs of one family", pool: "test", spec: `pairing: index, subnets: [{cidr: 10.6.0.0/24}, {cidr: 10.7.0.0/24}]`, want: []string{"spec.pairing", "one IPv4 and one IPv6"}},
		{name: "pairs of one subnet", pool: "test", spec: `pairing: index, subnets: [{cidr: 10.6.0.0/24}]`, want: []string{"spec.pairing", "needs two subnets"}},
		{name: "pairs of three subnets", pool: "test", spec: `pairing: index, subnets: [{cidr: 10.6.0.0/24}, {cidr: "fd00:6::/120"}, {cidr: 10.7.0.0/24}]`,
			want: []string{"spec.pairing", "needs two subnets"}},
		{name: "pairs with a malformed CIDR", pool: "test", spec: `pairing: index, subnets: [{cidr: 10.6.0.0/24}, {cidr: "fd00:6::"}]`, want: []string{"subnets[1].cidr", `cidr "fd00:6::"`}},
		{name: "pairs of a delegate", pool: "test", spec: `pairing: index, delegate: {type: dhcp}`, want: []string{"spec.pairing", "needs two subnets"}},
		{name: "pairing", pool: "test", spec: `pairing: random, subnets: [{cidr: 10.6.0.0/24}, {cidr: "fd00:6::/120"}]`, want: []string{"spec.pairing", "random"}},

		{name: "times", pool: "test", spec: subnets + ", cooldown: 1h30m, reservedFor: 720h"},
		{name: "no times", pool: "test", spec: subnets + ", cooldown: 0s, reservedFor: 0s"},
		{name: "fractions", pool: "test", spec: subnets + `, cooldown: 0.5s, reservedFor: "99999h"`},
		{name: "cooldown without unit", pool: "test", spec: subnets + `, cooldown: "30"`, want: []string{"spec.cooldown", `cooldown "30" is not a time such as 30s, 5m or 1h30m`}},
		{name: "cooldown, a number", pool: "test", spec: subnets + `, cooldown: 30`, want: []string{"spec.cooldown", "string"}},
		{name: "negative cooldown", pool: "test", spec: subnets + `, cooldown: -30s`, want: []string{"spec.cooldown", `cooldown "-30s" is not a time`}},
		{name: "cooldown of blanks", pool: "test", spec: subnets + `, cooldown: " 30s"`, want: []string{"spec.cooldown", `cooldown " 30s"`}},
		{name: "days", pool: "test", spec: subnets + ", reservedFor: 30d", want: []string{"spec.reservedFor", `reservedFor "30d" is not a time such as 30s, 12h or 720h`}},
		{name: "no end", pool: "test", spec: subnets + `, reservedFor: ""`, want: []string{"spec.reservedFor", `reservedFor "" is not a time`}},
		{name: "beyond what Go can parse", pool: "test", spec: subnets + `, reservedFor: "99999999h"`, want: []string{"spec.reservedFor", "at most 99999h"}},
		{name: "the longest that is accepted", pool: "test", spec: subnets + `, cooldown: "999999999s999999999s9999999m", reservedFor: "99999h99999h99999h99999h99999h9s"`},
		{name: "long cooldown", pool: "test", spec: subnets + `, cooldown: "1s1s1s1s1s1s1s1s1s1s1s1s1s1s1s1s1s"`, want: []string{"spec.cooldown", "32"}},

		{name: "delegate", pool: "test", spec: `delegate: {type: dhcp}`},
		{name: "delegate with configuration", pool: "test", spec: `delegate: {type: host-local, config: {ranges: [[{subnet: 10.6.0.0/24}]]}}`},
		{name: "delegate and subnets", pool: "test", spec: subnets + ", delegate: {type: dhcp}",
			want: []string{"spec.subnets", "a pool with delegate has no subnets: the addresses are of the other plugin"}},
		{name: "delegate to berth", pool: "test", spec: `delegate: {type: berth}`, want: []string{"spec.delegate.type", `delegate type "berth" is not the name of another IPAM plugin, such as dhcp`}},
		{name: "delegate to a path", pool: "test", spec: `delegate: {type: ../sbin/reboot}`, want: []string{"spec.delegate.type", `delegate type "../sbin/reboot"`}},
		{name: "delegate to nobody", pool: "test", spec: `delegate: {config: {}}`, want: []string{"spec.delegate.type", "Required"}},
		{name: "delegate with words for a configuration", pool: "test", spec: `delegate: {type: dhcp, config: "x"}`, want: []string{"spec.delegate.config", "object"}},
		{name: "neither delegate nor subnets", pool: "test", spec: `disabled: true`, want: []string{"spec.subnets", "subnets is empty"}},

		{name: "of a Subnet", pool: "test", spec: `network: a, subnet: office, size: 0, netspace: team-a, owner: {apiVersion: apps/v1, kind: Deployment, namespace: demo, name: web}, keep: true`},
		{name: "of the VLAN", pool: "test", spec: subnets + ", vlan: 4094"},
		{name: "VLAN 0", pool: "test", spec: subnets + ", vlan: 0", want: []string{"spec.vlan: Invalid value: 0:", "greater than or equal to 1"}},
		{name: "VLAN 4095", pool: "test", spec: subnets + ", vlan: 4095", want: []string{"spec.vlan: Invalid value: 4095:", "less than or equal to 4094"}},
		{name: "negative size", pool: "test", spec: "subnet: office, size: -1", want: []string{"spec.size: Invalid value: -1:", "greater than or equal to 0"}},
		{name: "larger than a pool may be", pool: "test", spec: "subnet: office, size: 65537", want: []string{"spec.size: Invalid value: 65537:", "less than or equal to 65536"}},
		{name: "no size", pool: "test", spec: "subnet: office", want: []string{"spec.size", "subnet and size go together"}},
		{name: "size of nothing", pool: "test", spec: subnets + ", size: 5", want: []string{"spec.size", "subnet and size go together"}},
		{name: "delegate and Subnet", pool: "test", spec: "delegate: {type: dhcp}, subnet: office, size: 5", want: []string{"spec.subnets", "a pool with delegate has no subnets"}},
		{name: "a tenant's default pool", pool: "test", spec: subnets + ", default: true, netspace: team-a", want: []string{"spec.default", "is no default pool"}},
		{name: "a workload's default pool", pool: "test", spec: subnets + ", default: true, owner: {apiVersion: apps/v1, kind: Deployment, namespace: demo, name: web}",
			want: []string{"spec.default", "is no default pool"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := create(t, pools, "{apiVersion: berth.dev/v1alpha1, kind: IPPool, metadata: {name: "+tc.pool+"}, spec: {"+tc.spec+"}}")
			checkRefusal(t, err, tc.want)
		})
	}
}

func TestNetworkIsImmutable(t *testing.T) {
	pools := apiserver(t).Resource(GroupVersion.WithResource("ippools"))
	p, err := create(t, pools, "{apiVersion: berth.dev/v1alpha1, kind: IPPool, metadata: {name: test}, spec: {network: vlan910, subnets: [{cidr: 10.6.0.0/16}, {cidr: 10.7.0.0/16}]}}")
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(spec map[string]any)) error {
		e := p.DeepCopy()
		change(e.Object["spec"].(map[string]any))
		_, err := pools.Update(t.Context(), e, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	checkRefusal(t, edit(func(s map[string]any) { s["network"] = "vlan911" }), []string{"spec.network", `network cannot be changed (it is "vlan910")`})
	checkRefusal(t, edit(func(s map[string]any) { delete(s, "network") }), []string{"spec.network", "cannot be changed"})
	checkRefusal(t, edit(func(s map[string]any) { s["disabled"] = true }), nil)
	checkRefusal(t, edit(func(s map[string]any) { s["subnets"] = s["subnets"].([]any)[1:] }), nil)
}

// Whose a pool is, and what it is carved from, is so for good: its pods have addresses of it.
func TestKindIsImmutable(t *testing.T) {
	pools := apiserver(t).Resource(GroupVersion.WithResource("ippools"))
	p, err := create(t, pools, `{apiVersion: berth.dev/v1alpha1, kind: IPPool, metadata: {name: test}, spec: {subnet: office, size: 4, netspace: team-a,
		owner: {apiVersion: apps/v1, kind: Deployment, namespace: demo, name: web}}}`)
	if err != nil {
		t.Fatal(err)
	}
	made := []string{"spec", "subnet, owner and netspace are said when the pool is made, or never; make another pool"}
	for _, tc := range []struct {
		name string
		edit func(spec map[string]any)
		want []string
	}{
		{"size", func(s map[string]any) { s["size"] = int64(8) }, nil},
		{"another Subnet", func(s map[string]any) { s["subnet"] = "store" }, []string{"spec.subnet", `subnet cannot be changed (it is "office"); make another pool`}},
		{"another netspace", func(s map[string]any) { s["netspace"] = "team-b" }, []string{"spec.netspace", `netspace cannot be changed (it is "team-a"); make another pool`}},
		{"another owner", func(s map[string]any) { s["owner"].(map[string]any)["name"] = "db" }, []string{"spec.owner", "owner cannot be changed: its pods have addresses of the pool"}},
		{"no netspace", func(s map[string]any) { delete(s, "netspace") }, made},
		{"no owner", func(s map[string]any) { delete(s, "owner") }, made},
		{"no Subnet", func(s map[string]any) {
			delete(s, "subnet")
			delete(s, "size")
			s["subnets"] = []any{map[string]any{"cidr": "10.6.0.0/16"}}
		}, made},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := p.DeepCopy()
			tc.edit(e.Object["spec"].(map[string]any))
			_, err := pools.Update(t.Context(), e, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
			checkRefusal(t, err, tc.want)
		})
	}
}

// What another plugin gave must be given back to it, with the configuration by which it gave it.
func TestDelegateIsImmutable(t *testing.T) {
	pools := apiserver(t).Resource(GroupVersion.WithResource("ippools"))
	p, err := create(t, pools, "{apiVersion: berth.dev/v1alpha1, kind: IPPool, metadata: {name: test}, spec: {delegate: {type: host-local, config: {a: {b: 1}}}}}")
	if err != nil {
		t.Fatal(err)
	}
	q, err := create(t, pools, "{apiVersion: berth.dev/v1alpha1, kind: IPPool, metadata: {name: other}, spec: {subnets: [{cidr: 10.6.0.0/16}]}}")
	if err != nil {
		t.Fatal(err)
	}
	subnets := []any{map[string]any{"cidr": "10.6.0.0/16"}}
	refused := []string{"spec.delegate", "delegate cannot be changed: what it gave must be given back to it; make another pool"}
	for _, tc := range []struct {
		name string
		of   *unstructured.Unstructured
		edit func(spec map[string]any)
		want []string
	}{
		{"type", p, func(s map[string]any) { s["delegate"].(map[string]any)["type"] = "dhcp" }, refused},
		{"configuration", p, func(s map[string]any) {
			s["delegate"].(map[string]any)["config"] = map[string]any{"a": map[string]any{"b": int64(2)}}
		}, refused},
		{"no configuration", p, func(s map[string]any) { delete(s["delegate"].(map[string]any), "config") }, refused},
		{"to subnets", p, func(s map[string]any) { delete(s, "delegate"); s["subnets"] = subnets }, refused},
		{"to a delegate", q, func(s map[string]any) { delete(s, "subnets"); s["delegate"] = map[string]any{"type": "dhcp"} }, refused},
		{"something else", p, func(s map[string]any) { s["disabled"] = true }, nil},
		{"something else without delegate", q, func(s map[string]any) { s["disabled"] = true }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := tc.of.DeepCopy()
			tc.edit(e.Object["spec"].(map[string]any))
			_, err := pools.Update(t.Context(), e, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
			checkRefusal(t, err, tc.want)
		})
	}
}

func TestDefaults(t *testing.T) {
	pools := apiserver(t).Resource(GroupVersion.WithResource("ippools"))
	p, err := create(t, pools, "{apiVersion: berth.dev/v1alpha1, kind: IPPool, metadata: {name: test}, spec: {subnets: [{cidr: 10.6.0.0/16}]}}")
	if err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{"network": "default", "steering": "Auto", "sourceGuard": "Enabled", "cooldown": "30s"} {
		if got, _, _ := unstructured.NestedString(p.Object, "spec", field); got != want {
			t.Errorf("%s %q, want %q", field, got, want)
		}
	}
}

// A pool of the greatest size that the schema allows must not exceed what the server spends on one request.
func TestLargestPool(t *testing.T) {
	pools := apiserver(t).Resource(GroupVersion.WithResource("ippools"))
	var subnets []string
	for s := range 8 {
		var ips []string
		for r := range 128 {
			ips = append(ips, `"2001:db8:`+hex(s)+`::`+hex(r)+`:1-2001:db8:`+hex(s)+`::`+hex(r)+`:ff00"`)
		}
		list := "[" + strings.Join(ips, ",") + "]"
		net := "2001:db8:" + hex(s)
		subnets = append(subnets, `{cidr: "`+net+`::/64", gateway: "`+net+`:0:ffff::1", ips: `+list+`, excludeIPs: `+list+`}`)
	}
	_, err := create(t, pools, "{apiVersion: berth.dev/v1alpha1, kind: IPPool, metadata: {name: test}, spec: {subnets: ["+strings.Join(subnets, ",")+"]}}")
	checkRefusal(t, err, nil)
}

func hex(i int) string {
	const digits = "0123456789abcdef"
	return string([]byte{digits[i>>8&15], digits[i>>4&15], digits[i&15]})
}

// checkRefusal wants an error with all of the parts; without parts, none.
func checkRefusal(t *testing.T, err error, parts []string) {
	t.Helper()
	if len(parts) == 0 {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	if err == nil {
		t.Errorf("accepted, want a refusal with %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("refusal %q lacks %q", err, p)
		}
	}
	for _, bad := range []string{"rule:", "evaluation error", "no such"} {
		if strings.Contains(err.Error(), bad) {
			t.Errorf("refusal %q shows the machinery (%q)", err, bad)
		}
	}
}
