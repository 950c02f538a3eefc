package agent

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/bpf"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// scopeLink is RT_SCOPE_LINK (linux/rtnetlink.h): the destination is on the link.
const scopeLink = 253

// result of an ADD: the addresses, the routes of the service path if steered is not empty, those of the subnets, those asked
// for, those of delegates, and the default route where the interface is the pod's default route. Whether a delegate's gateway is one,
// its own routes say: host-local names a gateway always.
//
// The main plugin's ipam.ConfigureIface sets the routes in their order, so the gateway's comes before those via it. What else it
// asks of a result stands at delegate's contract; above all, an address has its gateway only if the main plugin needs it: an
// IPv6 one makes ConfigureIface look whether duplicate address detection has ended, an IPv4 one becomes the next hop of the
// service gateway's own route.
func result(leases []*v1alpha1.IPLease, pools []*ipam.Pool, given given, ask nad.Ask, steered []netip.Prefix, mainPlugin string) (*types100.Result, error) {
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion, DNS: given.dns}
	var subnets []ipam.Subnet
	for i, l := range leases {
		addr, err := netip.ParseAddr(l.Spec.Address)
		if err != nil {
			return nil, fmt.Errorf("lease %s: %w", l.Name, err)
		}
		s, ok := pools[i].SubnetOf(addr)
		if !ok {
			return nil, badRequest{fmt.Errorf("address %s of the interface is no longer in a subnet of pool %q; add the subnet again, or delete the pod", addr, pools[i].Name)}
		}
		subnets = append(subnets, s)
		ip := &types100.IPConfig{Address: ipNet(netip.PrefixFrom(addr, s.Prefix.Bits()))}
		if s.Gateway.IsValid() && (mainPlugin == "ptp" || addr.Is4() && len(steered) == 0) {
			ip.Gateway = s.Gateway.AsSlice()
		}
		res.IPs = append(res.IPs, ip)
	}
	r := routes{seen: map[netip.Prefix]bool{}}
	r.service(subnets, steered)
	for _, s := range subnets {
		for _, route := range s.Routes {
			r.add(route.Dst, route.GW)
		}
	}
	for _, route := range ask.Routes {
		if s, ok := reach(subnets, route); ok {
			gw := route.GW
			if !gw.IsValid() {
				gw = s.Gateway
			}
			r.add(route.Dst, gw)
		}
	}
	isDefaultRoute := ask.Default && ask.DefaultRoute && !ask.NoDefaultRoute
	for _, route := range given.routes {
		dst, _ := netip.AddrFromSlice(route.Dst.IP)
		bits, _ := route.Dst.Mask.Size()
		if p := netip.PrefixFrom(dst.Unmap(), bits); bits > 0 || isDefaultRoute {
			r.addAsIs(p, route)
		}
	}
	if isDefaultRoute {
		for i, s := range subnets {
			if s.Gateway.IsValid() && pools[i].Delegate == nil {
				r.add(defaultOf(s.Prefix.Addr()), s.Gateway)
			}
		}
	}
	res.Routes = r.list
	return res, nil
}

// reach finds the subnet whose gateway or on-link address a route goes through.
func reach(subnets []ipam.Subnet, r nad.Route) (ipam.Subnet, bool) {
	for _, s := range subnets {
		if s.Prefix.Addr().Is4() != r.Dst.Addr().Is4() {
			continue
		}
		switch {
		case !r.GW.IsValid() && s.Gateway.IsValid(),
			r.GW.IsValid() && (s.Prefix.Contains(r.GW) || r.GW.IsLinkLocalUnicast()):
			return s, true
		}
	}
	return ipam.Subnet{}, false
}

// routes in order, each destination once: the first wins.
type routes struct {
	list []*types.Route
	seen map[netip.Prefix]bool
}

func (r *routes) add(dst netip.Prefix, gw netip.Addr) *types.Route {
	return r.addAsIs(dst, &types.Route{Dst: ipNet(dst), GW: gw.AsSlice()})
}

func (r *routes) addAsIs(dst netip.Prefix, route *types.Route) *types.Route {
	if r.seen[dst] {
		return nil
	}
	r.seen[dst] = true
	r.list = append(r.list, route)
	return route
}

// service adds the routes of the service path, for the families that the interface has.
func (r *routes) service(subnets []ipam.Subnet, steered []netip.Prefix) {
	has := map[bool]bool{}
	for _, s := range subnets {
		has[s.Prefix.Addr().Is4()] = true
	}
	for _, p := range steered {
		if !has[p.Addr().Is4()] {
			continue
		}
		gw := bpf.Gateway6 // link-local, so on the link without a route of its own
		if p.Addr().Is4() {
			gw = bpf.Gateway4
			if onLink := r.add(netip.PrefixFrom(gw, 32), netip.Addr{}); onLink != nil {
				scope := scopeLink
				onLink.Scope = &scope
			}
		}
		r.add(p, gw)
	}
}

func defaultOf(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
