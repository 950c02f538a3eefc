package controller

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// epoch is the time at which tests begin.
var epoch = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func subnet(cidr string, ips ...string) v1alpha1.PoolSubnet {
	return v1alpha1.PoolSubnet{CIDR: cidr, IPs: ips}
}

func pool(name, network string, subnets ...v1alpha1.PoolSubnet) *v1alpha1.IPPool {
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 1}}
	p.Spec.Network, p.Spec.Subnets = network, subnets
	return p
}

func compile(t *testing.T, p *v1alpha1.IPPool) *ipam.Pool {
	t.Helper()
	c, err := ipam.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func lease(network, address, pool string, phase v1alpha1.LeasePhase) v1alpha1.IPLease {
	name := network + ".malformed"
	if a, err := netip.ParseAddr(address); err == nil {
		name = ipam.LeaseName(network, a)
	}
	l := v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("lease " + address)}}
	l.Spec.Network, l.Spec.Address, l.Spec.Pool, l.Spec.Phase = network, address, pool, phase
	if phase == v1alpha1.LeaseReleased {
		l.Spec.ReleasedAt = &metav1.Time{Time: epoch}
	}
	if pool != "" {
		l.Labels = map[string]string{v1alpha1.LabelPool: pool}
	}
	return l
}

// held is a bound lease of the pod ns/name with this UID, on node n.
func held(address, name, uid string) v1alpha1.IPLease {
	l := lease("net", address, "a", v1alpha1.LeaseBound)
	l.Spec.Holder = &v1alpha1.LeaseHolder{Namespace: "ns", Pod: name, UID: types.UID(uid), Node: "n", ContainerID: "c-" + uid, Interface: "net1"}
	return l
}

// reserved since the epoch for ns/web, whose UID is set.
func reserved(address, kind string, ends v1alpha1.IdentityEnd) v1alpha1.IPLease {
	l := lease("net", address, "a", v1alpha1.LeaseReserved)
	l.Spec.ReleasedAt = &metav1.Time{Time: epoch}
	l.Spec.Identity = &v1alpha1.LeaseIdentity{Kind: kind, Namespace: "ns", Name: "web", UID: "set", Ends: ends}
	return l
}

func pod(name, uid string, phase corev1.PodPhase, states ...corev1.ContainerState) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid)}}
	p.Status.Phase = phase
	for _, s := range states {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{State: s})
	}
	return p
}

func node(name string, ready corev1.ConditionStatus, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse}, {Type: corev1.NodeReady, Status: ready}}
	for _, t := range taints {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: t})
	}
	return n
}

// recorded is a round.Recorder that remembers.
type recorded []string

func (r *recorded) Eventf(regarding, _ runtime.Object, kind, reason, _, note string, args ...any) {
	name := regarding.(metav1.Object).GetName()
	*r = append(*r, fmt.Sprintf("%s %s %s: "+note, append([]any{name, kind, reason}, args...)...))
}
