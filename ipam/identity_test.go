package ipam

import (
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
)

// identity "kind/name", of namespace ns.
func identity(kind, name string, change ...func(*v1alpha1.LeaseIdentity)) *v1alpha1.LeaseIdentity {
	i := &v1alpha1.LeaseIdentity{Kind: kind, Namespace: "ns", Name: name}
	for _, f := range change {
		f(i)
	}
	return i
}

func ofPod(name string) func(*v1alpha1.LeaseIdentity) {
	return func(i *v1alpha1.LeaseIdentity) { i.Pod = name }
}
func ofUID(uid string) func(*v1alpha1.LeaseIdentity) {
	return func(i *v1alpha1.LeaseIdentity) { i.UID = "uid-" + types.UID(uid) }
}
func on(ifName string) func(*v1alpha1.LeaseIdentity) {
	return func(i *v1alpha1.LeaseIdentity) { i.Interface = ifName }
}
func elsewhere(i *v1alpha1.LeaseIdentity) { i.Namespace = "other" }
func ends(i *v1alpha1.LeaseIdentity)      { i.Ends = v1alpha1.EndsWithOwner }

// claims of interface net1 of pods in namespace ns on node n1.
func claimOf(pod string, i *v1alpha1.LeaseIdentity, names ...string) Claimant {
	c := Claimant{Holder: v1alpha1.LeaseHolder{Namespace: "ns", Pod: pod, UID: "u-" + types.UID(pod), Node: "n1", ContainerID: "c-" + pod, Interface: "net1"},
		Identity: i, Names: map[string]string{v1alpha1.IdentityPod: pod}}
	if i != nil {
		c.Names[i.Kind] = i.Name
	}
	for n := 0; n < len(names); n += 2 {
		c.Names[names[n]] = names[n+1]
	}
	return c
}

