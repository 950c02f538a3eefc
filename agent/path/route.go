//go:build linux

package path

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks the routes that are Berth's own (`ip route show proto 98`). Numbers up to 98 that
// /etc/iproute2/rt_protos does not name are free for such use; routing daemons leave foreign protocols alone.
const RouteProtocol = 98

// routes are the endpoint routes of a vmac that are ours: destination → preferred source.
func (k *kernel) routes(link int) (map[netip.Addr]netip.Addr, error) {
	actual := map[netip.Addr]netip.Addr{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{LinkIndex: link, Protocol: RouteProtocol, Table: unix.RT_TABLE_MAIN}
		list, err := retry(func() ([]netlink.Route, error) {
			return k.strict.RouteListFiltered(family, filter,
				netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range list {
			if r.Dst == nil {
				continue
			}
			dst, _ := netip.AddrFromSlice(r.Dst.IP)
			dst = dst.Unmap()
			if ones, bits := r.Dst.Mask.Size(); ones != bits {
				continue
			}
			src, _ := netip.AddrFromSlice(r.Src)
			actual[dst] = src.Unmap()
		}
	}
	return actual, nil
}

func (k *kernel) setRoute(link int, dst, src netip.Addr) error {
	err := k.RouteReplace(endpointRoute(link, dst, src))
	if err != nil && src.IsValid() {
		// The source may have gone since we looked. The route matters more; the next look sets it right.
		err = k.RouteReplace(endpointRoute(link, dst, netip.Addr{}))
	}
	if err != nil {
		return fmt.Errorf("route %s: %w", host(dst), err)
	}
	return nil
}

func (k *kernel) deleteRoute(link int, dst netip.Addr) error {
	if err := k.RouteDel(endpointRoute(link, dst, netip.Addr{})); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete route %s: %w", host(dst), err)
	}
	return nil
}

func endpointRoute(link int, dst, src netip.Addr) *netlink.Route {
	r := &netlink.Route{
		LinkIndex: link,
		Dst:       netlink.NewIPNet(dst.AsSlice()),
		Scope:     unix.RT_SCOPE_LINK,
		Protocol:  RouteProtocol,
		Table:     unix.RT_TABLE_MAIN,
	}
	if src.IsValid() {
		r.Src = src.AsSlice()
	}
	return r
}
