package nad

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParentsAnnotation(t *testing.T) {
	links := map[string]Link{"bond0.910": {MTU: 9000, VLAN: 910}, "eth1": {MTU: 1500}, "eth7": {Missing: true}}
	const text = "bond0.910=9000/910,eth1=1500,eth7=-"
	if got := FormatParents(links); got != text {
		t.Errorf("%q", got)
	}
	if diff := cmp.Diff(links, ParseParents(text)); diff != "" {
		t.Error(diff)
	}
	if got := ParseParents("a,=3,b=x,c=1/0,d=1/4095,e=1/,,f=-1"); len(got) > 0 {
		t.Errorf("%v", got)
	}
}

func TestMasters(t *testing.T) {
	for config, want := range map[string][]string{
		`{"master": "eth0", "ipam": {"type": "berth"}}`:                                    {"eth0"},
		`{"plugins": [{"master": "eth1", "ipam": {"type": "berth"}}, {"type": "tuning"}]}`: {"eth1"},
		`{"master": "eth0", "ipam": {"type": "host-local"}}`:                               nil,
		`{"master": "eth0", "linkInContainer": true, "ipam": {"type": "berth"}}`:           nil,
		`{"ipam": {"type": "berth"}}`:                                                      nil,
		`{"master": "a,b", "ipam": {"type": "berth"}}`:                                     nil,
		`{"master": "longer-than-a-link-is", "ipam": {"type": "berth"}}`:                   nil,
		`nonsense`: nil,
	} {
		if diff := cmp.Diff(want, Masters(config)); diff != "" {
			t.Errorf("%s: %s", config, diff)
		}
	}
}