// Whom an address is kept for, and who has it alone: by the identity that agents write, and by what an operator writes.
func TestWhoseAddress(t *testing.T) {
	const (
		nobody = "nobody's"
		may    = "may"
		alone  = "alone"
	)
	set := claimOf("db-0", identity("StatefulSet", "db", ofPod("db-0"), ofUID("s1"), on("net1"), ends))
	vm := claimOf("virt-launcher-x", identity("VirtualMachineInstance", "vm", ofUID("v1"), on("net1"), ends))
	claim := claimOf("p", identity("IPAMClaim", "vm.blue", on("net1"), ends), "VirtualMachineInstance", "vm")
	named := claimOf("p", identity("Name", "broker", on("net1")))
	web := claimOf("web-abc", nil, "ReplicaSet", "web-1", "Deployment", "web")
	for _, tc := range []struct {
		name string
		c    Claimant
		i    *v1alpha1.LeaseIdentity
		want string
	}{
		{"none", web, nil, nobody},
		{"set: its own", set, set.Identity, alone},
		{"set: another pod's", set, identity("StatefulSet", "db", ofPod("db-1"), ofUID("s1"), on("net1"), ends), nobody},
		{"set: made anew", set, identity("StatefulSet", "db", ofPod("db-0"), ofUID("s0"), on("net1"), ends), nobody},
		{"set: another interface", set, identity("StatefulSet", "db", ofPod("db-0"), ofUID("s1"), on("net2"), ends), nobody},
		{"set: another namespace", set, identity("StatefulSet", "db", ofPod("db-0"), ofUID("s1"), on("net1"), ends, elsewhere), nobody},
		{"set: operator, any of its pods", set, identity("StatefulSet", "db"), may},
		{"set: operator, this pod", set, identity("StatefulSet", "db", ofPod("db-0")), alone},
		{"set: operator, another pod", set, identity("StatefulSet", "db", ofPod("db-1")), nobody},
		{"set: operator, another set's pod of this name", set, identity("StatefulSet", "dc", ofPod("db-0")), nobody},
		{"pod: operator", web, identity("Pod", "web-abc"), alone},
		{"pod: operator, this interface", web, identity("Pod", "web-abc", on("net1")), alone},
		{"pod: operator, another interface", web, identity("Pod", "web-abc", on("net2")), nobody},
		{"pod: operator, another pod", web, identity("Pod", "web-abd"), nobody},
		{"pod: operator, another namespace", web, identity("Pod", "web-abc", elsewhere), nobody},
		{"deployment: operator", web, identity("Deployment", "web"), may},
		{"deployment: operator, one pod", web, identity("Deployment", "web", ofPod("web-abc")), alone},
		{"deployment: operator, another's", web, identity("Deployment", "shop"), nobody},
		{"replica set: operator", web, identity("ReplicaSet", "web-1"), may},
		{"vm: its own", vm, vm.Identity, alone},
		{"vm: restarted", vm, identity("VirtualMachineInstance", "vm", ofUID("v0"), on("net1"), ends), alone},
		{"vm: another", vm, identity("VirtualMachineInstance", "vm2", ofUID("v1"), on("net1"), ends), nobody},
		{"vm: operator", vm, identity("VirtualMachineInstance", "vm"), alone},
		{"claim: its own", claim, claim.Identity, alone},
		{"claim: another", claim, identity("IPAMClaim", "vm.red", on("net1"), ends), nobody},
		{"claim: of a vm, for which an operator reserved", claim, identity("VirtualMachineInstance", "vm"), alone},
		{"name: its own", named, named.Identity, alone},
		{"name: a pod of that name", named, identity("Pod", "broker"), nobody},
		{"name: a claim of that name", named, identity("IPAMClaim", "broker", on("net1"), ends), nobody},
		{"name: operator", named, identity("Name", "broker"), alone},
		{"no identity, but a lease that has one", claimOf("db-0", nil), set.Identity, nobody},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := nobody
			if tc.c.May(tc.i) {
				got = may
			}
			if tc.c.Is(tc.i) {
				if got == nobody {
					t.Error("alone, but may not")
				}
				got = alone
			}
			if got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// Which leases a claimant may have: Released ones, and those Reserved for it.
func TestFree(t *testing.T) {
	c := claimOf("db-0", identity("StatefulSet", "db", ofPod("db-0"), ofUID("s1")))
	other := identity("StatefulSet", "db", ofPod("db-1"), ofUID("s1"))
	for _, tc := range []struct {
		phase v1alpha1.LeasePhase
		i     *v1alpha1.LeaseIdentity
		want  bool
	}{
		{released, nil, true}, {released, other, true},
		{reserved, c.Identity, true}, {reserved, other, false}, {reserved, nil, false}, {reserved, identity("Pod", "db-0"), true},
		{bound, nil, false}, {bound, c.Identity, false}, {bound, identity("Pod", "db-0"), false},
		{quarantined, nil, false}, {quarantined, c.Identity, false},
	} {
		l := &v1alpha1.IPLease{}
		l.Spec.Phase, l.Spec.Identity = tc.phase, tc.i
		if got := c.Free(l); got != tc.want {
			t.Errorf("%s for %+v: %t", tc.phase, tc.i, got)
		}
	}
}

// A second holder there is only for a machine that migrates, from another node, and one at a time.
func TestSharesALease(t *testing.T) {
	id := identity("VirtualMachineInstance", "vm", ofUID("v1"), on("net1"), ends)
	target := claimOf("target", id)
	target.Migrates = true
	lease := func(change ...func(*v1alpha1.IPLeaseSpec)) *v1alpha1.IPLease {
		l := &v1alpha1.IPLease{}
		l.Spec.Phase, l.Spec.Identity = bound, id
		l.Spec.Holder = &v1alpha1.LeaseHolder{Namespace: "ns", Pod: "source", UID: "u-source", Node: "n0", Interface: "net1"}
		for _, f := range change {
			f(&l.Spec)
		}
		return l
	}
	next := func(uid string) func(*v1alpha1.IPLeaseSpec) {
		return func(s *v1alpha1.IPLeaseSpec) { s.Next = &v1alpha1.LeaseHolder{UID: types.UID(uid), Node: "n1"} }
	}
	by := func(i *v1alpha1.LeaseIdentity) (Claimant, *v1alpha1.IPLease) {
		c := claimOf("target", i, "VirtualMachineInstance", "vm")
		c.Migrates = true
		return c, lease(func(s *v1alpha1.IPLeaseSpec) { s.Identity = i })
	}
	check := func(name string, c Claimant, l *v1alpha1.IPLease, want bool) {
		t.Helper()
		if got := c.Shares(l); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
	check("migrates", target, lease(), true)
	check("no migration", claimOf("target", id), lease(), false)
	check("the source itself", func() Claimant { c := target; c.Holder.UID = "u-source"; return c }(), lease(), false)
	check("on the source's node", target, lease(func(s *v1alpha1.IPLeaseSpec) { s.Holder.Node = "n1" }), false)
	check("an earlier start of the machine", target, lease(func(s *v1alpha1.IPLeaseSpec) {
		s.Identity = identity("VirtualMachineInstance", "vm", ofUID("v0"), on("net1"), ends)
	}), false)
	check("another machine", target, lease(func(s *v1alpha1.IPLeaseSpec) {
		s.Identity = identity("VirtualMachineInstance", "vm2", ofUID("v1"), on("net1"), ends)
	}), false)
	check("nobody's", target, lease(func(s *v1alpha1.IPLeaseSpec) { s.Identity = nil }), false)
	check("kept, not bound", target, lease(func(s *v1alpha1.IPLeaseSpec) { s.Phase = reserved }), false)
	check("no holder", target, lease(func(s *v1alpha1.IPLeaseSpec) { s.Holder = nil }), false)
	check("it is the next already", target, lease(next("u-target")), true)
	check("another is the next", target, lease(next("u-other")), false)
	check("an operator's reservation", target, lease(func(s *v1alpha1.IPLeaseSpec) { s.Identity = identity("VirtualMachineInstance", "vm") }), true)
	for _, i := range []*v1alpha1.LeaseIdentity{identity("IPAMClaim", "vm.blue", ends), identity("Name", "broker")} {
		c, l := by(i)
		check("a machine by its "+i.Kind, c, l, true)
		c.Migrates = false
		check("two pods of one "+i.Kind, c, l, false)
	}
}
