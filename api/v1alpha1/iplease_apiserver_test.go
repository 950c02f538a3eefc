//go:build apiserver

package v1alpha1

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestLeaseValidation(t *testing.T) {
	leases := apiserver(t).Resource(GroupVersion.WithResource("ipleases"))
	for _, tc := range []struct {
		desc, name, spec string
		want             []string
	}{
		{desc: "by hand", name: "vlan910.10.6.1.65", spec: "network: vlan910, address: 10.6.1.65, phase: Reserved"},
		{desc: "IPv6", name: "vlan910.2001-db8-0-0-0-0-0-1", spec: `network: vlan910, address: "2001:db8::1", phase: Reserved`},
		{desc: "IPv6, zeros first", name: "net.0-0-0-0-0-0-0-1", spec: `network: net, address: "::1", phase: Reserved`},
		{desc: "IPv6, zeros last", name: "net.2001-db8-0-0-0-0-0-0", spec: `network: net, address: "2001:db8::", phase: Reserved`},
		{desc: "IPv6, no zeros", name: "net.2001-db8-1-2-3-4-5-6", spec: `network: net, address: "2001:db8:1:2:3:4:5:6", phase: Reserved`},
		{desc: "IPv6, one zero", name: "net.2001-db8-0-2-3-4-5-6", spec: `network: net, address: "2001:db8:0:2:3:4:5:6", phase: Reserved`},
		{desc: "IPv6, two runs", name: "net.2001-0-0-2-0-0-0-6", spec: `network: net, address: "2001:0:0:2::6", phase: Reserved`},
		{desc: "bound", name: "vlan910.10.6.1.65", spec: "network: vlan910, address: 10.6.1.65, phase: Bound, holder: {namespace: a, pod: b, uid: c}"},
		{desc: "bound to nobody", name: "vlan910.10.6.1.65", spec: "network: vlan910, address: 10.6.1.65, phase: Bound", want: []string{"spec.phase", "needs a holder"}},
		{desc: "other address in the name", name: "vlan910.10.6.1.66", spec: "network: vlan910, address: 10.6.1.65, phase: Reserved",
			want: []string{`the name of the lease of 10.6.1.65 in network "vlan910" is vlan910.10.6.1.65`}},
		{desc: "other network in the name", name: "vlan911.10.6.1.65", spec: "network: vlan910, address: 10.6.1.65, phase: Reserved", want: []string{"is vlan910.10.6.1.65"}},
		{desc: "short IPv6 name", name: "net.2001-db8--1", spec: `network: net, address: "2001:db8::1", phase: Reserved`,
			want: []string{`the name of the lease of 2001:db8::1 in network "net" is net.2001-db8-0-0-0-0-0-1`}},
		{desc: "IPv6 not canonical", name: "net.2001-db8-0-0-0-0-0-1", spec: `network: net, address: "2001:db8:0::1", phase: Reserved`, want: []string{"spec.address", "write 2001:db8::1"}},
		{desc: "malformed", name: "net.10.6.1", spec: "network: net, address: 10.6.1, phase: Reserved", want: []string{"spec.address", `address "10.6.1" is not an address`}},
		{desc: "network", name: "a.b.10.6.1.1", spec: "network: a.b, address: 10.6.1.1, phase: Reserved", want: []string{"spec.network", `network "a.b"`}},
		{desc: "phase", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Free", want: []string{"spec.phase", "Free"}},
		{desc: "migrating", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Bound, holder: {namespace: a, pod: b, uid: c}, next: {namespace: a, pod: d, uid: e}"},
		{desc: "released, migrating", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Released, next: {namespace: a, pod: d, uid: e}",
			want: []string{"spec.phase", "only a Bound lease has a next holder"}},
		{desc: "migrating to nowhere", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Bound, next: {namespace: a, pod: d, uid: e}", want: []string{"spec.phase", "needs a holder"}},
		{desc: "quarantined", name: "net.10.6.1.1", spec: `network: net, address: 10.6.1.1, phase: Quarantined, conflict: {mac: "02:00:00:00:00:01", seenAt: "2026-11-20T12:00:00Z", node: node-a, parent: eth0}`},
		{desc: "quarantined by hand", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Quarantined",
			want: []string{"spec.phase", "a Quarantined lease needs the conflict: who answers for the address; to keep it out of use, make it Reserved"}},
		{desc: "conflict with nobody", name: "net.10.6.1.1", spec: `network: net, address: 10.6.1.1, phase: Quarantined, conflict: {seenAt: "2026-11-20T12:00:00Z"}`, want: []string{"spec.conflict.mac", "Required"}},
		{desc: "conflict at no time", name: "net.10.6.1.1", spec: `network: net, address: 10.6.1.1, phase: Quarantined, conflict: {mac: "02:00:00:00:00:01"}`, want: []string{"spec.conflict.seenAt", "Required"}},
		{desc: "identity", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Reserved, identity: {kind: StatefulSet, namespace: shop, name: web, pod: web-0, interface: net1, uid: u, ends: WithOwner}"},
		{desc: "identity by an operator", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Reserved, identity: {kind: Pod, namespace: shop, name: web-0}"},
		{desc: "identity of a bound one", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Bound, holder: {namespace: shop}, identity: {kind: Name, namespace: shop, name: x, ends: AfterTime}"},
		{desc: "identity of no kind", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Reserved, identity: {namespace: shop, name: web}", want: []string{"spec.identity.kind", "Required"}},
		{desc: "identity of an empty kind", name: "net.10.6.1.1", spec: `network: net, address: 10.6.1.1, phase: Reserved, identity: {kind: "", namespace: shop, name: web}`,
			want: []string{"spec.identity.kind", `identity kind "" is not a kind such as StatefulSet`}},
		{desc: "identity of a resource", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Reserved, identity: {kind: statefulsets, namespace: shop, name: web}",
			want: []string{"spec.identity.kind", `identity kind "statefulsets" is not a kind such as StatefulSet, VirtualMachineInstance, IPAMClaim, Name, Pod or Deployment`}},
		{desc: "identity in no namespace", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Reserved, identity: {kind: Pod, name: web-0}", want: []string{"spec.identity.namespace", "Required"}},
		{desc: "identity in an empty namespace", name: "net.10.6.1.1", spec: `network: net, address: 10.6.1.1, phase: Reserved, identity: {kind: Pod, namespace: "", name: web-0}`, want: []string{"spec.identity.namespace"}},
		{desc: "identity without name", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Reserved, identity: {kind: Pod, namespace: shop}", want: []string{"spec.identity.name", "Required"}},
		{desc: "identity of a long interface", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Reserved, identity: {kind: Pod, namespace: shop, name: web-0, interface: sixteen-letters-}", want: []string{"spec.identity.interface", "15"}},
		{desc: "identity that ends sometime", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1, phase: Reserved, identity: {kind: Pod, namespace: shop, name: web-0, ends: Sometime}",
			want: []string{"spec.identity.ends", "Sometime", "WithOwner", "AfterTime"}},
		{desc: "no phase", name: "net.10.6.1.1", spec: "network: net, address: 10.6.1.1", want: []string{"spec.phase"}},
	} {
		t.Run(tc.desc, func(t *testing.T) {
			_, err := create(t, leases, "{apiVersion: berth.dev/v1alpha1, kind: IPLease, metadata: {name: "+tc.name+"}, spec: {"+tc.spec+"}}")
			checkRefusal(t, err, tc.want)
		})
	}
}

func TestLeaseCannotMove(t *testing.T) {
	leases := apiserver(t).Resource(GroupVersion.WithResource("ipleases"))
	l, err := create(t, leases, "{apiVersion: berth.dev/v1alpha1, kind: IPLease, metadata: {name: net.10.6.1.1}, spec: {network: net, address: 10.6.1.1, phase: Reserved}}")
	if err != nil {
		t.Fatal(err)
	}
	for field, value := range map[string]string{"network": "m", "address": "10.6.1.2"} {
		e := l.DeepCopy()
		e.Object["spec"].(map[string]any)[field] = value
		_, err := leases.Update(t.Context(), e, metav1.UpdateOptions{})
		checkRefusal(t, err, []string{"spec." + field, "cannot be changed"})
	}
}

// TestLeaseInUseIsNotReserved: a tool that applies a reservation again must not take the address from the pod that has it by now. What
// gives it back says when it did.
func TestLeaseInUseIsNotReserved(t *testing.T) {
	leases := apiserver(t).Resource(GroupVersion.WithResource("ipleases"))
	l, err := create(t, leases, "{apiVersion: berth.dev/v1alpha1, kind: IPLease, metadata: {name: net.10.6.1.1}, "+
		"spec: {network: net, address: 10.6.1.1, phase: Reserved, identity: {kind: Pod, namespace: shop, name: web-0}}}")
	if err != nil {
		t.Fatal(err)
	}
	update := func(changes map[string]any) error {
		e := l.DeepCopy()
		for field, value := range changes {
			e.Object["spec"].(map[string]any)[field] = value
		}
		got, err := leases.Update(t.Context(), e, metav1.UpdateOptions{})
		if err == nil {
			l = got
		}
		return err
	}
	checkRefusal(t, update(map[string]any{"phase": "Bound", "holder": map[string]any{"namespace": "shop", "pod": "web-0"}}), nil)
	checkRefusal(t, update(map[string]any{"phase": "Reserved"}), []string{"spec.phase", "a pod has the address", "kubectl create"})
	checkRefusal(t, update(map[string]any{"phase": "Reserved", "releasedAt": "2026-11-21T12:00:00Z"}), nil)
	checkRefusal(t, update(map[string]any{"phase": "Reserved", "identity": map[string]any{"kind": "Pod", "namespace": "shop", "name": "web-1"}}), nil)
}
