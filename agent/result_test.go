package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

var steered = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:96::/108")}

func testPool(t *testing.T) *ipam.Pool {
	t.Helper()
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	p.Spec.Subnets = []v1alpha1.PoolSubnet{
		{CIDR: "10.6.0.0/16", Gateway: "10.6.0.1", Routes: []v1alpha1.Route{{Dst: "172.16.0.0/12", GW: "10.6.0.254"}, {Dst: "192.168.0.0/16"}}},
		{CIDR: "2001:db8::/64", Gateway: "2001:db8::1", Routes: []v1alpha1.Route{{Dst: "2001:db9::/32"}}},
		{CIDR: "10.7.0.0/24"},
	}
	c, err := ipam.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func route(dst, gw string) nad.Route {
	r, err := delegate.ParseRoute(dst, gw)
	if err != nil {
		panic(err)
	}
	return nad.Route{Route: r}
}

// text of a result: addresses with their gateways, then routes in order.
func text(r *types100.Result) (out []string) {
	for _, ip := range r.IPs {
		s := ip.Address.String()
		if ip.Gateway != nil {
			s += " gw " + ip.Gateway.String()
		}
		out = append(out, s)
	}
	for _, r := range r.Routes {
		s := r.Dst.String()
		if r.GW != nil {
			s += " via " + r.GW.String()
		}
		if r.Scope != nil {
			s += fmt.Sprint(" scope ", *r.Scope)
		}
		out = append(out, s)
	}
	return out
}

func TestResult(t *testing.T) {
	defaultNetwork := nad.Ask{Default: true, DefaultRoute: true}
	for _, tc := range []struct {
		name    string
		addrs   string
		ask     nad.Ask
		steered []netip.Prefix
		plugin  string
		want    []string
	}{
		{name: "second interface", addrs: "10.6.1.7", want: []string{
			"10.6.1.7/16 gw 10.6.0.1", "172.16.0.0/12 via 10.6.0.254", "192.168.0.0/16 via 10.6.0.1"}},
		{name: "both families", addrs: "10.6.1.7 2001:db8::7", want: []string{
			"10.6.1.7/16 gw 10.6.0.1", "2001:db8::7/64", "172.16.0.0/12 via 10.6.0.254", "192.168.0.0/16 via 10.6.0.1", "2001:db9::/32 via 2001:db8::1"}},
		{name: "no gateway, no routes", addrs: "10.7.0.7", ask: defaultNetwork, want: []string{"10.7.0.7/24"}},

		{name: "default network", addrs: "10.6.1.7 2001:db8::7", ask: defaultNetwork, want: []string{
			"10.6.1.7/16 gw 10.6.0.1", "2001:db8::7/64", "172.16.0.0/12 via 10.6.0.254", "192.168.0.0/16 via 10.6.0.1", "2001:db9::/32 via 2001:db8::1",
			"0.0.0.0/0 via 10.6.0.1", "::/0 via 2001:db8::1"}},
		{name: "default route elsewhere", addrs: "10.7.0.7", ask: nad.Ask{Default: true}, want: []string{"10.7.0.7/24"}},
		{name: "default network without default route", addrs: "2001:db8::7", ask: nad.Ask{Default: true, DefaultRoute: true, NoDefaultRoute: true},
			want: []string{"2001:db8::7/64", "2001:db9::/32 via 2001:db8::1"}},
		{name: "default route by another interface is Multus' affair", addrs: "2001:db8::7", ask: nad.Ask{DefaultRoute: true},
			want: []string{"2001:db8::7/64", "2001:db9::/32 via 2001:db8::1"}},

		// The link route of the service gateway comes before the routes via it, without a next hop; and no gateway in ips, or
		// ConfigureIface would fill it in.
		{name: "steered", addrs: "10.6.1.7 2001:db8::7", steered: steered, ask: defaultNetwork, want: []string{
			"10.6.1.7/16", "2001:db8::7/64",
			"169.254.1.1/32 scope 253", "10.96.0.0/16 via 169.254.1.1", "10.244.0.0/16 via 169.254.1.1", "fd00:96::/108 via GW6",
			"172.16.0.0/12 via 10.6.0.254", "192.168.0.0/16 via 10.6.0.1", "2001:db9::/32 via 2001:db8::1", "0.0.0.0/0 via 10.6.0.1", "::/0 via 2001:db8::1"}},
		{name: "steered, IPv4 only", addrs: "10.7.0.7", steered: steered, want: []string{
			"10.7.0.7/24", "169.254.1.1/32 scope 253", "10.96.0.0/16 via 169.254.1.1", "10.244.0.0/16 via 169.254.1.1"}},
		{name: "steered, IPv6 only", addrs: "2001:db8::7", steered: steered, want: []string{
			"2001:db8::7/64", "fd00:96::/108 via GW6", "2001:db9::/32 via 2001:db8::1"}},

		{name: "asked for routes", addrs: "10.6.1.7", ask: nad.Ask{Routes: []nad.Route{
			route("10.50.0.0/16", "10.6.0.9"), route("10.51.0.0/16", ""), route("10.52.0.0/16", "10.99.0.1"), route("2001:db8:5::/48", "fe80::9"),
		}}, want: []string{"10.6.1.7/16 gw 10.6.0.1", "172.16.0.0/12 via 10.6.0.254", "192.168.0.0/16 via 10.6.0.1",
			"10.50.0.0/16 via 10.6.0.9", "10.51.0.0/16 via 10.6.0.1"}}, // the others are not within reach
		{name: "link-local next hop", addrs: "2001:db8::7", ask: nad.Ask{Routes: []nad.Route{route("2001:db8:5::/48", "fe80::9")}},
			want: []string{"2001:db8::7/64", "2001:db9::/32 via 2001:db8::1", "2001:db8:5::/48 via fe80::9"}},
		{name: "no gateway to take", addrs: "10.7.0.7", ask: nad.Ask{Routes: []nad.Route{route("10.51.0.0/16", "")}}, want: []string{"10.7.0.7/24"}},

		{name: "each destination once: services, pool, pod, default", addrs: "10.6.1.7", steered: steered[:1],
			ask: nad.Ask{Default: true, DefaultRoute: true, Routes: []nad.Route{
				route("10.96.0.0/16", "10.6.0.9"), route("172.16.0.0/12", "10.6.0.9"), route("0.0.0.0/0", "10.6.0.9")}},
			want: []string{"10.6.1.7/16", "169.254.1.1/32 scope 253", "10.96.0.0/16 via 169.254.1.1",
				"172.16.0.0/12 via 10.6.0.254", "192.168.0.0/16 via 10.6.0.1", "0.0.0.0/0 via 10.6.0.9"}},
		{name: "two addresses of a subnet", addrs: "10.7.0.7 10.7.0.8", steered: steered[:1], want: []string{
			"10.7.0.7/24", "10.7.0.8/24", "169.254.1.1/32 scope 253", "10.96.0.0/16 via 169.254.1.1"}},

		{name: "ptp needs the gateways", addrs: "10.6.1.7 2001:db8::7", plugin: "ptp", ask: nad.Ask{}, want: []string{
			"10.6.1.7/16 gw 10.6.0.1", "2001:db8::7/64 gw 2001:db8::1", "172.16.0.0/12 via 10.6.0.254", "192.168.0.0/16 via 10.6.0.1", "2001:db9::/32 via 2001:db8::1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := testPool(t)
			var leases []*v1alpha1.IPLease
			var pools []*ipam.Pool
			for a := range strings.FieldsSeq(tc.addrs) {
				leases = append(leases, &v1alpha1.IPLease{Spec: v1alpha1.IPLeaseSpec{Address: a}})
				pools = append(pools, p)
			}
			if tc.plugin == "" {
				tc.plugin = "macvlan"
			}
			res, err := result(leases, pools, given{}, tc.ask, tc.steered, tc.plugin)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Split(strings.ReplaceAll(strings.Join(tc.want, "\n"), "GW6", gateway6), "\n")
			if diff := cmp.Diff(want, text(res)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if res.CNIVersion != types100.ImplementedSpecVersion {
				t.Errorf("version %s", res.CNIVersion)
			}
		})
	}
}

func TestResultOfLostSubnet(t *testing.T) {
	for a, want := range map[string]string{
		"10.99.0.1": `address 10.99.0.1 of the interface is no longer in a subnet of pool "p"; add the subnet again, or delete the pod`,
		"x":         "lease n.x",
	} {
		l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: "n." + a}, Spec: v1alpha1.IPLeaseSpec{Address: a}}
		if res, err := result([]*v1alpha1.IPLease{l}, []*ipam.Pool{testPool(t)}, given{}, nad.Ask{}, nil, "macvlan"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v; want %q", res, err, want)
		}
	}
}
