package main

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/nad"
)

// What the hammer must find if it happens to the owners of addresses, and what it must not take for a bug.
func TestDeeds(t *testing.T) {
	const first = "10.8.0.0"
	part := func(ips, pool string, returning bool) v1alpha1.IPBlockPart {
		p := v1alpha1.IPBlockPart{IPs: ips, Subnet: subnetPlan, Pool: pool}
		if returning {
			p.ReturnedAt = &metav1.Time{}
			p.ReturnedAt.Time = metav1.Now().Time
		}
		return p
	}
	block := func(parts ...v1alpha1.IPBlockPart) any {
		b := &v1alpha1.IPBlock{ObjectMeta: metav1.ObjectMeta{Name: network + "." + first}}
		b.Spec = v1alpha1.IPBlockSpec{Network: network, First: first, Parts: parts}
		return b
	}
	list := func(name string, ips ...string) any {
		p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.IPPoolSpec{Network: network, Subnet: subnetPlan}}
		if len(ips) > 0 {
			p.Spec.Subnets = []v1alpha1.PoolSubnet{subnet("10.8.0.224/28", ips...)}
		}
		return p
	}
	lease := func(pool string, phase v1alpha1.LeasePhase) any {
		return &v1alpha1.IPLease{Spec: v1alpha1.IPLeaseSpec{Network: network, Address: "10.8.0.225", Pool: pool, Phase: phase}}
	}
	a, b := part("10.8.0.225-10.8.0.228", "a", false), part("10.8.0.225-10.8.0.228", "b", false)
	old := part("10.8.0.225-10.8.0.228", "a", true)
	for _, tt := range []struct {
		name   string
		writes []any
		want   string // in what is wrong with the last write; "": nothing
	}{
		{"carved, listed, given", []any{block(a), list("a", "10.8.0.225"), lease("a", bound)}, ""},
		{"parts overlap", []any{block(a, part("10.8.0.228", "b", false))}, "overlap"},
		{"listed before it is carved", []any{list("a", "10.8.0.225")}, "not its own"},
		{"listed by two", []any{block(a), list("a", "10.8.0.225"), list("b", "10.8.0.225")}, "two pools"},
		{"given up, and still listed", []any{block(a), list("a", "10.8.0.225"), block(old)}, ""},
		{"given up, and still given by an agent that has not heard of it", []any{block(a), list("a", "10.8.0.225"), block(old), list("a"), lease("a", bound)}, ""},
		{"forgotten while it is listed", []any{block(a), list("a", "10.8.0.225"), block(old), block()}, "not its own: pool a lists hammer.10.8.0.225, which is nobody's"},
		{"forgotten while it is given", []any{block(a), lease("a", bound), block(old), block()}, "given away: lease hammer.10.8.0.225 of pool a is in use, and the address is nobody's"},
		{"kept for an identity, and forgotten", []any{block(a), lease("a", v1alpha1.LeaseReserved), block(old), block()}, "given away"},
		{"forgotten when it is free", []any{block(a), lease("a", bound), block(old), lease("a", released), block()}, ""},
		{"another's, and given by an agent that has not heard of it", []any{block(a), block(old), block(b), lease("a", bound)}, "given away: lease hammer.10.8.0.225 of pool a is in use, and the address is b's"},
		{"another's, and given by it", []any{block(a), list("a", "10.8.0.225"), block(old), list("a"), block(), block(b), list("b", "10.8.0.225"), lease("b", bound)}, ""},
		{"never carved", []any{lease("a", bound)}, "given away"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDeeds()
			var wrong []string
			for i, w := range tt.writes {
				switch w := w.(type) {
				case *v1alpha1.IPBlock:
					_, wrong = d.block(w)
				case *v1alpha1.IPPool:
					_, wrong = d.pool(w)
				case *v1alpha1.IPLease:
					wrong = d.lease(w)
				}
				if i < len(tt.writes)-1 && len(wrong) > 0 {
					t.Fatalf("write %d: %q", i, wrong)
				}
			}
			if got := strings.Join(wrong, "; "); tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("found %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTrespassCarved(t *testing.T) {
	for _, tc := range []struct{ pool, netspace, want string }{
		{"carved-1", "", ""},
		{"carvedtenant-3", poolTenant, ""},
		{"small", poolTenant, ""}, // by its addresses, see trespass
		{"carvedtenant-3", "", `isolation broken: pod p of netspace "" has l of pool carvedtenant-3 of netspace "tenant"`},
		{"carved-1", poolTenant, "isolation broken"},
	} {
		l, p := podAndLease(tc.pool, tc.netspace)
		if got := trespassCarved(l, p); tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}

func podAndLease(pool, netspace string) (*v1alpha1.IPLease, *corev1.Pod) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "one", Annotations: map[string]string{nad.NetspaceAnnotation: netspace}}}
	l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: "l"}}
	l.Spec.Pool, l.Spec.Holder = pool, &v1alpha1.LeaseHolder{UID: p.UID}
	return l, p
}
