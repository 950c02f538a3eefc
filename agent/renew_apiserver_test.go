//go:build apiserver

package agent

import (
	"errors"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// A node that was cut off for long reads the pools before it gives an address: one of those that it knows may be another pool's by now.
// What comes late of the watch takes nothing back.
func TestSilentWatch(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: [10.6.0.1-10.6.0.3]}]}`, `b: {subnets: [{cidr: 10.7.0.0/24}]}`)
	if got := r.add(r.pod("before", "berth.dev/ippool=$a"), "s0", "net1"); got != "10.6.0.1" && got != "10.6.0.2" && got != "10.6.0.3" {
		t.Fatalf("%s of pool a", got)
	}
	release := r.faults.HoldWatches("/ippools")
	defer release()
	a, err := r.ippools.Get(t.Context(), r.name+"-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := a.DeepCopy()
	a.Spec.Subnets[0].IPs = []string{"10.6.0.9"}
	if _, err = r.ippools.Update(t.Context(), a, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	b, err := r.ippools.Get(t.Context(), r.name+"-b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.ippools.Delete(t.Context(), b.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.pool("c", `{subnets: [{cidr: 10.8.0.0/24, ips: [10.8.0.1]}]}`)

	later := time.Now().Add(DefaultMaxSilence + time.Second)
	r.pools.hearing.mu.Lock()
	r.pools.hearing.now = func() time.Time { return later }
	r.pools.hearing.mu.Unlock()
	if got := r.add(r.pod("a", "berth.dev/ippool=$a"), "s1", "net1"); got != "10.6.0.9" {
		t.Errorf("%s of pool a, which has 10.6.0.9 alone by now", got)
	}
	r.refused(request(r.pod("b", "berth.dev/ippool=$b"), "s2", "net1", macvlan), 100, "does not exist")
	if got := r.add(r.pod("c", "berth.dev/ippool=$c"), "s3", "net1"); got != "10.8.0.1" {
		t.Errorf("%s of pool c", got)
	}

	r.pools.put(before)
	r.pools.put(b)
	r.pools.delete(r.name+"-a", "another")
	check := func() {
		t.Helper()
		if p := r.pools.named(r.name + "-a"); p == nil || p.Ranges(ipam.IPv4).Count().Int64() != 1 {
			t.Errorf("pool a is %+v", p)
		}
		if p := r.pools.named(r.name + "-b"); p != nil {
			t.Errorf("pool b is there again")
		}
	}
	check()
	release()
	r.pool("d", `{subnets: [{cidr: 10.9.0.0/24}]}`)
	apitest.Eventually(t, "the watch has said all", func() error {
		if r.pools.named(r.name+"-d") == nil {
			return errors.New("not yet")
		}
		return nil
	})
	check()

	r.pools.anew() // begins with what some cache had
	r.pools.put(before)
	r.refused(request(r.pod("late", "berth.dev/ippool=$a"), "s4", "net1", macvlan), 101, "1 of 1 in use")
	check()
}

// Nobody's pools can be read: an ADD says so, and is answered when they can.
func TestSilentWatchAway(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	r.faults.Refuse("/ippools", 403)
	p := r.pod("one", "berth.dev/ippool=$a")
	r.refused(request(p, "s1", "net1", macvlan), 11, "read the pools, of which nothing was heard for more than 1m30s")
	r.faults.Refuse("", 0)
	r.add(p, "s1", "net1")
}
