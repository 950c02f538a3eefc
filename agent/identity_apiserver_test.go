//go:build apiserver

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/nad"
)

// neighbour is an agent on a second node, with the same pools and namespace.
func (r *rig) neighbour() *rig {
	r.Helper()
	n := *r
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-b", Labels: map[string]string{"zone": "a", "rig": r.name}}}
	if _, err := r.kube.CoreV1().Nodes().Create(r.Context(), node, metav1.CreateOptions{}); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := r.kube.CoreV1().Nodes().Delete(context.Background(), node.Name, metav1.DeleteOptions{}); err != nil {
			r.Error(err)
		}
	})
	n.node, n.socket = node.Name, r.T.TempDir()+"/agent.sock"
	if n.conf.Journal != "" {
		n.conf.Journal = n.socket + ".journal"
	}
	n.start()
	return &n
}

// member of a StatefulSet.
func (r *rig) member(name string, annotations ...string) *corev1.Pod {
	r.Helper()
	controls := true
	r.owner = &metav1.OwnerReference{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", UID: "4711", Controller: &controls}
	defer func() { r.owner = nil }()
	return r.pod(name, annotations...)
}

func (r *rig) phase(address string, want v1alpha1.LeasePhase) {
	r.Helper()
	l, err := r.leases.Get(r.Context(), r.name+"."+address, metav1.GetOptions{})
	if err != nil || l.Spec.Phase != want {
		r.Errorf("lease of %s: %v, %v; want %s", address, l, err, want)
	}
}

// A StatefulSet's pod keeps its address by its name: made anew on its node, on another, and while the first is not yet gone.
func TestStatefulSetPods(t *testing.T) {
	r := newRig(t, `a: {cooldown: 1h, subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.2"]}]}`)
	n := r.neighbour()
	knows := func(n *rig, address string, phase v1alpha1.LeasePhase) {
		t.Helper()
		apitest.Eventually(t, "the other node knows", func() error {
			pod := podOwnedBy("apps/v1 StatefulSet db", nil)
			pod.Namespace, pod.Name, pod.OwnerReferences[0].UID = r.name, "db-0", "4711"
			c := claimantOf(pod, v1alpha1.LeaseHolder{Namespace: r.name, Pod: "db-0", Interface: "net1"}, nad.Ask{})
			if n.store.Kept(c)[netip.MustParseAddr(address)] == "" {
				return errors.New("not yet")
			}
			return nil
		})
		r.phase(address, phase)
	}

	p := r.member("db-0", "berth.dev/ippool=$a")
	at := r.add(p, "s1", "net1")
	r.del(p, "s1", "net1")
	r.phase(at, v1alpha1.LeaseReserved)
	r.deletePod("db-0")
	p = r.member("db-0", "berth.dev/ippool=$a")
	if got := r.add(p, "s2", "net1"); got != at {
		t.Errorf("made anew: %s, had %s", got, at)
	}
	knows(n, at, v1alpha1.LeaseBound)

	// On another node, before the first node's DEL.
	r.deletePod("db-0")
	q := n.member("db-0", "berth.dev/ippool=$a")
	n.refused(request(q, "s3", "net1", macvlan), types.ErrTryAgainLater, fmt.Sprintf(`address %s of this pod's StatefulSet "db" is Bound`, at), "nothing proves that pod gone")
	r.wantBound(at + " db-0/net1/s2")
	r.del(p, "s2", "net1")
	if got := n.add(q, "s3", "net1"); got != at {
		t.Errorf("on another node: %s, had %s", got, at)
	}
	r.del(p, "s2", "net1") // late
	r.wantBound(at + " db-0/net1/s3")

	// Others share what is left, under pressure before its cooldown is over.
	one := r.pod("one", "berth.dev/ippool=$a")
	r.add(one, "s4", "net1")
	r.del(one, "s4", "net1")
	two := r.pod("two", "berth.dev/ippool=$a")
	if got := r.add(two, "s5", "net1"); got == at {
		t.Errorf("another pod gets %s", got)
	}
	r.event("two", "AddressReusedEarly", "before its cooldown was over")
}

// An address that is claimed in vain is not kept: pods that cannot start use up nothing.
func TestClaimedInVainIsNotKept(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.2"]}]}`)
	p := r.member("db-0", "berth.dev/ippool=$a", "berth.dev/steering=always")
	r.path.setOnAttach(func() error { return errors.New("no vmac today") })
	r.refused(request(p, "s1", "net1", macvlan), types.ErrInternal, "no vmac today")
	list, err := r.leases.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.network=" + r.name})
	if err != nil || len(list.Items) != 1 || list.Items[0].Spec.Phase != v1alpha1.LeaseReleased {
		t.Errorf("left: %v, %v", list.Items, err)
	}
	r.path.setOnAttach(nil)
	at := r.add(p, "s2", "net1") // the same, as the one it had last
	if at != list.Items[0].Spec.Address {
		t.Errorf("%s, then %s", list.Items[0].Spec.Address, at)
	}
	r.del(p, "s2", "net1")
	r.phase(at, v1alpha1.LeaseReserved)

	// What was kept before is kept again.
	r.path.setOnAttach(func() error { return errors.New("no vmac today") })
	r.refused(request(p, "s3", "net1", macvlan), types.ErrInternal, "no vmac today")
	r.phase(at, v1alpha1.LeaseReserved)
}

// A claim of which nothing was heard may land when the pod has another address already. What it reserved is given up as soon as the pod's
// identity has got its own again, else a later pod might be given the one or the other.
func TestStrayReservationIsGivenUp(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.5"]}]}`)
	p := r.member("db-0", "berth.dev/ippool=$a")
	at := r.add(p, "s1", "net1")
	own, err := r.leases.Get(t.Context(), r.name+"."+at, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	make := func(address string, phase v1alpha1.LeasePhase, change func(*v1alpha1.IPLeaseSpec)) {
		t.Helper()
		l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: r.name + "." + address, Labels: own.Labels}, Spec: *own.Spec.DeepCopy()}
		l.Spec.Address, l.Spec.Phase = address, phase
		change(&l.Spec)
		if _, err := r.leases.Create(t.Context(), l, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var free []string
	for _, a := range []string{"10.6.0.1", "10.6.0.2", "10.6.0.3", "10.6.0.4", "10.6.0.5"} {
		if a != at {
			free = append(free, a)
		}
	}
	make(free[0], v1alpha1.LeaseReserved, func(*v1alpha1.IPLeaseSpec) {})
	make(free[1], v1alpha1.LeaseReserved, func(s *v1alpha1.IPLeaseSpec) { s.Identity.Pod = "db-1" })
	make(free[2], v1alpha1.LeaseReserved, func(s *v1alpha1.IPLeaseSpec) { s.Identity.Ends = "" }) // a person's
	make(free[3], v1alpha1.LeaseBound, func(s *v1alpha1.IPLeaseSpec) { s.Holder.UID, s.Holder.ContainerID = "earlier", "s0" })
	apitest.Eventually(t, "the agent knows", func() error {
		if n := len(r.store.Strays(claimantOf(p, *own.Spec.Holder, nad.Ask{}), []*v1alpha1.IPLease{own})); n != 2 {
			return fmt.Errorf("%d strays", n)
		}
		return nil
	})
	if got := r.add(p, "s2", "net1"); got != at {
		t.Errorf("%s, had %s", got, at)
	}
	r.phase(free[0], v1alpha1.LeaseReleased)
	r.phase(free[1], v1alpha1.LeaseReserved)
	r.phase(free[2], v1alpha1.LeaseReserved)
	r.phase(free[3], v1alpha1.LeaseBound)
	l, err := r.leases.Get(t.Context(), r.name+"."+free[3], metav1.GetOptions{})
	if err != nil || l.Spec.Identity != nil || l.Labels[v1alpha1.LabelIdentity] != "" {
		t.Errorf("once its earlier pod has gone, %+v is kept for the identity again: %v", l, err)
	}
}

// A claim that landed after its ADD was given up is not what a later sandbox of the pod keeps, if the identity has an address.
func TestUnansweredClaim(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	r.stop()
	r.conf.Journal = filepath.Join(t.TempDir(), "journal")
	r.start()
	p := r.member("db-0", "berth.dev/ippool=$a")
	at := r.add(p, "s2", "net1")
	l, err := r.leases.Get(t.Context(), r.name+"."+at, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.del(p, "s2", "net1")
	late := "10.6.0.77"
	if at == late {
		late = "10.6.0.78"
	}
	l = &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: r.name + "." + late, Labels: l.Labels}, Spec: l.Spec}
	l.Spec.Address, l.Spec.Holder.ContainerID = late, "s1"
	if _, err := r.leases.Create(t.Context(), l, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the agent knows of it", func() error {
		if len(r.store.HeldByPod(p.UID, "net1")) != 1 {
			return errors.New("not yet")
		}
		return nil
	})
	if got := r.add(p, "s3", "net1"); got != at {
		t.Errorf("%s, had %s", got, at)
	}
	r.wantBound(at + " db-0/net1/s3")
	r.phase(late, v1alpha1.LeaseReleased)
	r.add(p, "s4", "net1") // what was answered it keeps
	r.wantBound(at + " db-0/net1/s4")
}

