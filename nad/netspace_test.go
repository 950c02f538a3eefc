package nad

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNetspaceErrors(t *testing.T) {
	for value, want := range map[string]string{
		"":                           "pod annotation berth.dev/netspace: `` names no netspace; write a name, or leave the annotation out",
		"Team_A":                     "pod annotation berth.dev/netspace: `Team_A` is no name of a Netspace; write one such as team-a",
		"a, b":                       "is no name of a Netspace",
		"[\"a\"]":                    "is no name of a Netspace",
		strings.Repeat("a", 254):     "is no name of a Netspace",
		"team-a\nteam-b":             "is no name of a Netspace",
		"../../etc/" + "netspaces/a": "is no name of a Netspace",
	} {
		if _, _, err := Resolve(Input{PodAnnotations: kv(NetspaceAnnotation, value), IfName: "net1"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", value, err, want)
		}
	}
}

func TestAccessVLANs(t *testing.T) {
	for text, want := range map[string]map[string]int32{
		"eth1=910":                      {"eth1": 910},
		" eth1 = 910 ,bond0.5=4094":     {"eth1": 910, "bond0.5": 4094},
		"eth1=1,eth1=1":                 {"eth1": 1},
		"enp0s31f6abcdef=2,br-office=3": {"enp0s31f6abcdef": 2, "br-office": 3},
	} {
		got, err := ParseAccessVLANs(text)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got)\n%s", text, err, diff)
		}
	}
	for text, want := range map[string]string{
		"":                     "node annotation berth.dev/access-vlans: `` has \"\"; write LINK=VLAN, such as eth1=910",
		"eth1":                 `has "eth1"; write LINK=VLAN`,
		"eth1=910,":            `has ""; write LINK=VLAN`,
		"=910":                 `has "=910"; write LINK=VLAN`,
		"eth1=910;eth2=911":    `has VLAN "910;eth2=911" of link eth1; write a number from 1 to 4094`,
		"eth1=0":               `has VLAN "0" of link eth1; write a number from 1 to 4094`,
		"eth1=4095":            `has VLAN "4095" of link eth1`,
		"eth1=-1":              `has VLAN "-1" of link eth1`,
		"eth1=910,eth1=911":    "has two VLANs of link eth1; an access port has one",
		"enp0s31f6abcdefg=910": `has "enp0s31f6abcdefg=910"; write LINK=VLAN`,
	} {
		if got, err := ParseAccessVLANs(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %q", text, got, err, want)
		}
	}
}

// FuzzAccessVLANs: what is accepted has links and VLANs that can be.
func FuzzAccessVLANs(f *testing.F) {
	f.Add("eth1=910,eth2=911")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseAccessVLANs(s)
		if err == nil && len(got) == 0 {
			t.Fatal("accepted, and says nothing")
		}
		for link, vlan := range got {
			if link == "" || len(link) > 15 || vlan < 1 || vlan > 4094 {
				t.Fatalf("%q is on %d", link, vlan)
			}
		}
	})
}
