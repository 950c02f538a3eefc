//go:build linux

package links

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/tests/netns"
)

// TestHold: what waits for its turn is what it was; where that is not known, or the same, it is what is wanted.
func TestHold(t *testing.T) {
	h := hostNetwork(t, "a", `{parent: eth0, vlans: [7]}`)
	next := edited(t, h, `{parent: eth0, vlans: [7, 8]}`)
	same := edited(t, h, `{parent: eth0, vlans: [7], maxUnavailable: 5}`)
	for name, tc := range map[string]struct {
		h      *v1alpha1.HostNetwork
		known  bool
		want   []int
		queued string
	}{
		"its turn":               {h: next, known: true, want: []int{7, 8}},
		"queued":                 {h: queued(next), known: true, want: []int{7}, queued: theOld},
		"queued at first":        {h: queued(h), want: []int{7}, queued: nothing},
		"nothing is to be done":  {h: queued(same), known: true, want: []int{7}},
		"a turn of the last one": {h: func() *v1alpha1.HostNetwork { n := next.DeepCopy(); n.Status.Rollout.Generation--; return n }(), known: true, want: []int{7}, queued: theOld},
		"nobody has turns":       {h: func() *v1alpha1.HostNetwork { n := next.DeepCopy(); n.Status.Rollout = nil; return n }(), known: true, want: []int{7}, queued: theOld},
	} {
		wants, err := Wanted([]*v1alpha1.HostNetwork{tc.h}, self, labels.Set{})
		if err != nil {
			t.Fatal(err)
		}
		applied := map[string]Want{}
		if tc.known {
			applied["a"] = want(h)
		}
		got, queued := hold(wants, applied)
		if diff := cmp.Diff(tc.want, got[0].VLANs); diff != "" || queued["a"] != tc.queued {
			t.Errorf("%s: %q (-want +got):\n%s", name, queued["a"], diff)
		}
	}
}

// TestTurn: a node changes nothing before its turn; what it had it keeps, and mends, also by another agent.
func TestTurn(t *testing.T) {
	netns.NeedBond(t)
	netns.NeedVLAN(t)
	w := newWire(t)
	n := w.node(1)
	before := n.picture()
	h := hostNetwork(t, "trunk", trunk)
	a := n.start()
	a.set(queued(h))
	waits := func(ready bool, spec string) {
		t.Helper()
		eventually(t, 60*time.Second, "waits", func() error {
			s := a.state("trunk")
			if s == nil || s.Reason != v1alpha1.LinksQueued || s.Ready != ready || s.Spec != spec || !strings.Contains(s.Message, "it is not this node's turn yet") {
				return fmt.Errorf("state %+v", s)
			}
			return nil
		})
	}
	waits(false, "")
	n.looks(t, 10*time.Second, "as before", before)
	a.set(h)
	a.await(h, v1alpha1.LinksReady, "")
	want := n.picture()

	next := edited(t, h, strings.Replace(trunk, "920", "930", 1))
	a.set(queued(next))
	waits(true, SpecOf(h))
	ip(t, n.NS, "link del bond0.920\n")
	n.looks(t, 30*time.Second, "mended", want)
	a.quit()
	ip(t, n.NS, "link set nic2 nomaster\n")
	a = n.start()
	a.set(queued(next))
	waits(true, SpecOf(h))
	n.looks(t, 30*time.Second, "mended by the next", want)

	a.set(next)
	a.await(next, v1alpha1.LinksReady, "")
	if got := n.picture(); !strings.Contains(got, "bond0.930") || strings.Contains(got, "bond0.920") {
		t.Error(got)
	}
	// Nothing is to be done on the node, so it needs no turn.
	next = edited(t, next, strings.Replace(trunk, "920]", "930], maxUnavailable: 3", 1))
	a.set(queued(next))
	a.await(next, v1alpha1.LinksReady, "")
}
