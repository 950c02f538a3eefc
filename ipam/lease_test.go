package ipam

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/berthdev/berth/api/v1alpha1"
)

var leaseNames = map[string]struct{ network, addr string }{
	"vlan910.10.6.1.65":              {"vlan910", "10.6.1.65"},
	"default.0.0.0.0":                {"default", "0.0.0.0"},
	"vlan910.2001-db8-0-0-0-0-0-1":   {"vlan910", "2001:db8::1"},
	"a-b.0-0-0-0-0-0-0-0":            {"a-b", "::"},
	"a.2001-db8-0-2-3-4-5-6":         {"a", "2001:db8:0:2:3:4:5:6"},
	"a.2001-0-0-2-0-0-0-6":           {"a", "2001:0:0:2::6"},
	"1.fe80-0-0-0-abcd-ef01-2345-10": {"1", "fe80::abcd:ef01:2345:10"},
}

func TestLeaseName(t *testing.T) {
	for name, tc := range leaseNames {
		if got := LeaseName(tc.network, addr(tc.addr)); got != name {
			t.Errorf("LeaseName(%q, %s) = %q, want %q", tc.network, tc.addr, got, name)
		}
		network, a, err := ParseLeaseName(name)
		if err != nil || network != tc.network || a != addr(tc.addr) {
			t.Errorf("ParseLeaseName(%q) = %q, %s, %v", name, network, a, err)
		}
	}
	for _, name := range []string{"", "a", "a.", "a.10.6.1", "a.10.6.1.065", "a.10.6.1.65.1", "a.2001-db8--1", "a.2001:db8::1", "a.2001-db8-0-0-0-0-0-01",
		"a.2001-DB8-0-0-0-0-0-1", "a.10-6-1-65", "a.fe80-0-0-0-0-0-0-1%eth0", "a.b.10.6.1.65"} {
		if network, a, err := ParseLeaseName(name); err == nil {
			t.Errorf("ParseLeaseName(%q) = %q, %s; want an error", name, network, a)
		} else if !strings.Contains(err.Error(), `"`+name+`" is not a lease name`) {
			t.Errorf("ParseLeaseName(%q): %v", name, err)
		}
	}
}

func FuzzLeaseName(f *testing.F) {
	for name, tc := range leaseNames {
		a := addr(tc.addr)
		f.Add(name, tc.network, a.AsSlice())
	}
	f.Fuzz(func(t *testing.T, name, network string, raw []byte) {
		if network, a, err := ParseLeaseName(name); err == nil && LeaseName(network, a) != name {
			t.Fatalf("%q is read as %q, %s, whose name is %q", name, network, a, LeaseName(network, a))
		}
		a, ok := netip.AddrFromSlice(raw)
		if !ok || strings.Contains(network, ".") {
			return
		}
		n := LeaseName(network, a)
		gotNetwork, got, err := ParseLeaseName(n)
		if err != nil || gotNetwork != network || got != a {
			t.Fatalf("%q, %s has the name %q, which is read as %q, %s, %v", network, a, n, gotNetwork, got, err)
		}
		if len(validation.IsDNS1123Label(network)) == 0 && len(validation.IsDNS1123Subdomain(n)) > 0 {
			t.Fatalf("%q is no name for Kubernetes", n)
		}
	})
}

func TestLeaseLife(t *testing.T) {
	t0 := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	a := pool(t, "zone-a", "network: vlan910", `subnets: [{cidr: "2001:db8::/64"}]`)
	b := pool(t, "zone-b", "network: vlan910", `subnets: [{cidr: "2001:db8::/64"}]`)
	one := v1alpha1.LeaseHolder{Namespace: "ns", Pod: "one", UID: "u1", Node: strings.Repeat("n", 70), ContainerID: "c1", Interface: "net1"}
	two := v1alpha1.LeaseHolder{Namespace: "ns2", Pod: "two", UID: "u2", Node: "n2", ContainerID: "c2", Interface: "net1"}

	l := NewLease(a, addr("2001:db8::1"), Claimant{Holder: one}, t0)
	at := metav1.NewTime(t0)
	want := v1alpha1.IPLeaseSpec{Network: "vlan910", Address: "2001:db8::1", Pool: "zone-a", Phase: v1alpha1.LeaseBound, Holder: &one, BoundAt: &at}
	if diff := cmp.Diff(want, l.Spec); diff != "" || l.Name != "vlan910.2001-db8-0-0-0-0-0-1" {
		t.Errorf("claimed as %s (-want +got):\n%s", l.Name, diff)
	}
	if !SameSandbox(l, "c1", "net1") || SameSandbox(l, "c2", "net1") || SameSandbox(l, "c1", "net2") {
		t.Error("SameSandbox of a bound lease")
	}
	for k, v := range l.Labels {
		if errs := validation.IsValidLabelValue(v); errs != nil {
			t.Errorf("label %s=%s: %v", k, v, errs)
		}
	}

	Release(l, l.Spec.Holder, t0.Add(time.Hour))
	if l.Spec.Phase != v1alpha1.LeaseReleased || !l.Spec.ReleasedAt.Equal(&metav1.Time{Time: t0.Add(time.Hour)}) || *l.Spec.Holder != one {
		t.Errorf("released: %+v", l.Spec)
	}
	if SameSandbox(l, "c1", "net1") {
		t.Error("a released lease still is the sandbox's")
	}

	Bind(l, b, Claimant{Holder: two}, t0.Add(2*time.Hour))
	at2 := metav1.NewTime(t0.Add(2 * time.Hour))
	want = v1alpha1.IPLeaseSpec{Network: "vlan910", Address: "2001:db8::1", Pool: "zone-b", Phase: v1alpha1.LeaseBound, Holder: &two, BoundAt: &at2}
	if diff := cmp.Diff(want, l.Spec); diff != "" {
		t.Errorf("bound again (-want +got):\n%s", diff)
	}
	wantLabels := map[string]string{v1alpha1.LabelPool: "zone-b", v1alpha1.LabelNode: "n2", v1alpha1.LabelNamespace: "ns2", v1alpha1.LabelFamily: "IPv6"}
	if diff := cmp.Diff(wantLabels, l.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
}

func TestLabelValue(t *testing.T) {
	long := strings.Repeat("a", 46)
	x, y := LabelValue(long+".-x.example.com.and.so.on"), LabelValue(long+".-y.example.com.and.so.on")
	if x == y || len(x) > 63 || validation.IsValidLabelValue(x) != nil {
		t.Errorf("%q and %q", x, y)
	}
	if got := LabelValue("node-a.example.com"); got != "node-a.example.com" {
		t.Error(got)
	}
}
