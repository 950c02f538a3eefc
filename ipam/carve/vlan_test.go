package carve

import (
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
)

func TestOneVLAN(t *testing.T) {
	spec := func(s string) *v1alpha1.SubnetSpec {
		t.Helper()
		out := &v1alpha1.SubnetSpec{}
		if err := yaml.UnmarshalStrict([]byte(s), out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, tc := range []struct {
		name, a, b string
		want       bool
	}{
		{"one wire", "{network: x, vlan: 910, parent: bond0.910}", "{network: y, vlan: 910, parent: bond0.910}", true},
		{"the default network", "{vlan: 910, parent: bond0.910}", "{network: y, vlan: 910, parent: bond0.910}", true},
		{"one network", "{network: x, vlan: 910, parent: bond0.910}", "{network: x, vlan: 910, parent: bond0.910}", false},
		{"the default network by name", "{vlan: 910, parent: bond0.910}", "{network: default, vlan: 910, parent: bond0.910}", false},
		{"another VLAN", "{network: x, vlan: 910, parent: bond0.910}", "{network: y, vlan: 911, parent: bond0.911}", false},
		{"another link", "{network: x, vlan: 910, parent: bond0.910}", "{network: y, vlan: 910, parent: bond1.910}", false},
		{"no VLAN", "{network: x, parent: eth0}", "{network: y, parent: eth0}", false},
		{"nobody knows where", "{network: x, vlan: 910}", "{network: y, vlan: 910}", false},
		{"other nodes", "{network: x, vlan: 910, parent: b.910, nodeAffinity: {matchLabels: {rack: a}}}",
			"{network: y, vlan: 910, parent: b.910, nodeAffinity: {matchLabels: {rack: b}}}", false},
		{"the same nodes", "{network: x, vlan: 910, parent: b.910, nodeAffinity: {matchLabels: {rack: a}}}",
			"{network: y, vlan: 910, parent: b.910, nodeAffinity: {matchLabels: {rack: a}}}", true},
		{"some of all nodes", "{network: x, vlan: 910, parent: b.910, nodeAffinity: {matchLabels: {rack: a}}}", "{network: y, vlan: 910, parent: b.910}", true},
		{"other clusters", "{network: x, vlan: 910, parent: b.910, clusters: [east]}", "{network: y, vlan: 910, parent: b.910, clusters: [west]}", false},
		{"one cluster of both", "{network: x, vlan: 910, parent: b.910, clusters: [east, west]}", "{network: y, vlan: 910, parent: b.910, clusters: [west]}", true},
		{"all clusters", "{network: x, vlan: 910, parent: b.910, clusters: [east]}", "{network: y, vlan: 910, parent: b.910}", true},
	} {
		a, b := spec(tc.a), spec(tc.b)
		if got := OneVLAN(a, b); got != tc.want || OneVLAN(b, a) != got {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}
