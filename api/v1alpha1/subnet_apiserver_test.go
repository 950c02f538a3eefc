//go:build apiserver

package v1alpha1

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Each row is a Subnet as a person writes it, and what the refusal must say: the field, the value and what is wrong.
func TestTotalValidation(t *testing.T) {
	subnets := apiserver(t).Resource(GroupVersion.WithResource("subnets"))
	const cidrs = "cidrs: [{cidr: 10.6.0.0/16}]"
	for _, tc := range []struct {
		name, subnet, spec string
		want               []string // parts of the refusal; none: accepted
	}{
		{name: "IPv4", spec: `vlan: 910, cidrs: [{cidr: 10.6.0.0/16, gateway: 10.6.0.1, reserved: [10.6.0.1-10.6.0.9, 10.6.255.0/24, 10.6.7.7]}]`},
		{name: "both families", spec: `cidrs: [{cidr: 10.6.0.0/16}, {cidr: "fd00:6::/64", gateway: "fe80::2", reserved: ["fd00:6::-fd00:6::ff"]}]`},
		{name: "63 characters", subnet: strings.Repeat("a", 63), spec: cidrs},
		{name: "64 characters", subnet: strings.Repeat("a", 64), spec: cidrs, want: []string{"metadata.name", "is not a DNS label"}},
		{name: "a dot", subnet: "vlan.910", spec: cidrs, want: []string{`metadata.name "vlan.910" is not a DNS label`}},
		{name: "network", spec: "network: vlan.910, " + cidrs, want: []string{"spec.network", `network "vlan.910" is not a DNS label`}},
		{name: "no CIDR", spec: "cidrs: []", want: []string{"spec.cidrs"}},
		{name: "not a CIDR", spec: "cidrs: [{cidr: 10.6.0.0}]", want: []string{"spec.cidrs[0].cidr", `cidr "10.6.0.0" is not ADDRESS/LENGTH`}},
		{name: "host bits", spec: "cidrs: [{cidr: 10.6.0.1/16}]", want: []string{"spec.cidrs[0].cidr", "10.6.0.1/16 has host bits; write 10.6.0.0/16"}},
		{name: "multicast", spec: "cidrs: [{cidr: 224.0.0.0/8}]", want: []string{"224.0.0.0/8", "unicast"}},
		{name: "overlap", spec: `cidrs: [{cidr: 10.6.0.0/16}, {cidr: 10.6.7.0/24}]`, want: []string{"spec.cidrs", "cidr 10.6.0.0/16 overlaps or repeats another one of this subnet; merge them"}},
		{name: "repeated", spec: `cidrs: [{cidr: "fd00::/64"}, {cidr: "fd00::/64"}]`, want: []string{"cidr fd00::/64 overlaps or repeats"}},
		{name: "gateway", spec: "cidrs: [{cidr: 10.6.0.0/16, gateway: router}]", want: []string{"spec.cidrs[0].gateway", `gateway "router" is not an address`}},
		{name: "gateway outside", spec: "cidrs: [{cidr: 10.6.0.0/16, gateway: 10.7.0.1}]",
			want: []string{"spec.cidrs[0].gateway", "gateway 10.7.0.1 is not inside the cidr 10.6.0.0/16; name the address that the router has there"}},
		{name: "gateway of the other family", spec: `cidrs: [{cidr: "fd00:6::/64", gateway: 10.6.0.1}]`, want: []string{"gateway 10.6.0.1 is not inside the cidr fd00:6::/64 (nor link-local)"}},
		{name: "service gateway", spec: `cidrs: [{cidr: "fd00:6::/64", gateway: "fe80::1"}]`, want: []string{"spec.cidrs[0].gateway", "gateway fe80::1 is the service gateway"}},
		{name: "route without gw", spec: "cidrs: [{cidr: 10.6.0.0/16, routes: [{dst: 172.16.0.0/12}]}]", want: []string{"spec.cidrs[0].routes", "route to 172.16.0.0/12 has no gw"}},
		{name: "reserved", spec: "cidrs: [{cidr: 10.6.0.0/16, reserved: [10.6.0.5, 10.6.1]}]", want: []string{"spec.cidrs[0].reserved[1]", `reserved entry "10.6.1" is not an address, FIRST-LAST or a CIDR`}},
		{name: "reserved outside", spec: "cidrs: [{cidr: 10.6.0.0/16, reserved: [10.7.0.0-10.7.0.9]}]",
			want: []string{"spec.cidrs[0].reserved", "reserved entry 10.7.0.0-10.7.0.9 is not inside the cidr 10.6.0.0/16"}},
		{name: "reserved with host bits", spec: "cidrs: [{cidr: 10.6.0.0/16, reserved: [10.6.7.1/24]}]", want: []string{"reserved entry 10.6.7.1/24 has host bits; write 10.6.7.0/24"}},
		{name: "vlan 0", spec: "vlan: 0, " + cidrs, want: []string{"spec.vlan", "0", "greater than or equal to 1"}},
		{name: "vlan 4095", spec: "vlan: 4095, " + cidrs, want: []string{"spec.vlan", "4095", "less than or equal to 4094"}},
		{name: "pairs", spec: `pairing: index, cidrs: [{cidr: 10.6.0.0/16}, {cidr: "fd00:6::/112"}]`},
		{name: "pairs of different size", spec: `pairing: index, cidrs: [{cidr: 10.6.0.0/16}, {cidr: "fd00:6::/64"}]`, want: []string{"spec.pairing", "equally many host bits, such as 10.6.0.0/16 and fd00:6::/112"}},
		{name: "pairs of one family", spec: `pairing: index, cidrs: [{cidr: 10.6.0.0/16}, {cidr: 10.7.0.0/16}]`, want: []string{"spec.pairing", "one IPv4 and one IPv6"}},
		{name: "pairs of one CIDR", spec: "pairing: index, " + cidrs, want: []string{"spec.pairing", "needs two cidrs"}},
		{name: "operator", spec: cidrs + ", nodeAffinity: {matchExpressions: [{key: zone, operator: Equals}]}", want: []string{"spec.nodeAffinity", "In and NotIn"}},
		{name: "parent", spec: cidrs + ", parent: an-interface-of-17", want: []string{"spec.parent"}},
		{name: "unknown field", spec: cidrs + ", gateway: 10.6.0.1", want: []string{"gateway"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := tc.subnet
			if name == "" {
				name = "test"
			}
			_, err := create(t, subnets, "{apiVersion: berth.dev/v1alpha1, kind: Subnet, metadata: {name: "+name+"}, spec: {"+tc.spec+"}}")
			checkRefusal(t, err, tc.want)
		})
	}
}