// Nor does it come before what a sandbox of the pod was answered with, in whichever pool; but where that is all there is, it is kept.
func TestUnansweredBesideAnswered(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: [10.6.0.100-10.6.0.200]}]}`, `c: {subnets: [{cidr: 10.7.0.0/24, ips: [10.7.0.1]}]}`)
	r.stop()
	r.conf.Journal = filepath.Join(t.TempDir(), "journal")
	r.start()
	again := func(p *corev1.Pod, at, late string) {
		t.Helper()
		if got := r.add(p, "s3-"+p.Name, "net1"); got != at {
			t.Errorf("%s: %s, had %s", p.Name, got, at)
		}
		r.phase(late, v1alpha1.LeaseReleased)
	}
	p := r.pod("one-pool", "berth.dev/ippool=$a")
	at := r.add(p, "s2-"+p.Name, "net1")
	r.edit("a", func(s *v1alpha1.IPPoolSpec) { s.Subnets[0].IPs = append(s.Subnets[0].IPs, "10.6.0.1") })
	r.holds(p, "s1", "a", "10.6.0.1")
	again(p, at, "10.6.0.1")

	p = r.pod("two-pools", `berth.dev/ippool=["$b", "$a"]`)
	at = r.add(p, "s2-"+p.Name, "net1")
	r.pool("b", `{subnets: [{cidr: 10.5.0.0/24}]}`)
	r.edit("b", func(*v1alpha1.IPPoolSpec) {}) // it is seen
	r.holds(p, "s1", "b", "10.5.0.1")
	again(p, at, "10.5.0.1")

	p = r.pod("alone", "berth.dev/ippool=$c")
	r.holds(p, "s1", "c", "10.7.0.1")
	if got := r.add(p, "s2-"+p.Name, "net1"); got != "10.7.0.1" {
		t.Errorf("%s, and the pool has no other", got)
	}
}

// An agent that knows of one of an identity's two addresses asks for the other.
func TestPartlyKnown(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/16}]}`, `b: {subnets: [{cidr: "fd00:6::/64"}]}`)
	n := r.neighbour()
	defer r.faults.HoldWatches("%2Fpool%3D" + r.name + "-a")()
	const pools = `berth.dev/ippool={"ipv4": ["$a"], "ipv6": ["$b"]}`
	p := n.member("db-0", pools)
	at := n.add(p, "s1", "net1")
	n.del(p, "s1", "net1")
	n.deletePod("db-0")
	p = r.member("db-0", pools)
	claimant := claimantOf(p, v1alpha1.LeaseHolder{Namespace: r.name, Pod: "db-0", Interface: "net1"}, nad.Ask{})
	apitest.Eventually(t, "the other node knows of one address", func() error {
		if kept := r.store.Kept(claimant); len(kept) != 1 {
			return fmt.Errorf("it knows of %v", kept)
		}
		return nil
	})
	if got := r.add(p, "s2", "net1"); got != at {
		t.Errorf("%s, had %s", got, at)
	}
}

// Fixed addresses: by ordinal for a StatefulSet, any of them for others.
func TestFixedAddresses(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	const ips = "berth.dev/ips=10.6.0.50-10.6.0.51"
	if got := r.add(r.member("db-1", "berth.dev/ippool=$a", ips), "s1", "net1"); got != "10.6.0.51" {
		t.Errorf("db-1 gets %s", got)
	}
	r.refused(request(r.member("db-2", "berth.dev/ippool=$a", ips), "s2", "net1", macvlan), 103, "none for ordinal 2")
	if got := r.add(r.pod("web", "berth.dev/ippool=$a", ips), "s3", "net1"); got != "10.6.0.50" {
		t.Errorf("web gets %s", got)
	}
	r.refused(request(r.pod("more", "berth.dev/ippool=$a", ips), "s4", "net1", macvlan), 102, "none of the IPv4 addresses asked for is free")
}
