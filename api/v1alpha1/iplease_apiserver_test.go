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
