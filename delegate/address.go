package delegate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ParseAddr reads one asked-for address, "10.6.1.7" or "10.6.1.7/16". The prefix length is the pool's affair, and ignored.
func ParseAddr(s string) (netip.Addr, error) {
	s = strings.TrimSpace(s)
	addr, err := netip.ParseAddr(s)
	if strings.Contains(s, "/") {
		var prefix netip.Prefix
		prefix, err = netip.ParsePrefix(s)
		addr = prefix.Addr()
	}
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is no IP address", s)
	}
	return addr.Unmap(), nil
}

// MergeAddrs appends to list those of more that it does not have. An address may be asked for in several places (CNI_ARGS
// and runtimeConfig carry the same ones) and counts once.
func MergeAddrs(list []netip.Addr, more ...netip.Addr) []netip.Addr {
	for _, a := range more {
		if !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

// Route is a route asked for: by the ipam section, or by an annotation.
type Route struct {
	Dst netip.Prefix // masked
	GW  netip.Addr   // of Dst's family; invalid if none was given: the gateway of the address' subnet
}

// ParseRoute reads a route. dst may be an address (a host route) or have host bits; gw may be empty.
func ParseRoute(dst, gw string) (Route, error) {
	var r Route
	if p, err := netip.ParsePrefix(dst); err == nil {
		r.Dst = p.Masked()
	} else if a, err := netip.ParseAddr(dst); err == nil && a.Zone() == "" {
		r.Dst = netip.PrefixFrom(a, a.BitLen())
	} else {
		return Route{}, fmt.Errorf("route dst %q is no CIDR", dst)
	}
	if r.Dst.Addr().Is4In6() {
		return Route{}, fmt.Errorf("route dst %q is an IPv4 address in IPv6 form; write it as IPv4", dst)
	}
	if gw == "" {
		return r, nil
	}
	a, err := netip.ParseAddr(gw)
	if err != nil || a.Zone() != "" {
		return Route{}, fmt.Errorf("route gw %q (to %s) is no IP address", gw, dst)
	}
	r.GW = a.Unmap()
	if r.GW.Is4() != r.Dst.Addr().Is4() {
		return Route{}, fmt.Errorf("route to %s has the gw %s of the other family", dst, gw)
	}
	return r, nil
}
