package main

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

func TestTrespass(t *testing.T) {
	var pools []*ipam.Pool
	for _, p := range poolSpecs(opts{agents: 8}) {
		compiled, err := ipam.Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		pools = append(pools, compiled)
	}
	yes := true
	for _, tc := range []struct{ set, netspace, address, want string }{
		{address: "10.1.0.1"},
		{address: "10.6.0.1", want: `isolation broken: pod p of netspace "" has 10.6.0.1 of pool tenant of netspace "tenant"`},
		{address: "10.4.1.5", want: "isolation broken: pod p has 10.4.1.5 of pool set-1, which is StatefulSet set-1's"},
		{set: "set-1", address: "10.4.1.5"},
		{set: "set-0", address: "10.4.1.5", want: "isolation broken"},
		{netspace: "tenant", address: "10.6.0.1"},
		{netspace: "tenant", address: "10.7.0.1", want: "isolation broken"},
		{netspace: "tenant", address: "10.1.0.1", want: `isolation broken: pod p of netspace "tenant" has 10.1.0.1 of pool small of netspace ""`},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{}}}
		if tc.netspace != "" {
			pod.Annotations[nad.NetspaceAnnotation] = tc.netspace
		}
		if tc.set != "" {
			pod.OwnerReferences = []metav1.OwnerReference{{Name: tc.set, Controller: &yes}}
		}
		got := trespass(pools, pod, []string{network + "." + tc.address})
		if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}
