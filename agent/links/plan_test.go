//go:build linux

package links

import (
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// node of the tables: three cards, of which eth0 carries the node.
func cards() Observed {
	return seen(
		Link{Name: "eth0", MTU: 1500, MAC: "02:00:00:00:00:00", Default: true, Addresses: fixed("10.0.0.5/24", "2001:db8::5/64")},
		Link{Name: "eth1", MTU: 1500, MAC: "02:00:00:00:00:01"},
		Link{Name: "eth2", MTU: 9000, MAC: "02:00:00:00:00:02"},
	)
}

// seen links: up, and devices, unless they say otherwise.
func seen(links ...Link) Observed {
	o := Observed{"lo": {Name: "lo", Kind: "device", Index: 1, Up: true}}
	for i, l := range links {
		l.Index = 10 + i
		if l.Kind == "" {
			l.Kind = "device"
		}
		o[l.Name] = l
	}
	for name, l := range o {
		if !strings.HasPrefix(l.MAC, "down ") {
			l.Up = true
		}
		l.MAC = strings.TrimPrefix(l.MAC, "down ")
		o[name] = l
	}
	return o
}

func fixed(prefixes ...string) (out []Address) {
	for _, p := range prefixes {
		out = append(out, Address{Prefix: netip.MustParsePrefix(p)})
	}
	return out
}

func leased(prefixes ...string) (out []Address) {
	for _, a := range fixed(prefixes...) {
		a.Leased = true
		out = append(out, a)
	}
	return out
}

// with other links in it, or the same otherwise.
func (o Observed) with(links ...Link) Observed {
	out := maps.Clone(o)
	for name, l := range seen(links...) {
		if name != "lo" {
			l.Index += 100
			out[name] = l
		}
	}
	return out
}

func bond(name string, members ...string) *Bond {
	return &Bond{Name: name, Mode: "active-backup", Miimon: 100, Members: members}
}

// made is the bond bond0 of "a", as Berth leaves it, with eth1 and eth2 in it, and VLAN 910.
func made() Observed {
	return cards().with(
		Link{Name: "bond0", Kind: "bond", Alias: "berth:hostnetwork/a", MTU: 1500, Bond: &BondState{Mode: "active-backup", Miimon: 100}},
		Link{Name: "eth1", MTU: 1500, Master: "bond0"}, Link{Name: "eth2", MTU: 1500, Master: "bond0"},
		Link{Name: "bond0.910", Kind: "vlan", Alias: "berth:hostnetwork/a", MTU: 1500, Below: "bond0", VLAN: 910})
}

// moved is a bond that has eth0 in it, whose addresses it carries.
func moved() Observed {
	return cards().with(
		Link{Name: "bond0", Kind: "bond", Alias: "berth:hostnetwork/a eth0", MTU: 1500, Bond: &BondState{Mode: "active-backup", Miimon: 100},
			Default: true, Addresses: fixed("10.0.0.5/24")},
		Link{Name: "eth0", Master: "bond0"}, Link{Name: "eth1", Master: "bond0"})
}

func TestPlan(t *testing.T) {
	a := Want{Name: "a", Bond: bond("bond0", "eth1", "eth2"), VLANs: []int{910}}
	with := func(f func(*Want)) Want {
		w := a
		b := *a.Bond
		w.Bond = &b
		f(&w)
		return w
	}
	for _, tc := range []struct {
		name  string
		wants []Want
		now   Observed
		do    []string // "OWNER: operation"
		say   []string // "OWNER refused|amiss|waits: what it must contain"
	}{
		{name: "nothing wanted", now: cards()},
		{name: "bond and VLAN", wants: []Want{a}, now: cards(), do: []string{
			"a: create bond bond0 (active-backup, miimon 100, mtu 1500, 02:00:00:00:00:01)", "a: set alias bond0 a", "a: set up bond0",
			"a: enslave eth1 to bond0", "a: enslave eth2 to bond0",
			"a: create VLAN bond0.910 (910 on bond0)", "a: set alias bond0.910 a", "a: set up bond0.910"}},
		{name: "all as wanted", wants: []Want{a}, now: made()},
		{name: "primary and MTU", wants: []Want{with(func(w *Want) { w.Bond.Primary, w.MTU = "eth2", 9000 })}, now: made(), do: []string{
			"a: set MTU bond0 9000", "a: set primary bond0 eth2", "a: set MTU bond0.910 9000"}},
		{name: "mode", wants: []Want{with(func(w *Want) { w.Bond.Mode, w.Bond.Miimon = "802.3ad", 50 })}, now: made(), do: []string{
			"a: release eth1", "a: release eth2", "a: set down bond0", "a: set mode bond0 802.3ad", "a: set miimon bond0 50",
			"a: set up bond0", "a: enslave eth1 to bond0", "a: enslave eth2 to bond0", "a: restore bond0", "a: restore bond0.910"}},
		{name: "another member", wants: []Want{with(func(w *Want) { w.Bond.Members = []string{"eth1", "eth3"} })},
			now: made().with(Link{Name: "eth3"}), do: []string{"a: release eth2", "a: set up eth2", "a: enslave eth3 to bond0"}},
		{name: "another VLAN", wants: []Want{with(func(w *Want) { w.VLANs = []int{920} })}, now: made(), do: []string{"a: delete bond0.910"}},
		{name: "and with the former gone", wants: []Want{with(func(w *Want) { w.VLANs = []int{920} })},
			now: made().with(Link{Name: "bond0.910", Kind: "gone"}), do: []string{
				"a: create VLAN bond0.920 (920 on bond0)", "a: set alias bond0.920 a", "a: set up bond0.920"}},

		// Mending.
		{name: "a member was taken out", wants: []Want{a}, now: made().with(Link{Name: "eth2", MTU: 1500}), do: []string{"a: enslave eth2 to bond0"}},
		{name: "set down", wants: []Want{a}, now: made().with(
			Link{Name: "bond0", Kind: "bond", MAC: "down ", Alias: "berth:hostnetwork/a", MTU: 1500, Bond: &BondState{Mode: "active-backup", Miimon: 100}},
			Link{Name: "bond0.910", Kind: "vlan", MAC: "down ", Alias: "berth:hostnetwork/a", MTU: 1500, Below: "bond0", VLAN: 910}),
			do: []string{"a: set up bond0", "a: set up bond0.910"}},
		{name: "a card was pulled out", wants: []Want{with(func(w *Want) { w.Bond.Members = []string{"eth1", "eth2", "eth7"} })}, now: made(),
			say: []string{"a amiss: member eth7 of bond bond0 is not on this node, which has eth0, eth1, eth2"}},

		// Members.
		{name: "a missing card", wants: []Want{with(func(w *Want) { w.Bond.Members = []string{"eth1", "eth7"} })}, now: cards(),
			say: []string{"a refused: member eth7 of bond bond0 is not on this node, which has eth0, eth1, eth2; correct members, or select other nodes"}},
		{name: "carries the node", wants: []Want{with(func(w *Want) { w.Bond.Members = []string{"eth0", "eth1"} })}, now: cards(),
			say: []string{"a refused: member eth0 carries addresses of the node (10.0.0.5/24, 2001:db8::5/64); set moveAddresses to have them move to bond0"}},
		{name: "only a default route", wants: []Want{a}, now: cards().with(Link{Name: "eth1", Default: true}),
			say: []string{"a refused: member eth1 carries a default route of the node; set moveAddresses"}},
		{name: "addresses move", wants: []Want{with(func(w *Want) { w.Bond.Members, w.MoveAddresses, w.VLANs = []string{"eth1", "eth0"}, true, nil })}, now: cards(),
			do: []string{"a: create bond bond0 (active-backup, miimon 100, mtu 1500, 02:00:00:00:00:00)", "a: set alias bond0 a eth0",
				"a: enslave eth0 to bond0", "a: set up bond0", "a: move addresses eth0 to bond0", "a: enslave eth1 to bond0"}},
		{name: "and came back to the member", wants: []Want{with(func(w *Want) { w.Bond.Members, w.MoveAddresses, w.VLANs = []string{"eth0", "eth1"}, true, nil })},
			now: moved().with(Link{Name: "eth0", Master: "bond0", Addresses: fixed("10.0.0.5/24")}),
			do:  []string{"a: move addresses eth0 to bond0"}},
		{name: "a DHCP client's address", wants: []Want{with(func(w *Want) { w.MoveAddresses = true })}, now: cards().with(Link{Name: "eth1", Addresses: leased("10.0.0.9/24")}),
			say: []string{"a refused: member eth1 has the address 10.0.0.9/24 of a DHCP client, which would not follow it to bond0"}},
		{name: "of a router advertisement only", wants: []Want{with(func(w *Want) { w.VLANs = nil })},
			now: cards().with(Link{Name: "eth1", MTU: 1500, MAC: "02:00:00:00:00:01", Addresses: leased("2001:db8::abcd/64")}),
			do: []string{"a: create bond bond0 (active-backup, miimon 100, mtu 1500, 02:00:00:00:00:01)", "a: set alias bond0 a", "a: set up bond0",
				"a: enslave eth1 to bond0", "a: enslave eth2 to bond0"}},
		{name: "route over several links", wants: []Want{with(func(w *Want) { w.MoveAddresses = true })},
			now: cards().with(Link{Name: "eth1", Addresses: fixed("10.1.0.9/24"), Multipath: true}), say: []string{"a refused: member eth1 is in a route over several links"}},
		{name: "port of a bridge", wants: []Want{a}, now: cards().with(Link{Name: "br0", Kind: "bridge"}, Link{Name: "eth1", Master: "br0"}),
			say: []string{"a refused: member eth1 is a port of br0 (bridge) already; take it out there first"}},
		{name: "in use by pods", wants: []Want{a}, now: cards().with(Link{Name: "vmac11", Kind: "macvlan", Below: "eth1"}),
			say: []string{"a refused: member eth1 is in use by vmac11 (macvlan)"}},
		{name: "an overlay sends by it", wants: []Want{a}, now: cards().with(Link{Name: "flannel.1", Kind: "vxlan", Below: "eth1"}),
			say: []string{"a refused: member eth1 is in use by flannel.1 (vxlan); remove these first, or make them on the bond"}},
		{name: "no card", wants: []Want{with(func(w *Want) { w.Bond.Members = []string{"br0", "lo"} })}, now: cards().with(Link{Name: "br0", Kind: "bridge"}),
			say: []string{"a refused: member br0 is no network card but a bridge link", "a refused: member lo is no network card but a loopback link"}},

		// Names that are taken.
		{name: "bond of others", wants: []Want{a}, now: cards().with(Link{Name: "bond0", Kind: "bond"}),
			say: []string{"a refused: link bond0 (bond) is there, and not made by Berth; delete or rename it, or, for VLANs on it, name it as parent"}},
		{name: "VLAN of others", wants: []Want{a}, now: made().with(Link{Name: "bond0.910", Kind: "vlan", Below: "bond0", VLAN: 910}),
			say: []string{"a refused: link bond0.910 (vlan) is there, and not made by Berth"}},
		{name: "VLAN under another name", wants: []Want{{Name: "b", Parent: "eth1", VLANs: []int{7}}}, now: cards().with(Link{Name: "storage", Kind: "vlan", Below: "eth1", VLAN: 7}),
			say: []string{"b refused: VLAN 7 of eth1 is there already, as storage, and not made by Berth"}},
		{name: "own VLAN with another ID", wants: []Want{a}, now: made().with(Link{Name: "bond0.910", Kind: "vlan", Alias: "berth:hostnetwork/a", MTU: 1500, Below: "bond0", VLAN: 9}),
			do: []string{"a: delete bond0.910", "a: create VLAN bond0.910 (910 on bond0)", "a: set alias bond0.910 a", "a: set up bond0.910"}},

		// Parents.
		{name: "VLANs on a card", wants: []Want{{Name: "b", Parent: "eth2", VLANs: []int{7}, MTU: 9000}}, now: cards(), do: []string{
			"b: create VLAN eth2.7 (7 on eth2)", "b: set alias eth2.7 b", "b: set MTU eth2.7 9000", "b: set up eth2.7"}},
		{name: "no parent", wants: []Want{{Name: "b", Parent: "eth9", VLANs: []int{7}}}, now: cards(), say: []string{"b refused: parent eth9 is not on this node, which has eth0, eth1, eth2"}},
		{name: "parent in a bond", wants: []Want{{Name: "b", Parent: "eth1", VLANs: []int{7}}},
			now: cards().with(Link{Name: "bond0", Kind: "bond"}, Link{Name: "eth1", Master: "bond0"}),
			say: []string{"b refused: parent eth1 is a port of bond0 (bond), which takes all that it receives; name bond0 as parent"}},
		{name: "parent is down", wants: []Want{{Name: "b", Parent: "eth1", VLANs: []int{7}}}, now: cards().with(Link{Name: "eth1", MAC: "down "}),
			say: []string{"b refused: parent eth1 is down, and not Berth's to set up"}},
		{name: "parent with a smaller MTU", wants: []Want{{Name: "b", Parent: "eth1", VLANs: []int{7}, MTU: 9000}}, now: cards(),
			say: []string{"b refused: mtu 9000 is more than the 1500 of parent eth1"}},
		{name: "loopback", wants: []Want{{Name: "b", Parent: "lo", VLANs: []int{7}}}, now: cards(), say: []string{"b refused: parent lo is a loopback link"}},

		// Several HostNetworks.
		{name: "the older has the bond", wants: []Want{a, {Name: "b", Bond: bond("bond0", "eth3", "eth4")}}, now: made(),
			say: []string{"b refused: link bond0 is wanted by HostNetwork a, which is older; take it out of one of the two"}},
		{name: "the older has the member", wants: []Want{a, {Name: "b", Bond: bond("bond1", "eth2", "eth3")}}, now: made(),
			say: []string{"b refused: link eth2 is wanted by HostNetwork a, which is older"}},
		{name: "the older has the VLAN", wants: []Want{a, {Name: "b", Parent: "bond0", VLANs: []int{910}}}, now: made(),
			say: []string{"b refused: link bond0.910 is wanted by HostNetwork a, which is older"}},
		{name: "a member is the older's parent", wants: []Want{{Name: "b", Parent: "eth1", VLANs: []int{7}}, a},
			now: cards().with(Link{Name: "eth1.7", Kind: "vlan", Alias: "berth:hostnetwork/b", Below: "eth1", VLAN: 7}),
			say: []string{"a refused: link eth1 is the parent of HostNetwork b, which is older"}},
		{name: "a parent is the older's member", wants: []Want{a, {Name: "b", Parent: "eth1", VLANs: []int{7}}}, now: made(),
			say: []string{"b refused: link eth1 is a member of the bond of HostNetwork a"}},
		{name: "another VLAN on the older's bond", wants: []Want{a, {Name: "b", Parent: "bond0", VLANs: []int{920}}}, now: made(), do: []string{
			"b: create VLAN bond0.920 (920 on bond0)", "b: set alias bond0.920 b", "b: set up bond0.920"}},
		{name: "under another name", wants: []Want{with(func(w *Want) { w.Name = "new" })}, now: made(), do: []string{"new: set alias bond0 new", "new: set alias bond0.910 new"}},

		// What is to go.
		{name: "gone", now: made(), do: []string{"a: delete bond0.910", "a: release eth1", "a: set up eth1", "a: release eth2", "a: set up eth2", "a: delete bond0"}},
		{name: "gone, pods left", now: made().with(Link{Name: "bond0.910", Kind: "vlan", Alias: "berth:hostnetwork/a", Below: "bond0", VLAN: 910, Users: []string{"net1 in pod"}}),
			say: []string{"a waits: link bond0.910 is to go, and is in use by net1 in pod; it goes when these are gone", "a waits: link bond0 is to go, and is in use by bond0.910 (vlan)"}},
		{name: "gone, vmac left", now: made().with(Link{Name: "vmac5", Kind: "macvlan", Below: "bond0"}), do: []string{"a: delete bond0.910"},
			say: []string{"a waits: link bond0 is to go, and is in use by vmac5 (macvlan)"}},
		{name: "gone, another's VLAN left", wants: []Want{{Name: "b", Parent: "bond0", VLANs: []int{910}}},
			now: made().with(Link{Name: "bond0.910", Kind: "vlan", Alias: "berth:hostnetwork/b", Below: "bond0", VLAN: 910}),
			say: []string{"a waits: link bond0 is to go, and is in use by bond0.910 (vlan)"}},
		{name: "gone, with addresses", now: moved(), do: []string{"a: release eth0", "a: set up eth0", "a: move addresses bond0 to eth0",
			"a: release eth1", "a: set up eth1", "a: delete bond0"}},
		{name: "gone, with addresses of others", now: made().with(Link{Name: "bond0.910", Kind: "vlan", Alias: "berth:hostnetwork/a", Below: "bond0", VLAN: 910, Addresses: fixed("10.9.0.1/24")}),
			say: []string{"a waits: link bond0.910 is to go, and carries 10.9.0.1/24, which Berth has not put there", "a waits: link bond0 is to go"}},
		{name: "renamed", wants: []Want{with(func(w *Want) { w.Bond.Name = "bond1" })}, now: made(),
			do: []string{"a: delete bond0.910", "a: release eth1", "a: set up eth1", "a: release eth2", "a: set up eth2", "a: delete bond0"}},
		{name: "renamed, and wrong", wants: []Want{with(func(w *Want) { w.Bond.Name, w.Bond.Members = "bond1", []string{"eth1", "eth7"} })}, now: made(),
			say: []string{"a refused: member eth7 of bond bond1 is not on this node"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			delete(tc.now, "gone")
			for name, l := range tc.now {
				if l.Kind == "gone" {
					delete(tc.now, name)
				}
			}
			var do, said []string
			for _, d := range plan(tc.wants, tc.now) {
				for _, o := range d.Ops {
					do = append(do, d.Owner+": "+o.String())
				}
				for what, list := range map[string][]string{"refused": d.Refused, "amiss": d.Amiss, "waits": d.Waits} {
					for _, s := range list {
						said = append(said, d.Owner+" "+what+": "+s)
					}
				}
			}
			if diff := cmp.Diff(tc.do, do); diff != "" {
				t.Errorf("operations (-want +got):\n%s", diff)
			}
			if len(said) != len(tc.say) {
				t.Errorf("said %q", said)
			}
			all := strings.Join(said, "\n")
			for _, want := range tc.say {
				if !strings.Contains(all, want) {
					t.Errorf("not said: %s\nsaid: %s", want, all)
				}
			}
		})
	}
}

// TestUndo: the way back is complete, and from where it leads to, none is left.
func TestUndo(t *testing.T) {
	save := func(o Observed, names ...string) (s snapshot) {
		for _, name := range names {
			if l, ok := o[name]; ok {
				s.Links = append(s.Links, saved{Link: l})
			} else {
				s.New = append(s.New, name)
			}
		}
		return s
	}
	for _, tc := range []struct {
		name        string
		before, now Observed
		touched     []string
		want        []string
	}{
		{name: "nothing done", before: cards(), now: cards(), touched: []string{"bond0", "eth1", "eth2"}},
		{name: "made", before: cards(), now: made(), touched: []string{"bond0", "bond0.910", "eth1", "eth2"}, want: []string{"delete bond0.910", "delete bond0"}},
		{name: "then the members", before: cards(), now: cards().with(Link{Name: "eth1", MTU: 9000, MAC: "down 02:00:00:00:00:09"}), touched: []string{"bond0", "eth1"},
			want: []string{"set MTU eth1 1500", "set MAC eth1 02:00:00:00:00:01", "set up eth1"}},
		{name: "deleted", before: made(), now: cards(), touched: []string{"bond0", "bond0.910"}, want: []string{
			"create bond bond0 (active-backup, miimon 100, mtu 1500)", "set alias bond0 a", "create VLAN bond0.910 (910 on bond0)", "set alias bond0.910 a"}},
		{name: "then its ports", before: made(), now: made().with(Link{Name: "eth1", MTU: 1500}), touched: []string{"bond0", "eth1", "eth2"}, want: []string{"enslave eth1 to bond0"}},
		{name: "mode", before: made(), touched: []string{"bond0", "eth1"},
			now:  made().with(Link{Name: "bond0", Kind: "bond", Alias: "berth:hostnetwork/a", MTU: 1500, Bond: &BondState{Mode: "802.3ad", Miimon: 100}}),
			want: []string{"release eth1", "release eth2", "set down bond0", "set mode bond0 active-backup"}},
		{name: "addresses were given back", before: moved(), now: moved().with(Link{Name: "eth0", Master: "bond0", Addresses: fixed("10.0.0.5/24")}),
			touched: []string{"bond0", "eth0"}, want: []string{"strip eth0"}},
		{name: "another's address came meanwhile", before: made(), now: made().with(Link{Name: "eth1", MTU: 1500, Master: "bond0", Addresses: fixed("10.3.0.1/24")}),
			touched: []string{"bond0", "eth1"}},
		{name: "a card was pulled out", before: made(), now: made().with(Link{Name: "eth2", Kind: "gone"}), touched: []string{"bond0", "eth2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for name, l := range tc.now {
				if l.Kind == "gone" {
					delete(tc.now, name)
				}
			}
			var got []string
			for _, o := range undo(save(tc.before, tc.touched...), tc.now) {
				got = append(got, o.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
