//go:build apiserver

package agent

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthdev/berth/agent/state"
	"github.com/berthdev/berth/delegate"
)

// The agent tells of its pods' interfaces, once each, whether the journal or the API knows them.
func TestState(t *testing.T) {
	r := newJournalRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.2"]}]}`)
	one, two := r.pod("one", "berth.dev/ippool=$a"), r.pod("two", "berth.dev/ippool=$a")
	req := request(one, "s1", "eth0", macvlan)
	req.NetNS = "/var/run/netns/cni-1"
	if _, err := r.call(t.Context(), delegate.PathAdd, req); err != nil {
		t.Fatal(err)
	}
	r.add(two, "s2", "net1")
	ask := func() *state.State {
		t.Helper()
		s, err := state.Ask(t.Context(), r.conf.Socket)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := ask()
	if !s.Ready || s.Node != r.conf.NodeName || len(s.Interfaces) != 2 {
		t.Fatalf("%+v", s)
	}
	i := s.Interfaces[0]
	want := state.Interface{Namespace: one.Namespace, Pod: "one", UID: string(one.UID), Name: "eth0", NetNS: req.NetNS, Parent: i.Parent, MAC: req.MAC, Network: i.Network}
	if diff := cmp.Diff(want, i, cmpopts.IgnoreFields(state.Interface{}, "Addresses")); diff != "" {
		t.Error(diff)
	}
	if len(i.Addresses) != 1 || !slices.Contains(r.bound(), i.Addresses[0].String()+" one/eth0/s1") {
		t.Errorf("addresses %v, bound %q", i.Addresses, r.bound())
	}
	if file := i.NetNSFile("/run/netns"); file != "/run/netns/cni-1" {
		t.Error(file)
	}
	r.del(one, "s1", "eth0")
	r.del(two, "s2", "net1")
	if s := ask(); len(s.Interfaces) != 0 {
		t.Errorf("after DEL: %+v", s.Interfaces)
	}
	r.stop()
	if _, err := state.Ask(t.Context(), r.conf.Socket); err == nil {
		t.Error("a stopped agent answers")
	}
}