func TestTotalUpdates(t *testing.T) {
	subnets := apiserver(t).Resource(GroupVersion.WithResource("subnets"))
	const paired = `network: a, pairing: index, cidrs: [{cidr: 10.6.0.0/24}, {cidr: "fd00:6::/120"}]`
	for _, tc := range []struct {
		name, from string
		change     func(spec map[string]any)
		want       []string
	}{
		{name: "network", from: paired, change: func(s map[string]any) { s["network"] = "b" }, want: []string{"spec.network", `network cannot be changed (it is "a")`}},
		{name: "pairing", from: paired, change: func(s map[string]any) { delete(s, "pairing") }, want: []string{"spec.pairing", "pairing cannot be changed"}},
		{name: "another CIDR", from: "cidrs: [{cidr: 10.6.0.0/24}]", change: func(s map[string]any) { s["cidrs"] = cidrsOf("10.6.0.0/24", "10.7.0.0/24") }},
		{name: "longer pairs", from: paired, change: func(s map[string]any) { s["cidrs"] = cidrsOf("10.6.0.0/23", "fd00:6::/119") }},
		{name: "other pairs", from: paired, change: func(s map[string]any) { s["cidrs"] = cidrsOf("10.6.0.0/24", "fd00:7::/120") }, want: []string{"spec.cidrs", "cannot begin elsewhere"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := create(t, subnets, "{apiVersion: berth.dev/v1alpha1, kind: Subnet, metadata: {name: test}, spec: {"+tc.from+"}}")
			if err != nil {
				t.Fatal(err)
			}
			spec, _, _ := unstructured.NestedMap(got.Object, "spec")
			tc.change(spec)
			got.Object["spec"] = spec
			_, err = subnets.Update(t.Context(), got, metav1.UpdateOptions{})
			checkRefusal(t, err, tc.want)
		})
	}
}

func cidrsOf(cidrs ...string) []any {
	var out []any
	for _, c := range cidrs {
		out = append(out, map[string]any{"cidr": c})
	}
	return out
}
