//go:build linux

package path

import (
	"strings"
	"testing"

	"github.com/berthdev/berth/tests/netns"
)

func TestVLANOf(t *testing.T) {
	netns.NeedVLAN(t)
	ns, elsewhere := namespace(t), namespace(t)
	pair(t, ns, "eth0", elsewhere, "port")
	ip(t, ns, `link set eth0 up
link add link eth0 name eth0.910 type vlan id 910
link add link eth0 name office type vlan id 4094
link add link eth0.910 name stacked type vlan id 911
link add link eth0 name carrier type vlan proto 802.1ad id 912
link add link eth0.910 name child type macvlan mode bridge
link add br0 type bridge
`)
	for _, tc := range []struct {
		name       string
		vlan, over int32
		err        string
	}{
		{name: "eth0"},
		{name: "eth0.910", vlan: 910},
		{name: "office", vlan: 4094}, // the name says nothing
		{name: "stacked", vlan: 911, over: 910},
		{name: "carrier"},
		{name: "child"},
		{name: "br0"},
		{name: "eth9", err: `link "eth9" does not exist on this node; create it`},
	} {
		var vlan, over int32
		var err error
		ns.Do(func() { vlan, over, err = VLANOf(tc.name) })
		if vlan != tc.vlan || over != tc.over || (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %d, %d, %v", tc.name, vlan, over, err)
		}
	}
}
