package apps

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

var epoch = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// sized pool, of which so many addresses are in use.
func sized(name string, size int32, used int64) *v1alpha1.IPPool {
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Size = &size
	p.Status.IPv4 = &v1alpha1.AddressCount{Bound: used}
	p.Status.IPv6 = &v1alpha1.AddressCount{Bound: used / 2}
	return p
}

// outcome of a decision in words.
func outcome(d decision) (out []string) {
	for _, c := range d.create {
		out = append(out, fmt.Sprintf("create %s %d", c.name, c.size))
	}
	for _, c := range d.changes {
		switch {
		case c.delete:
			out = append(out, "delete "+c.pool.Name)
		default:
			out = append(out, fmt.Sprintf("%s: %d keep=%v", c.pool.Name, c.size, c.keep))
		}
	}
	if d.again > 0 {
		out = append(out, "again in "+d.again.String())
	}
	return out
}

func TestDecide(t *testing.T) {
	const after = 30 * time.Second
	type look struct {
		at   time.Duration
		want []wanted
		have []*v1alpha1.IPPool
		gone bool
		then []string
	}
	a := func(size int32) []wanted { return []wanted{{name: "a", size: size}} }
	deleting := sized("a", 3, 2)
	deleting.DeletionTimestamp = &metav1.Time{Time: epoch}
	kept := sized("a", 3, 0)
	kept.Spec.Keep = true
	pools := func(p ...*v1alpha1.IPPool) []*v1alpha1.IPPool { return p }
	for _, tt := range []struct {
		name  string
		looks []look
	}{
		{"made", []look{{0, a(3), nil, false, []string{"create a 3"}}}},
		{"as it is to be", []look{{0, a(3), pools(sized("a", 3, 3)), false, nil}}},
		{"grows at once", []look{{0, a(50), pools(sized("a", 3, 3)), false, []string{"a: 50 keep=false"}}}},
		{"shrinks after a while", []look{
			{0, a(3), pools(sized("a", 50, 3)), false, []string{"again in 30s"}},
			{20 * time.Second, a(3), pools(sized("a", 50, 3)), false, []string{"again in 10s"}},
			{30 * time.Second, a(3), pools(sized("a", 50, 3)), false, []string{"a: 3 keep=false"}},
		}},
		{"to the most of the while, and what is in use", []look{
			{0, a(3), pools(sized("a", 50, 40)), false, []string{"again in 30s"}},
			{10 * time.Second, a(45), pools(sized("a", 50, 20)), false, []string{"again in 20s"}},
			{30 * time.Second, a(3), pools(sized("a", 50, 20)), false, []string{"a: 45 keep=false", "again in 30s"}},
			{31 * time.Second, a(3), pools(sized("a", 45, 20)), false, []string{"again in 30s"}},
			{61 * time.Second, a(3), pools(sized("a", 45, 20)), false, []string{"a: 20 keep=false"}},
		}},
		{"not while pods are still there", []look{{0, a(3), pools(sized("a", 50, 50)), false, nil}}},
		{"not for a moment", []look{
			{0, a(3), pools(sized("a", 50, 3)), false, []string{"again in 30s"}},
			{10 * time.Second, a(50), pools(sized("a", 50, 3)), false, nil},
			{40 * time.Second, a(3), pools(sized("a", 50, 3)), false, []string{"again in 30s"}},
		}},
		{"a fixed size below what is in use waits for that", []look{{0, a(2), pools(sized("a", 3, 5)), false, nil}}},
		{"reserved addresses of a StatefulSet are in use", []look{{0, a(2), pools(func() *v1alpha1.IPPool {
			p := sized("a", 5, 2)
			p.Status.IPv4.Reserved = 3
			return p
		}()), false, nil}}},
		{"keep is written at once", []look{
			{0, []wanted{{name: "a", size: 3, keep: true}}, pools(sized("a", 3, 3)), false, []string{"a: 3 keep=true"}},
			{1, a(2), pools(kept), false, []string{"a: 3 keep=false", "again in 30s"}},
		}},
		{"another Subnet: the old pool stays while it is in use", []look{
			{0, []wanted{{name: "b", size: 3}}, pools(sized("a", 3, 1)), false, []string{"create b 3"}},
			{time.Hour, []wanted{{name: "b", size: 3}}, pools(sized("a", 3, 0), sized("b", 3, 3)), false, []string{"again in 30s"}},
			{time.Hour + 10*time.Second, []wanted{{name: "b", size: 3}}, pools(sized("a", 3, 1), sized("b", 3, 3)), false, nil},
			{2 * time.Hour, []wanted{{name: "b", size: 3}}, pools(sized("a", 3, 0), sized("b", 3, 3)), false, []string{"again in 30s"}},
			{2*time.Hour + after, []wanted{{name: "b", size: 3}}, pools(sized("a", 3, 0), sized("b", 3, 3)), false, []string{"delete a"}},
		}},
		{"goes with the workload, whoever still holds something", []look{
			{0, nil, pools(sized("a", 3, 3)), true, []string{"again in 30s"}},
			{after, nil, pools(sized("a", 3, 3)), true, []string{"delete a"}},
		}},
		{"the workload comes back in time", []look{
			{0, nil, pools(sized("a", 3, 3)), true, []string{"again in 30s"}},
			{after - 1, a(3), pools(sized("a", 3, 3)), false, nil},
			{after, nil, pools(sized("a", 3, 3)), true, []string{"again in 30s"}},
		}},
		{"kept without the workload", []look{{0, nil, pools(kept), true, nil}, {time.Hour, nil, pools(kept), true, nil}}},
		{"being deleted when the workload comes back", []look{{0, a(3), pools(deleting), false, nil}, {1, a(3), nil, false, []string{"create a 3"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := patience{}
			for _, l := range tt.looks {
				got := outcome(decide(l.want, l.have, l.gone, p, after, epoch.Add(l.at)))
				if diff := cmp.Diff(l.then, got); diff != "" {
					t.Errorf("at %s (-want +got):\n%s", l.at, diff)
				}
			}
			if names := slices.DeleteFunc([]string{"a", "b"}, func(n string) bool { _, ok := p[n]; return !ok }); len(names) > 1 {
				t.Errorf("patience of %v", names)
			}
		})
	}
}
