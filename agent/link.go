package agent

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
)

// parentOf a pod's interface, if that is a macvlan child in bridge mode, which a sibling on the host can reach; else "".
func parentOf(conf *delegate.Config, mac string) (string, error) {
	bridge := conf.Mode == "" || conf.Mode == "bridge"
	if conf.Type != "macvlan" || conf.LinkInContainer || !bridge || mac == "" {
		return "", nil
	}
	if conf.Parent != "" {
		return conf.Parent, nil
	}
	return defaultRouteLink()
}

// defaultRouteLink is the macvlan plugin's own choice where its configuration names no master.
func defaultRouteLink() (string, error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_DST) //nolint:forbidigo // one that was interrupted is an error here, and the runtime tries again
		if err != nil {
			return "", fmt.Errorf("default route: %w", err)
		}
		for _, r := range routes {
			if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
				return l.Attrs().Name, nil
			}
		}
	}
	return "", badConfig{fmt.Errorf(`no "master" in the network configuration, and the node has no default route to take it from; name the parent link`)}
}

// endpoints of this node's service path that bound leases stand for.
func (a *Agent) endpoints(leases ...*v1alpha1.IPLease) []path.Endpoint {
	var out []path.Endpoint
	for _, l := range leases {
		h := ipam.HolderOn(l, a.cfg.NodeName)
		addr, err := netip.ParseAddr(l.Spec.Address)
		if err != nil || h == nil || h.Parent == "" || h.MAC == "" {
			continue
		}
		mac, err := net.ParseMAC(h.MAC)
		if err != nil {
			continue
		}
		out = append(out, path.Endpoint{Parent: h.Parent, Address: addr, MAC: mac})
	}
	return out
}
