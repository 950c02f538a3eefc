package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/berthdev/berth/api/v1alpha1"
)

func TestPrefixes(t *testing.T) {
	var odd []string // each address a range of its own
	for i := range 100 {
		for j := range 6 {
			odd = append(odd, fmt.Sprintf("10.6.%d.%d", i, 1+2*j))
		}
	}
	for _, tc := range []struct {
		name string
		cidr string
		ips  []string
		want string
	}{
		{"one address", "10.6.0.0/24", []string{"10.6.0.7"}, "10.6.0.7/32"},
		{"range", "10.6.0.0/24", []string{"10.6.0.3-10.6.0.12"}, "10.6.0.3/32 10.6.0.4/30 10.6.0.8/30 10.6.0.12/32"},
		{"ranges", "10.6.0.0/24", []string{"10.6.0.64-10.6.0.127", "10.6.0.2-10.6.0.3"}, "10.6.0.2/31 10.6.0.64/26"},
		{"to the end", "10.6.0.0/24", []string{"10.6.0.254-10.6.0.255"}, "10.6.0.254/31"},
		{"whole", "10.6.0.0/24", []string{"10.6.0.0/24"}, "10.6.0.0/24"},
		{"the last there is", "255.255.255.254/31", []string{"255.255.255.254/31"}, "255.255.255.254/31"},
		{"IPv6", "2001:db8::/64", []string{"2001:db8::ff-2001:db8::101"}, "2001:db8::ff/128 2001:db8::100/127"},
		{"too many", "10.6.0.0/16", odd, "10.6.0.0/16"},
	} {
		pool, err := Compile(&v1alpha1.IPPool{Spec: v1alpha1.IPPoolSpec{Subnets: []v1alpha1.PoolSubnet{{CIDR: tc.cidr, IPs: tc.ips}}}})
		if tc.name == "the last there is" { // no pool may have it; the way there is what matters
			r, _ := ParseRange(tc.ips[0])
			pool, err = &Pool{ranges: map[Family]Ranges{IPv4: {r}}}, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range Families {
			want := tc.want
			if f == IPv4 == strings.Contains(tc.cidr, ":") {
				want = ""
			}
			if got := words(pool.Prefixes(f)); got != want {
				t.Errorf("%s, %s: %s, want %s", tc.name, f, got, want)
			}
		}
	}
}

// A range of any length takes few prefixes, and they hold its addresses and no others.
func TestPrefixesOfRange(t *testing.T) {
	for _, s := range []string{"0.0.0.1-255.255.255.254", "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "0.0.0.0-255.255.255.255", "10.0.0.0-10.0.0.0"} {
		r, err := ParseRange(s)
		if err != nil {
			t.Fatal(err)
		}
		var back []Range
		prefixes := r.prefixes()
		for _, p := range prefixes {
			back = append(back, Range{p.Addr(), last(p)})
		}
		if got := normalize(back); !slices.Equal(got, Ranges{r}) || len(prefixes) > 2*r.From.BitLen() {
			t.Errorf("%s: %d prefixes, of %s", s, len(prefixes), got)
		}
	}
}

func TestRouters(t *testing.T) {
	pool, err := Compile(&v1alpha1.IPPool{Spec: v1alpha1.IPPoolSpec{Subnets: []v1alpha1.PoolSubnet{
		{CIDR: "10.6.0.0/24", Gateway: "10.6.0.1", Routes: []v1alpha1.Route{{Dst: "172.16.0.0/12", GW: "10.6.0.254"}}},
		{CIDR: "2001:db8::/64", Gateway: "fe80::5"}, {CIDR: "2001:db8:1::/64"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := words(pool.Routers(IPv4)); got != "10.6.0.1 10.6.0.254" {
		t.Error(got)
	}
	if got := words(pool.Routers(IPv6)); got != "fe80::5" {
		t.Error(got)
	}
}

func words[T netip.Addr | netip.Prefix](list []T) string {
	var out []string
	for _, x := range list {
		out = append(out, fmt.Sprint(x))
	}
	return strings.Join(out, " ")
}
