package controller

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

func condition(s v1alpha1.IPPoolStatus, kind string) string {
	c := meta.FindStatusCondition(s.Conditions, kind)
	if c == nil {
		return "absent"
	}
	return string(c.Status) + " " + c.Reason + ": " + c.Message
}

func TestPoolStatus(t *testing.T) {
	deleted := pool("a", "net", subnet("10.6.0.0/30"))
	deleted.DeletionTimestamp = &metav1.Time{Time: epoch}
	disabled := pool("a", "net", subnet("10.6.0.0/30"))
	disabled.Spec.Disabled = true
	emptied := pool("a", "net", v1alpha1.PoolSubnet{CIDR: "10.6.0.9/32", ExcludeIPs: []string{"10.6.0.9"}}, subnet("2001:db8::/126"))

	for _, tc := range []struct {
		name        string
		pool        *v1alpha1.IPPool
		others      []v1alpha1.IPPool
		leases      []v1alpha1.IPLease
		free, total string
		want        map[string]string // condition → part of what it says
	}{
		{
			name: "new", pool: pool("a", "net", subnet("10.6.0.0/24")),
			free: "254", total: "254",
			want: map[string]string{"Ready": "True Serving", "Overlapping": "False NoOtherPool", "Exhausted": "False FreeAddresses"},
		},
		{
			name: "dual stack", pool: pool("a", "net", subnet("10.6.0.0/24"), subnet("2001:db8::/64")),
			leases: []v1alpha1.IPLease{lease("net", "10.6.0.1", "a", v1alpha1.LeaseBound)},
			free:   "253 + 2^64", total: "254 + 2^64",
			want: map[string]string{"Ready": "True"},
		},
		{
			name: "to the last address", pool: pool("a", "net", subnet("10.6.0.0/30")),
			leases: []v1alpha1.IPLease{lease("net", "10.6.0.1", "a", v1alpha1.LeaseBound), lease("net", "10.6.0.2", "a", v1alpha1.LeaseBound)},
			free:   "0", total: "2",
			want: map[string]string{
				"Ready":     "False NoFreeAddress: no free IPv4 address (2 of 2 taken)",
				"Exhausted": `True NoFreeAddress: pool "a" has no free IPv4 address (2 of 2 taken); add a range or a pool`,
			},
		},
		{
			name: "one family exhausted", pool: pool("a", "net", subnet("10.6.0.0/32"), subnet("2001:db8::/64")),
			leases: []v1alpha1.IPLease{lease("net", "10.6.0.0", "a", v1alpha1.LeaseBound)},
			free:   "0 + 2^64", total: "1 + 2^64",
			want: map[string]string{"Exhausted": "True NoFreeAddress", "Ready": "False"},
		},
		{
			name: "released is free", pool: pool("a", "net", subnet("10.6.0.0/32")),
			leases: []v1alpha1.IPLease{lease("net", "10.6.0.0", "a", v1alpha1.LeaseReleased)},
			free:   "1", total: "1", want: map[string]string{"Ready": "True"},
		},
		{
			name: "disabled", pool: disabled, free: "2", total: "2",
			want: map[string]string{"Ready": "False Disabled", "Exhausted": "False"},
		},
		{
			name: "deleted", pool: deleted, free: "1", total: "2",
			leases: []v1alpha1.IPLease{lease("net", "10.6.0.1", "a", v1alpha1.LeaseBound)},
			want:   map[string]string{"Ready": "False WaitsForLeases: the pool is being deleted and waits for 1 leases"},
		},
		{
			name: "nothing to give", pool: emptied, free: "0 + 3", total: "0 + 3",
			want: map[string]string{"Ready": "False NoAddresses"},
		},
		{
			name: "malformed", pool: pool("a", "net", subnet("10.6.0.1/24")),
			want: map[string]string{"Ready": `False Malformed: pool "a": subnets[0].cidr`, "Exhausted": "Unknown", "Overlapping": "Unknown"},
		},
		{
			name: "overlapping", pool: pool("a", "net", subnet("10.6.0.0/24", "10.6.0.10-10.6.0.20"), subnet("2001:db8::/64", "2001:db8::5")),
			others: []v1alpha1.IPPool{
				*pool("a", "net", subnet("10.6.0.0/24")),
				*pool("b", "net", subnet("10.6.0.0/16", "10.6.0.18-10.6.0.30"), subnet("2001:db8::/64")),
				*pool("elsewhere", "other", subnet("10.6.0.0/24")),
				*pool("malformed", "net", subnet("10.6.0.1/24")),
				*pool("apart", "net", subnet("10.7.0.0/24")),
			},
			free: "11 + 1", total: "11 + 1",
			want: map[string]string{
				"Ready":       "True",
				"Overlapping": `True SharesAddresses: pool "b" has 10.6.0.18-10.6.0.20 too; pool "b" has 2001:db8::5 too`,
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := poolStatus(tc.pool, tc.others, tc.leases, epoch)
			if got.Free != tc.free || got.Total != tc.total {
				t.Errorf("free %q of %q, want %q of %q", got.Free, got.Total, tc.free, tc.total)
			}
			for kind, want := range tc.want {
				if c := condition(got, kind); !strings.HasPrefix(c, want) {
					t.Errorf("%s is %q, want %q", kind, c, want)
				}
			}
			for _, c := range got.Conditions {
				if c.ObservedGeneration != 1 || c.Message == "" || !c.LastTransitionTime.Time.Equal(epoch) {
					t.Errorf("condition %+v", c)
				}
			}
		})
	}
}

