//go:build apiserver

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/nad"
)

// TestOwnerRoutes: the path is told of other nodes' pods, while both nodes have owner routes, and the node says that it has.
func TestOwnerRoutes(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.7"]}]}`)
	others := func() []path.OtherNode {
		r.path.mu.Lock()
		defer r.path.mu.Unlock()
		if r.path.others == nil {
			return nil
		}
		return *r.path.others
	}
	annotated := func(want bool) {
		t.Helper()
		apitest.Eventually(t, "the annotation", func() error {
			n, err := r.kube.CoreV1().Nodes().Get(t.Context(), r.name, metav1.GetOptions{})
			if _, has := n.Annotations[nad.OwnerRoutesAnnotation]; err == nil && has != want {
				err = fmt.Errorf("there: %v, want %v", has, want)
			}
			return err
		})
	}
	if r.path.others == nil || len(others()) > 0 {
		t.Errorf("without owner routes: %v", others())
	}
	annotated(false)

	nodes := r.kube.CoreV1().Nodes()
	other := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-2", Annotations: map[string]string{nad.OwnerRoutesAnnotation: "true"}},
		Spec: corev1.NodeSpec{PodCIDR: "10.244.2.0/24", PodCIDRs: []string{"10.244.2.0/24"}}}
	other, err := nodes.Create(t.Context(), other, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nodes.Delete(context.Background(), other.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	other.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.6.0.12"}}
	if _, err := nodes.UpdateStatus(t.Context(), other, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := netip.MustParseAddr("10.6.2.1")
	lease := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: ipam.LeaseName(r.name, pod)}}
	lease.Spec.Network, lease.Spec.Address, lease.Spec.Pool, lease.Spec.Phase = r.name, pod.String(), r.name+"-a", v1alpha1.LeaseBound
	lease.Spec.Holder = &v1alpha1.LeaseHolder{Namespace: r.name, Pod: "web", UID: "u", Node: other.Name, ContainerID: "s9", Interface: "net1", Parent: "eth0", MAC: "02:00:00:00:00:09"}
	if lease, err = r.leases.Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	r.stop()
	r.conf.OwnerRoutes = true
	r.start()
	annotated(true)
	sees := func(pods ...netip.Addr) {
		t.Helper()
		want := []path.OtherNode{{Addresses: []netip.Addr{netip.MustParseAddr("10.6.0.12")}, Overlay: []netip.Prefix{netip.MustParsePrefix("10.244.2.0/24")}, Pods: pods}}
		same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
		prefixes := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
		apitest.Eventually(t, "the path is told", func() error {
			if diff := cmp.Diff(want, others(), same, prefixes); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
	}
	sees(pod)
	lease.Spec.Holder.Node = r.name // it moves here
	if lease, err = r.leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	sees()
	lease.Spec.Holder.Node = other.Name
	if _, err = r.leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	sees(pod)
	if err := r.leases.Delete(t.Context(), lease.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	sees()

	r.stop()
	r.conf.OwnerRoutes = false
	r.start()
	annotated(false)
	if r.path.others == nil || len(others()) > 0 {
		t.Errorf("turned off: %v", others())
	}
	r.conf.OwnerRoutes, r.conf.PodCIDRs = true, []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	if _, err := newAgent(r.conf, r.cfg, newFakePath(), r.log); !errors.Is(err, errOwnerRoutes) {
		t.Errorf("with --pod-cidrs: %v", err)
	}
}
