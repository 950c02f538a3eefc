package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

func TestTenantsOf(t *testing.T) {
	compiled := func(name, netspace, cidr string) *ipam.Pool {
		t.Helper()
		p, err := ipam.Compile(&v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: v1alpha1.IPPoolSpec{Netspace: netspace, Subnets: []v1alpha1.PoolSubnet{{CIDR: cidr}}}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	lease := func(p *ipam.Pool, address, node, parent string) *v1alpha1.IPLease {
		return ipam.NewLease(p, netip.MustParseAddr(address), ipam.Claimant{Holder: v1alpha1.LeaseHolder{Pod: "p", Node: node, Parent: parent}}, metav1.Now().Time)
	}
	a, a2, b, none := compiled("a", "a", "10.6.0.0/30"), compiled("a2", "a", "2001:db8::/126"), compiled("b", "b", "10.7.0.0/30"), compiled("none", "", "10.8.0.0/24")
	leases := []*v1alpha1.IPLease{
		lease(a, "10.6.0.1", "n1", "bond0.910"),
		lease(a2, "2001:db8::1", "n1", "bond0.912"),
		lease(b, "10.7.0.1", "n1", "bond0.910"),
		lease(b, "10.7.0.99", "n1", "bond0.911"), // out of its range by now
		lease(b, "10.7.0.2", "n2", "eth9"),
		lease(none, "10.8.0.1", "n1", "eth0"),
		lease(b, "10.7.0.1", "n1", ""),
	}
	got := tenantsOf([]*ipam.Pool{b, none, a2, a}, leases, "n1")
	want := "{map[a:[{10.6.0.1 10.6.0.2} {2001:db8::1 2001:db8::3}] b:[{10.7.0.1 10.7.0.2} {10.7.0.99 10.7.0.99}]] map[bond0.910:[a b] bond0.911:[b] bond0.912:[a]]}"
	if fmt.Sprint(got) != want {
		t.Errorf("%v\nwant\n%s", got, want)
	}
	if again := tenantsOf([]*ipam.Pool{a, a2, none, b}, slices.Concat(leases, leases), "n1"); fmt.Sprint(again) != want {
		t.Errorf("in another order, and twice: %v", again)
	}
	if got := fmt.Sprint(tenantsOf([]*ipam.Pool{none}, leases[5:], "n1")); got != "{map[] map[]}" {
		t.Error(got)
	}
}
