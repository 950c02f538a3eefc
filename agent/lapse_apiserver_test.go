//go:build apiserver

package agent

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// A lease that is deleted or freed by another while its pod lives is claimed again, and the pod stays on the service path.
func TestLapse(t *testing.T) {
	const bound, onPath = "10.6.0.1 one/net1/s1", "10.6.0.1"
	drop := func(r *rig) {
		if err := r.leases.Delete(r.Context(), r.name+".10.6.0.1", metav1.DeleteOptions{}); err != nil {
			r.Fatal(err)
		}
	}
	edit := func(r *rig, f func(*v1alpha1.IPLease)) {
		l, err := r.leases.Get(r.Context(), r.name+".10.6.0.1", metav1.GetOptions{})
		if err == nil {
			f(l)
			_, err = r.leases.Update(r.Context(), l, metav1.UpdateOptions{})
		}
		if err != nil {
			r.Fatal(err)
		}
	}
	for name, lapse := range map[string]func(*rig){
		"deleted": drop,
		"freed":   func(r *rig) { edit(r, func(l *v1alpha1.IPLease) { ipam.Release(l, l.Spec.Holder, time.Now()) }) },
		"deleted while the agent was down": func(r *rig) {
			r.stop()
			drop(r)
			r.start()
		},
		"deleted, and not to be claimed at once": func(r *rig) {
			r.faults.Set("POST", apitest.Cut)
			drop(r)
			r.wantOnPath()
			r.faults.Set("POST", apitest.None)
		},
		"deleted, and the agent restarted before it could claim": func(r *rig) {
			r.faults.Set("POST", apitest.Cut)
			drop(r)
			r.wantOnPath()
			r.stop()
			r.faults.Set("POST", apitest.None)
			r.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newJournalRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1"]}]}`)
			one := r.pod("one", "berth.dev/ippool=$a")
			r.add(one, "s1", "net1")
			lapse(r)
			r.event("one", "AddressClaimedAgain", "10.6.0.1", "net1")
			r.eventuallyBound(bound)
			r.wantOnPath(onPath)
			r.settled()
			r.refused(request(r.pod("two", "berth.dev/ippool=$a"), "s2", "net1", macvlan), 101, "no free address")
			r.del(one, "s1", "net1")
			r.eventuallyBound()
			r.wantOnPath()
		})
	}
	t.Run("another's by now", func(t *testing.T) {
		r := newJournalRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1"]}]}`)
		one := r.pod("one", "berth.dev/ippool=$a")
		r.add(one, "s1", "net1")
		edit(r, func(l *v1alpha1.IPLease) {
			l.Spec.Holder = &v1alpha1.LeaseHolder{Namespace: r.name, Pod: "thief", UID: "t", Node: "elsewhere", ContainerID: "x", Interface: "net1"}
		})
		r.event("one", "AddressLost", "10.6.0.1", "deleted or freed", "delete the pod")
		r.wantOnPath()
		r.forgets()
		// And it is not given again when the API is away.
		r.faults.SetAway(true)
		r.refused(request(one, "s1b", "net1", macvlan), 11)
		r.faults.SetAway(false)
		r.del(one, "s1", "net1")
		r.wantBound("10.6.0.1 thief/net1/x")
	})
	t.Run("given up before it could be claimed", func(t *testing.T) {
		r := newJournalRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1"]}]}`)
		one := r.pod("one", "berth.dev/ippool=$a")
		r.add(one, "s1", "net1")
		r.faults.Set("POST", apitest.Cut)
		drop(r)
		r.wantOnPath()
		r.del(one, "s1", "net1")
		r.faults.Set("POST", apitest.None)
		r.settled()
		r.forgets()
		r.wantBound()
	})
	t.Run("the pod is gone", func(t *testing.T) {
		r := newJournalRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1"]}]}`)
		r.add(r.pod("one", "berth.dev/ippool=$a"), "s1", "net1")
		r.deletePod("one")
		drop(r)
		r.wantOnPath()
		r.forgets()
		r.wantBound()
	})
}

func (r *rig) wantOnPath(addresses ...string) {
	r.Helper()
	apitest.Eventually(r, fmt.Sprintf("on the path: %v", addresses), func() error {
		var on []string
		for _, l := range r.path.list() {
			var a string
			_, _ = fmt.Sscan(l, &a)
			on = append(on, a)
		}
		if !slices.Equal(on, addresses) {
			return fmt.Errorf("%v", on)
		}
		return nil
	})
}

// forgets: the journal knows nothing in the end.
func (r *rig) forgets() {
	r.Helper()
	apitest.Eventually(r, "the journal forgets", func() error {
		if e := r.journal.Entries(); len(e) > 0 {
			return fmt.Errorf("%v", e[0].Leases)
		}
		return nil
	})
}

// TestRestoredAPI: an agent whose API server was restored from a backup ends, to be started anew.
func TestRestoredAPI(t *testing.T) {
	r := newRig(t, onePool)
	r.add(r.pod("one", "berth.dev/ippool=$a"), "s1", "net1")
	if back, err := r.store.Restored(t.Context()); back || err != nil {
		t.Fatal(back, err)
	}
	r.faults.Restore("1")
	ctx := t.Context()
	if err := r.sweep(ctx); !errors.Is(err, errRestored) {
		t.Errorf("%v, want %v", err, errRestored)
	}
}