func TestPoolStatusIsStable(t *testing.T) {
	p := pool("a", "net", subnet("10.6.0.0/30"), subnet("2001:db8::/64"))
	p.Status = poolStatus(p, nil, nil, epoch)
	again := poolStatus(p, nil, nil, epoch.Add(time.Hour))
	if diff := cmp.Diff(p.Status, again); diff != "" {
		t.Errorf("the status changed though nothing else did:\n%s", diff)
	}
	if p.Status.Subnets != "10.6.0.0/30,2001:db8::/64" {
		t.Errorf("subnets %q", p.Status.Subnets)
	}
}

func TestOverlapsNamesAFewOnly(t *testing.T) {
	p := compile(t, pool("a", "net", subnet("10.6.0.0/24", "10.6.0.1", "10.6.0.3", "10.6.0.5", "10.6.0.7", "10.6.0.9")))
	var others []v1alpha1.IPPool
	for _, name := range []string{"b", "c", "d", "e", "f", "g"} {
		others = append(others, *pool(name, "net", subnet("10.6.0.0/24")))
	}
	got := overlaps(p, false, others)
	if len(got) != 6 || got[5] != "and others" {
		t.Errorf("got %q", got)
	}
	if want := `pool "b" has 10.6.0.1,10.6.0.3,10.6.0.5 and 2 more ranges too`; got[0] != want {
		t.Errorf("got %q, want %q", got[0], want)
	}
}

func TestTellConditions(t *testing.T) {
	free := []v1alpha1.IPLease{}
	full := []v1alpha1.IPLease{lease("net", "10.6.0.0", "a", v1alpha1.LeaseBound)}
	p := pool("a", "net", subnet("10.6.0.0/32"))
	other := []v1alpha1.IPPool{*pool("b", "net", subnet("10.6.0.0/31"))}

	step := func(others []v1alpha1.IPPool, leases []v1alpha1.IPLease) []string {
		var r recorded
		old := p.DeepCopy()
		p.Status = poolStatus(p, others, leases, epoch)
		tellConditions(&r, old, p)
		return r
	}
	for i, s := range []struct {
		others []v1alpha1.IPPool
		leases []v1alpha1.IPLease
		want   []string
	}{
		{nil, free, nil},
		{nil, full, []string{"a Warning NoFreeAddress"}},
		{nil, full, nil},
		{nil, free, []string{"a Normal FreeAddresses", "a Normal Serving"}},
		{other, free, []string{"a Warning SharesAddresses"}},
		{nil, free, []string{"a Normal NoOtherPool"}},
	} {
		got := step(s.others, s.leases)
		if len(got) != len(s.want) {
			t.Fatalf("step %d: events %q, want %q", i, got, s.want)
		}
		for j := range got {
			if !strings.HasPrefix(got[j], s.want[j]) {
				t.Errorf("step %d: event %q, want %q", i, got[j], s.want[j])
			}
		}
	}
	p.Spec.Subnets[0].CIDR = "10.6.0.1/24"
	if got := step(nil, free); len(got) != 1 || !strings.HasPrefix(got[0], "a Warning Malformed") {
		t.Errorf("events %q of a malformed pool", got)
	}
	p.Spec.Subnets[0].CIDR = "10.6.0.0/24"
	step(nil, free)
	p.Spec.Disabled = true
	if got := step(nil, free); len(got) != 0 {
		t.Errorf("events %q of a disabled pool; it is somebody's wish", got)
	}
}
