//go:build apiserver

package v1alpha1

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestHostNetworkValidation(t *testing.T) {
	r := apiserver(t).Resource(GroupVersion.WithResource("hostnetworks"))
	for _, tc := range []struct {
		name, hostNetwork, spec string
		want                    []string // parts of the refusal; none: accepted
	}{
		{name: "bond and VLANs", spec: `{bond: {name: bond0, members: [eth1, eth2], primary: eth1}, vlans: [910, 4094], mtu: 9000, moveAddresses: true, nodeSelector: {matchLabels: {rack: a}}}`},
		{name: "bond alone", spec: `{bond: {name: bond0, members: [enp1s0f0np0, enp1s0f1np1], mode: 802.3ad, miimon: 50}}`},
		{name: "VLANs on a card", spec: `{parent: eth1, vlans: [1]}`},
		{name: "on a VLAN", spec: `{parent: bond0.910, vlans: [7]}`},
		{name: "name", hostNetwork: strings.Repeat("a", 64), spec: `{parent: eth1, vlans: [1]}`, want: []string{"metadata.name", "is not a DNS label", "alias"}},
		{name: "a dot", hostNetwork: "a.b", spec: `{parent: eth1, vlans: [1]}`, want: []string{`metadata.name "a.b" is not a DNS label`}},

		{name: "nothing", spec: `{}`, want: []string{"spec.bond", "neither bond nor parent; say which bond to make, or on which link"}},
		{name: "both", spec: `{bond: {name: bond0, members: [eth1, eth2]}, parent: eth3}`, want: []string{"spec.bond", "bond and parent exclude each other", "take parent eth3 out"}},
		{name: "a parent alone", spec: `{parent: eth1}`, want: []string{"spec.vlans", "nothing is made on parent eth1; name VLANs in vlans"}},
		{name: "addresses of a parent", spec: `{parent: eth1, vlans: [1], moveAddresses: true}`, want: []string{"spec.moveAddresses", "is for members of a bond"}},

		{name: "one member", spec: `{bond: {name: bond0, members: [eth1]}}`, want: []string{"spec.bond.members", "a bond has at least two members, and eth1 is alone; name another card, or make VLANs on the card itself with parent"}},
		{name: "no member", spec: `{bond: {name: bond0, members: []}}`, want: []string{"spec.bond.members", "none is named"}},
		{name: "the same twice", spec: `{bond: {name: bond0, members: [eth1, eth1]}}`, want: []string{"spec.bond.members[1]", "Duplicate", "eth1"}},
		{name: "itself", spec: `{bond: {name: bond0, members: [eth1, bond0]}}`, want: []string{"spec.bond.name", "bond bond0 is its own member"}},
		{name: "loopback", spec: `{bond: {name: bond0, members: [eth1, lo]}}`, want: []string{"spec.bond.members[1]", `member "lo" is not the name of a network card`}},
		{name: "blank member", spec: `{bond: {name: bond0, members: [eth1, "eth 2"]}}`, want: []string{"members[1]", `member "eth 2"`}},
		{name: "long member", spec: `{bond: {name: bond0, members: [eth1, abcdefghijklmnop]}}`, want: []string{"members[1]", "15"}},
		{name: "primary elsewhere", spec: `{bond: {name: bond0, members: [eth1, eth2], primary: eth3}}`, want: []string{"spec.bond.primary", "primary eth3 is not among the members eth1, eth2"}},
		{name: "primary in another mode", spec: `{bond: {name: bond0, members: [eth1, eth2], mode: 802.3ad, primary: eth1}}`, want: []string{"spec.bond.primary", "primary has no meaning in mode 802.3ad; take it out, or set mode: active-backup"}},
		{name: "mode", spec: `{bond: {name: bond0, members: [eth1, eth2], mode: lacp}}`, want: []string{"spec.bond.mode", `"lacp"`, "802.3ad"}},
		{name: "miimon", spec: `{bond: {name: bond0, members: [eth1, eth2], miimon: 0}}`, want: []string{"spec.bond.miimon"}},
		{name: "bond name", spec: `{bond: {name: "bond/0", members: [eth1, eth2]}}`, want: []string{"spec.bond.name", `bond name "bond/0" is not letters`}},
		{name: "of the service path", spec: `{bond: {name: vmac7, members: [eth1, eth2]}}`, want: []string{"spec.bond.name", `bond name "vmac7"`, "service path"}},
		{name: "bond name too long", spec: `{bond: {name: abcdefghijklmnop, members: [eth1, eth2]}}`, want: []string{"spec.bond.name", "15"}},

		{name: "VLAN 0", spec: `{parent: eth1, vlans: [0]}`, want: []string{"spec.vlans[0]"}},
		{name: "VLAN 4095", spec: `{parent: eth1, vlans: [7, 4095]}`, want: []string{"spec.vlans[1]", "4094"}},
		{name: "VLAN twice", spec: `{parent: eth1, vlans: [7, 7]}`, want: []string{"spec.vlans[1]", "Duplicate"}},
		{name: "name of a VLAN link", spec: `{bond: {name: datacenter, members: [eth1, eth2]}, vlans: [910]}`},
		{name: "name of a VLAN link too long", spec: `{bond: {name: datacenter0, members: [eth1, eth2]}, vlans: [910, 4000]}`,
			want: []string{"spec.vlans", "a link name has at most 15 characters, and a VLAN on datacenter0 would have more, as datacenter0.ID; use a shorter name"}},
		{name: "the same on a parent", spec: `{parent: enp129s0f1np1, vlans: [910]}`, want: []string{"spec.vlans", "a VLAN on enp129s0f1np1 would have more"}},
		{name: "MTU", spec: `{parent: eth1, vlans: [7], mtu: 1000}`, want: []string{"spec.mtu", "1280"}},
		{name: "parent", spec: `{parent: lo, vlans: [7]}`, want: []string{"spec.parent", `parent "lo" is not the name of a link that can carry VLANs`}},
		{name: "selector", spec: `{parent: eth1, vlans: [7], nodeSelector: {matchExpressions: [{key: rack, operator: In}]}}`, want: []string{"spec.nodeSelector", "operators are In and NotIn (with values)"}},
		{name: "typing error", spec: `{parent: eth1, vlan: [7]}`, want: []string{`unknown field "spec.vlan"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := tc.hostNetwork
			if name == "" {
				name = "test"
			}
			_, err := create(t, r, "{apiVersion: berth.dev/v1alpha1, kind: HostNetwork, metadata: {name: "+name+"}, spec: "+tc.spec+"}")
			checkRefusal(t, err, tc.want)
		})
	}
	t.Run("defaults", func(t *testing.T) {
		got, err := create(t, r, `{apiVersion: berth.dev/v1alpha1, kind: HostNetwork, metadata: {name: test}, spec: {bond: {name: bond0, members: [eth1, eth2]}}}`)
		if err != nil {
			t.Fatal(err)
		}
		mode, _, _ := unstructured.NestedString(got.Object, "spec", "bond", "mode")
		miimon, _, _ := unstructured.NestedInt64(got.Object, "spec", "bond", "miimon")
		if mode != "active-backup" || miimon != 100 {
			t.Errorf("mode %q, miimon %d", mode, miimon)
		}
	})
}
