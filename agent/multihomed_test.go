package agent

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

func TestMultihomed(t *testing.T) {
	pod := func(name string, ips ...string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
		for _, ip := range ips {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
		}
		return p
	}
	lease := func(pod, address, parent string) *v1alpha1.IPLease {
		l := &v1alpha1.IPLease{}
		l.Spec.Address, l.Spec.Phase = address, v1alpha1.LeaseBound
		l.Spec.Holder = &v1alpha1.LeaseHolder{Namespace: "ns", Pod: pod, Parent: parent}
		return l
	}
	pods := []*corev1.Pod{
		pod("second", "10.244.0.3", "fd00:244::3"),
		pod("default", "10.6.0.4", "fd00:6::4"),
		pod("starting"),
		pod("overlay", "10.244.0.5"),
		pod("bridged", "10.244.0.6"),
	}
	got := multihomed(pods, []*v1alpha1.IPLease{
		lease("second", "10.6.0.3", "eth0"),
		lease("default", "10.6.0.4", "eth0"), lease("default", "fd00:6::4", "eth0"),
		lease("starting", "10.6.0.5", "eth0"),
		lease("bridged", "10.6.0.6", ""), // no macvlan interface, so nothing of it is on a vmac
	}, "")
	var want []netip.Addr
	for _, s := range []string{"10.244.0.3", "fd00:244::3", "10.6.0.3"} {
		want = append(want, netip.MustParseAddr(s))
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
