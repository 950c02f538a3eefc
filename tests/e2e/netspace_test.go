package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// returned is how long a share may take to be given back: the controller's --return-after of the set-up, twice, and the looks at it.
const returned = 4 * time.Minute

// tenant is a Netspace of the space's one namespace, with a share of total.
func (s *space) tenant(total string) *v1alpha1.Netspace {
	s.Helper()
	n := &v1alpha1.Netspace{ObjectMeta: metav1.ObjectMeta{Name: s.name + "-t"}}
	n.Spec = v1alpha1.NetspaceSpec{Namespaces: []string{s.name}, Guests: v1alpha1.GuestsRefuse, Share: &v1alpha1.NetspaceShare{Subnet: total, Size: 16}}
	must(s, on.Create(s.Context(), n))
	s.Cleanup(func() { must(s, client.IgnoreNotFound(on.Delete(context.Background(), n))) })
	return n
}

// netspaceIs waits until the condition Ready of a netspace has the words.
func (s *space) netspaceIs(n *v1alpha1.Netspace, words ...string) {
	s.Helper()
	s.condition(n, &n.Status.Conditions, v1alpha1.NetspaceReady, words...)
}

// networkNamed is a NetworkAttachmentDefinition.
func networkNamed(namespace, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("k8s.cni.cncf.io/v1")
	u.SetKind("NetworkAttachmentDefinition")
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

// problem waits for the annotation of a network of the space to say it.
func (s *space) problem(name, word string) {
	s.Helper()
	eventually(s, patience, "problem of network "+name, func(ctx context.Context) error {
		u := networkNamed(s.name, name)
		if err := on.Get(ctx, client.ObjectKeyFromObject(u), u); err != nil {
			return err
		}
		if is := u.GetAnnotations()["berth.dev/problem"]; !strings.Contains(is, word) {
			return fmt.Errorf("problem %q, want %q", is, word)
		}
		return nil
	})
}

// TestNetspaces: two tenants of one Subnet get pools and networks of their own; neither gets an address by the other's pool or network, and
// one that goes waits for its pods and gives back what it had.
func TestNetspaces(t *testing.T) {
	s := newSpace(t)
	other := &space{t, s.name + "-b", s.third}
	must(t, on.Create(t.Context(), other.namespace()))
	t.Cleanup(other.sweep)
	total := &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: s.name}}
	total.Spec = v1alpha1.SubnetSpec{
		Network: s.name, Parent: "eth0", NodeAffinity: selector("zone", "a"),
		CIDRs: []v1alpha1.SubnetCIDR{
			{CIDR: "10.6.0.0/16", Gateway: "10.6.0.1", Reserved: []string{
				fmt.Sprintf("10.6.0.0-10.6.%d.255", s.third-1), fmt.Sprintf("10.6.%d.0-10.6.255.255", s.third+1),
			}},
			{CIDR: "fd00:6::/64", Gateway: "fd00:6::1", Reserved: []string{
				fmt.Sprintf("fd00:6::-fd00:6::%x:ffff", s.third-1), fmt.Sprintf("fd00:6::%x:0-fd00:6::ffff:ffff:ffff:ffff", s.third+1),
			}},
		},
	}
	must(t, on.Create(t.Context(), total))
	t.Cleanup(func() { must(t, client.IgnoreNotFound(on.Delete(context.Background(), total))) })
	a, b := s.tenant(total.Name), other.tenant(total.Name)
	for _, x := range []struct {
		*space
		n *v1alpha1.Netspace
	}{{s, a}, {other, b}} {
		x.netspaceIs(x.n, "True Serving")
		eventually(x, patience, "network "+x.n.Name, func(ctx context.Context) error {
			return on.Get(ctx, client.ObjectKey{Namespace: x.name, Name: x.n.Name}, networkNamed("", ""))
		})
	}

	// Each has its own, and reaches its own.
	pa := s.start("a", onNode(nodeA), note(networks, a.Name))
	pa2 := s.start("a2", onNode(nodeA), note(networks, a.Name))
	pb := other.start("b", onNode(nodeA), note(networks, b.Name))
	for _, x := range []struct {
		*space
		p    *corev1.Pod
		pool string
	}{{s, pa, a.Name}, {s, pa2, a.Name}, {other, pb, b.Name}} {
		if got := x.poolOf(x.p, "net1"); got != x.pool {
			t.Errorf("pod %s has an address of pool %s, want %s", x.p.Name, got, x.pool)
		}
		if addrs, _ := x.boundTo(x.p, "net1"); len(addrs) != 2 {
			t.Errorf("pod %s has %v", x.p.Name, addrs)
		}
	}
	to, _ := s.boundTo(pa2, "net1")
	s.reach(pa, "udp "+to[0].String()+":8081")

	// Neither has the other's.
	of := fmt.Sprintf("is of netspace %q", a.Name)
	other.refused(other.pod("by-pool", onNode(nodeA), note(networks, b.Name), note(ippool, a.Name)), of)
	other.refused(other.pod("by-network", onNode(nodeA), note(networks, s.name+"/"+a.Name)), of)
	other.refused(other.pod("by-name", onNode(nodeA), note(networks, b.Name), note("berth.dev/netspace", a.Name)), a.Name)

	// A network that a person makes with the other's pool is told of before any pod.
	other.underlay("theirs", map[string]any{"ippools": []string{a.Name}})
	other.problem("theirs", fmt.Sprintf("serves netspace %q only", a.Name))

	// One goes: not before its pods, and with all that it had.
	must(t, on.Delete(t.Context(), b))
	other.netspaceIs(b, "False WaitsForPods", fmt.Sprintf("the pods of pool %q", b.Name))
	must(t, on.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(other.name)))
	eventually(t, returned, "netspace "+b.Name+" is gone", func(ctx context.Context) error {
		if exists(ctx, b) {
			return fmt.Errorf("%+v", b.Status.Conditions)
		}
		return nil
	})
	gone(t, networkNamed(other.name, b.Name))
	for _, o := range []client.Object{
		&v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: b.Name}}, &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: total.Name + "-" + b.Name}},
	} {
		if exists(t.Context(), o) {
			t.Errorf("%s is left of netspace %s", o.GetName(), b.Name)
		}
	}
	if got := s.poolOf(pa, "net1"); got != a.Name {
		t.Errorf("the other tenant's pod has an address of %s", got)
	}
}
