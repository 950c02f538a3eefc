package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// podOwnedBy "apiVersion kind name"; "" is nobody.
func podOwnedBy(owner string, labels map[string]string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-3", Labels: labels}}
	if f := strings.Fields(owner); len(f) == 3 {
		controls := true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: f[0], Kind: f[1], Name: f[2], UID: "u", Controller: &controls}}
	}
	return p
}

// What a pod is beyond its own life.
func TestClaimantOf(t *testing.T) {
	hash, migrating := map[string]string{"pod-template-hash": "7d9c"}, map[string]string{migrationLabel: "job"}
	for _, tc := range []struct {
		name, owner string
		labels      map[string]string
		ask         nad.Ask
		want        string // identity: "kind/name pod uid ends", names, whether it migrates
	}{
		{name: "alone", want: "- [Pod:web-3]"},
		{name: "Deployment", owner: "apps/v1 ReplicaSet web-7d9c", labels: hash, want: "- [Deployment:web Pod:web-3 ReplicaSet:web-7d9c]"},
		{name: "ReplicaSet of nobody", owner: "apps/v1 ReplicaSet web-7d9c", want: "- [Pod:web-3 ReplicaSet:web-7d9c]"},
		{name: "DaemonSet", owner: "apps/v1 DaemonSet web", want: "- [DaemonSet:web Pod:web-3]"},
		{name: "StatefulSet", owner: "apps/v1 StatefulSet web", want: "StatefulSet/web web-3 u WithOwner [Pod:web-3 StatefulSet:web]"},
		{name: "another group's StatefulSet", owner: "example.com/v1 StatefulSet web", want: "- [Pod:web-3 StatefulSet:web]"},
		{name: "virtual machine", owner: "kubevirt.io/v1 VirtualMachineInstance vm", want: "VirtualMachineInstance/vm  u WithOwner [Pod:web-3 VirtualMachineInstance:vm]"},
		{name: "it migrates", owner: "kubevirt.io/v1 VirtualMachineInstance vm", labels: migrating,
			want: "VirtualMachineInstance/vm  u WithOwner [Pod:web-3 VirtualMachineInstance:vm] migrates"},
		{name: "only a label", owner: "apps/v1 StatefulSet web", labels: migrating, want: "StatefulSet/web web-3 u WithOwner [Pod:web-3 StatefulSet:web]"},
		{name: "claim before all", owner: "apps/v1 StatefulSet web", ask: nad.Ask{Claim: "blue", Identity: "broker"},
			want: "IPAMClaim/blue   WithOwner [IPAMClaim:blue Pod:web-3 StatefulSet:web]"},
		{name: "a machine's claim", owner: "kubevirt.io/v1 VirtualMachineInstance vm", labels: migrating, ask: nad.Ask{Claim: "blue"},
			want: "IPAMClaim/blue   WithOwner [IPAMClaim:blue Pod:web-3 VirtualMachineInstance:vm] migrates"},
		{name: "annotation before owner", owner: "apps/v1 StatefulSet web", ask: nad.Ask{Identity: "broker"},
			want: "Name/broker   AfterTime [Name:broker Pod:web-3 StatefulSet:web]"},
	} {
		c := claimantOf(podOwnedBy(tc.owner, tc.labels), v1alpha1.LeaseHolder{Namespace: "ns", Pod: "web-3", Interface: "net1"}, tc.ask)
		got := "-"
		if i := c.Identity; i != nil {
			got = fmt.Sprintf("%s/%s %s %s %s", i.Kind, i.Name, i.Pod, i.UID, i.Ends)
			if i.Namespace != "ns" || i.Interface != "net1" {
				t.Errorf("%s: %+v", tc.name, i)
			}
		}
		got += strings.TrimPrefix(fmt.Sprintf(" %v", c.Names), " map")
		got = strings.Replace(got, "[", " [", 1)
		if c.Migrates {
			got += " migrates"
		}
		if got != tc.want {
			t.Errorf("%s: %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

// Which of the listed addresses a pod asks for.
func TestAskedOf(t *testing.T) {
	list := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	fixed := nad.Ask{Fixed: list("10.6.0.5", "10.6.0.6", "fd00::5", "fd00::6", "10.6.0.7", "10.6.0.8", "fd00::7", "fd00::8")}
	for _, tc := range []struct {
		name, owner string
		labels      map[string]string
		ask         nad.Ask
		want        ipam.Asked
		err         string
	}{
		{name: "nothing"},
		{name: "by its network", ask: nad.Ask{IPs: list("10.6.0.9")}, want: ipam.Asked{All: list("10.6.0.9")}},
		{name: "nobody's pod", ask: fixed, want: ipam.Asked{OneOf: fixed.Fixed}},
		{name: "Deployment", owner: "apps/v1 ReplicaSet web-1", ask: fixed, want: ipam.Asked{OneOf: fixed.Fixed}},
		{name: "StatefulSet, by its name", owner: "apps/v1 StatefulSet web", ask: fixed, want: ipam.Asked{All: list("10.6.0.8", "fd00::8")}},
		{name: "StatefulSet, by its label", owner: "apps/v1 StatefulSet web", labels: map[string]string{"apps.kubernetes.io/pod-index": "1"}, ask: fixed,
			want: ipam.Asked{All: list("10.6.0.6", "fd00::6")}},
		{name: "too few", owner: "apps/v1 StatefulSet web", ask: nad.Ask{Fixed: list("10.6.0.5")}, err: "has 1 IPv4 addresses, none for ordinal 3"},
		{name: "no ordinal", owner: "apps/v1 StatefulSet web", labels: map[string]string{"apps.kubernetes.io/pod-index": "x"}, ask: fixed, err: "has no ordinal"},
	} {
		got, err := askedOf(podOwnedBy(tc.owner, tc.labels), tc.ask)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.err)
		}
		if diff := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tc.name, diff)
		}
	}
}
