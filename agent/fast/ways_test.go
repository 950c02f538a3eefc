//go:build linux

package fast

import (
	"net"
	"net/netip"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/bpf/sock"
)

func cidr(s string) net.IPNet {
	ip, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return net.IPNet{IP: ip, Mask: n.Mask}
}

func result(addresses []string, routes ...string) *types100.Result {
	res := &types100.Result{}
	for _, a := range addresses {
		res.IPs = append(res.IPs, &types100.IPConfig{Address: cidr(a)})
	}
	for i := 0; i < len(routes); i += 2 {
		res.Routes = append(res.Routes, &types.Route{Dst: cidr(routes[i]), GW: net.ParseIP(routes[i+1])})
	}
	return res
}

// ways of network n and of the underlay of eth0, each to all prefixes.
func ways(prefixes ...string) (out []sock.Way) {
	for _, p := range prefixes {
		out = append(out, sock.Way{Network: underlay("eth0"), Prefix: netip.MustParsePrefix(p)}, sock.Way{Network: "n", Prefix: netip.MustParsePrefix(p)})
	}
	return out
}

func TestWays(t *testing.T) {
	both := []string{"10.6.0.9/16", "fd00:6::9/64"}
	service := []string{"169.254.1.1/32", "", "10.96.0.0/12", "169.254.1.1", "fd96::/112", "fe80::1"}
	for name, tc := range map[string]struct {
		res  *types100.Result
		want []sock.Way
	}{
		"default network": {result(both, append(service, "0.0.0.0/0", "10.6.0.1", "::/0", "fd00:6::1")...), ways("0.0.0.0/0", "::/0")},
		"second network":  {result(both, service...), ways("10.6.0.0/16", "fd00:6::/64")},
		"with a route":    {result(both[:1], append(service, "10.7.0.0/16", "10.6.0.1", "10.6.5.0/24", "10.6.0.2")...), ways("10.6.0.0/16", "10.7.0.0/16")},
		"not steered":     {result(both, "0.0.0.0/0", "10.6.0.1"), nil},
		"too many": {result([]string{"10.6.0.9/24"}, append(service, "10.1.0.0/24", "10.6.0.1", "10.2.0.0/23", "10.6.0.1", "10.3.0.0/24", "10.6.0.1",
			"10.4.0.0/24", "10.6.0.1")...), ways("10.2.0.0/23", "10.1.0.0/24", "10.3.0.0/24", "10.4.0.0/24")},
	} {
		if diff := cmp.Diff(tc.want, Ways(tc.res, "n", "eth0"), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}
