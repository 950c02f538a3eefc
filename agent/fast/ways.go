//go:build linux

package fast

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthdev/berth/bpf"
	"github.com/berthdev/berth/bpf/sock"
)

// Ways by which an interface reaches macvlan pods of its network and other nodes without its own node: its subnets, and what it has a
// route to that does not go by the service gateway.
//
// The interface's node has to have given it the way to Services (steered): whoever has no such way was not to have one, or has another.
func Ways(res *types100.Result, network, parent string) []sock.Way {
	var native []netip.Prefix
	steered := false
	add := func(n net.IPNet) {
		a, ok := netip.AddrFromSlice(n.IP)
		if bits, _ := n.Mask.Size(); ok {
			native = append(native, netip.PrefixFrom(a.Unmap(), bits).Masked())
		}
	}
	for _, ip := range res.IPs {
		add(ip.Address)
	}
	for _, r := range res.Routes {
		gw, _ := netip.AddrFromSlice(r.GW)
		bits, size := r.Dst.Mask.Size()
		switch {
		case gw.Unmap() == bpf.Gateway4 || gw == bpf.Gateway6:
			steered = true
		case bits == size && r.Dst.IP.Equal(bpf.Gateway4.AsSlice()):
		default:
			add(r.Dst)
		}
	}
	if !steered {
		return nil
	}
	var out []sock.Way
	for _, p := range native {
		out = append(out, sock.Way{Network: network, Prefix: p}, sock.Way{Network: underlay(parent), Prefix: p})
	}
	return fewest(out)
}

// mostWays is how many the programs look at.
const mostWays = 8

// fewest of the ways that reach the same; the widest, if there are too many.
func fewest(ways []sock.Way) []sock.Way {
	ways = slices.Clone(ways)
	slices.SortStableFunc(ways, func(a, b sock.Way) int {
		return cmp.Or(a.Prefix.Bits()-b.Prefix.Bits(), a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Network, b.Network))
	})
	var out []sock.Way
	for _, w := range ways {
		if !slices.ContainsFunc(out, func(o sock.Way) bool { return o.Network == w.Network && o.Prefix.Contains(w.Prefix.Addr()) }) {
			out = append(out, w)
		}
	}
	return out[:min(len(out), mostWays)]
}
