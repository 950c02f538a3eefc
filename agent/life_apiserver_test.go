//go:build apiserver

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// A new agent takes up what the old one has given, even of a pool that serves the node no more.
func TestRestart(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.2"]}]}`, `b: {subnets: [{cidr: 10.7.0.0/24, ips: ["10.7.0.1"]}]}`)
	one, two := r.pod("one", "berth.dev/ippool=$a"), r.pod("two", "berth.dev/ippool=$b")
	at := r.add(one, "s1", "net1")
	r.add(two, "s2", "net1")
	r.stop()
	if _, err := r.call(t.Context(), delegate.PathStatus, &delegate.Request{}); err == nil {
		t.Error("a stopped agent answers")
	}
	p, err := r.ippools.Get(t.Context(), r.name+"-b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Spec.NodeAffinity.MatchLabels = map[string]string{"zone": "b"}
	if _, err := r.ippools.Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	r.start()
	if len(r.path.synced) != 2 {
		t.Errorf("the service path is told of %v", r.path.synced)
	}
	if got := r.add(one, "s1", "net1"); got != at {
		t.Errorf("the same sandbox gets %s, had %s", got, at)
	}
	if got := r.add(two, "s3", "net1"); got != "10.7.0.1" {
		t.Errorf("a new sandbox gets %s", got)
	}
	r.wantBound(at+" one/net1/s1", "10.7.0.1 two/net1/s3")
	r.del(one, "s1", "net1")
	r.del(two, "s3", "net1")
	r.wantBound()
}

// A pool is deleted and made anew under its name, and the node's labels change: the agent follows.
func TestPoolsComeAndGo(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	seen := func(what string, f func() bool) {
		t.Helper()
		apitest.Eventually(t, what, func() error {
			if !f() {
				return errors.New("not yet")
			}
			return nil
		})
	}
	name := r.name + "-a"
	first := r.add(r.pod("one", "berth.dev/ippool=$a"), "s1", "net1")
	if err := r.ippools.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	seen("deleted", func() bool { return len(r.pools.all()) == 0 || !strings.Contains(fmt.Sprint(r.store.Pools()), name) })
	r.refused(request(r.pod("two", "berth.dev/ippool=$a"), "s2", "net1", macvlan), 100, "does not exist")
	r.pool("a", `{subnets: [{cidr: 10.8.0.0/24}], nodeAffinity: {matchLabels: {zone: c}}}`)
	seen("made anew", func() bool { r.pools.mu.Lock(); defer r.pools.mu.Unlock(); return r.pools.pools[name] != nil })
	r.refused(request(r.pod("three", "berth.dev/ippool=$a"), "s3", "net1", macvlan), 100, "does not serve node")

	node, err := r.kube.CoreV1().Nodes().Get(t.Context(), r.name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Labels["zone"] = "c"
	if _, err := r.kube.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	seen("the label", func() bool { return r.pods.thisNode().Labels["zone"] == "c" })
	if got := r.add(r.pod("four", "berth.dev/ippool=$a"), "s4", "net1"); !strings.HasPrefix(got, "10.8.0.") {
		t.Error(got)
	}
	r.del(r.pod("any"), "s1", "net1") // of the pool that is gone
	for _, b := range r.bound() {
		if strings.HasPrefix(b, first+" ") {
			t.Errorf("left: %s", b)
		}
	}
}

// What changes between two looks at a pool with one generation: it was deleted and made anew while the watch was away.
func TestPoolMadeAnewUnseen(t *testing.T) {
	r := newRig(t, `y: {subnets: [{cidr: 10.7.0.0/24}]}`)
	r.add(r.pod("first", "berth.dev/ippool=$y"), "s0", "net1") // which reads all pools
	put := func(uid, cidr string) {
		p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-x", UID: types.UID(uid), Generation: 1}}
		p.Spec.Network, p.Spec.Subnets = r.name, []v1alpha1.PoolSubnet{{CIDR: cidr}}
		r.pools.put(p)
	}
	put("1", "10.6.0.0/24")
	put("2", "10.8.0.0/24")
	if got := r.add(r.pod("one", "berth.dev/ippool=$x"), "s1", "net1"); !strings.HasPrefix(got, "10.8.0.") {
		t.Errorf("%s of the pool as it was", got)
	}
	r.pools.delete(r.name+"-x", "2")
}

// GC believes neither one list nor the runtime alone.
func TestGC(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	live, dead := r.pod("live", "berth.dev/ippool=$a"), r.pod("dead", "berth.dev/ippool=$a")
	at := r.add(live, "s1", "net1")
	gone := r.add(dead, "s2", "net1")
	gc := func(network, valid string) {
		t.Helper()
		conf := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "type": "macvlan", "cni.dev/valid-attachments": %s, "ipam": {"type": "berth"}}`, network, valid)
		if _, err := r.call(t.Context(), delegate.PathGC, &delegate.Request{Config: json.RawMessage(conf)}); err != nil {
			t.Fatal(err)
		}
	}
	past := func() { // as if the observations were long apart
		r.suspect.mu.Lock()
		defer r.suspect.mu.Unlock()
		for name, s := range r.suspect.since {
			s.since = s.since.Add(-2 * apart)
			r.suspect.since[name] = s
		}
	}
	both := func() {
		t.Helper()
		r.wantBound(slices.Sorted(slices.Values([]string{at + " live/net1/s1", gone + " dead/net1/s2"}))...)
	}

	for range 2 {
		gc("vlan910", "[]")
		past()
	}
	both() // their pods are there
	r.deletePod("dead")
	gc("vlan910", "null")
	gc("other", "[]")
	gc("vlan910", `[{"containerID": "s1", "ifname": "net1"}, {"containerID": "s2", "ifname": "net1"}]`) // clears
	both()
	gc("vlan910", "[]")
	both() // once
	gc("vlan910", "[]")
	both() // twice, but at once
	past()
	gc("vlan910", "[]")
	r.wantBound(at + " live/net1/s1")
	if got := r.path.list(); len(got) != 1 {
		t.Errorf("service path: %v", got)
	}
	if _, ok := r.suspect.since[r.name+"."+gone]; ok {
		t.Error("suspected for ever")
	}
}

// A disabled pool lets an interface keep what it holds. If that is lost, as only the API server knows, it gives nothing new.
func TestDisabledPoolGivesNothingNew(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.7"]}]}`)
	p := r.pod("web", "berth.dev/ippool=$a")
	r.add(p, "s1", "net1")
	r.edit("a", func(s *v1alpha1.IPPoolSpec) { s.Disabled = true })
	defer r.faults.HoldWatches("")()
	if err := r.leases.Delete(t.Context(), r.name+".10.6.0.7", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.refused(request(p, "s2", "net1", macvlan), 100, `-a" is disabled, and the interface has lost the address that it held of it`)
	r.wantBound()
}

// A lease that somebody else frees or deletes leaves the service path without a DEL: the address may be another node's next.
func TestLostLeaseLeavesThePath(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	first := r.add(r.pod("one", "berth.dev/ippool=$a"), "s1", "net1")
	second := r.add(r.pod("two", "berth.dev/ippool=$a"), "s2", "net1")
	if got := len(r.path.list()); got != 2 {
		t.Fatalf("on the path: %v", r.path.list())
	}
	l, err := r.leases.Get(t.Context(), r.name+"."+first, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ipam.Release(l, l.Spec.Holder, time.Now())
	if _, err := r.leases.Update(t.Context(), l, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := r.leases.Delete(t.Context(), r.name+"."+second, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "an empty path", func() error {
		if on := r.path.list(); len(on) > 0 {
			return fmt.Errorf("on the path: %v", on)
		}
		return nil
	})
}

// An ADD that its runtime has given up comes to its turn when the pod's next sandbox has the address: it takes nothing back.
func TestGivenUpAddTakesNothing(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	p := r.pod("web", "berth.dev/ippool=$a")
	at := r.add(p, "s2", "net1")
	gone, giveUp := context.WithCancel(t.Context())
	giveUp()
	if _, err := r.Agent.add(call{t.Context(), request(p, "s1", "net1", macvlan), gone}); err == nil || !strings.Contains(err.Error(), "went away") {
		t.Errorf("an ADD that was given up: %v", err)
	}
	r.wantBound(at + " web/net1/s2")
}
