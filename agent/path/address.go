//go:build linux

package path

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/berthdev/berth/bpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownAddress is an address of this node that its pods may want to reach.
type ownAddress struct {
	netip.Prefix
	link     int
	floating bool // comes and goes: a privacy address, or a virtual one that other nodes may take over
}

// ownAddresses reads the node's addresses. Everything of global scope counts, whatever link it is on: kubelet's, a
// node-local DNS's 169.254.20.10, a bridge's. Not counted: loopback and link-local scope, addresses that are not (yet, or any
// more) usable, and the virtual addresses of an IPVS kube-proxy, which are services. Those of vmacs should not be, and come
// back as strays.
func (k *kernel) ownAddresses(vmacs map[int]bool) (own []ownAddress, strays []netlink.Addr, err error) {
	ipvs := 0
	if link, err := k.LinkByName("kube-ipvs0"); err == nil {
		ipvs = link.Attrs().Index
	}
	list, err := retry(func() ([]netlink.Addr, error) { return k.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	for _, a := range list {
		if vmacs[a.LinkIndex] {
			strays = append(strays, a)
			continue
		}
		if a.LinkIndex == ipvs {
			continue
		}
		if o, ok := toOwnAddress(a); ok {
			own = append(own, o)
		}
	}
	return markVirtual(own), strays, nil
}

func toOwnAddress(a netlink.Addr) (ownAddress, bool) {
	addr, ok := netip.AddrFromSlice(a.IP)
	if !ok || a.Scope != unix.RT_SCOPE_UNIVERSE {
		return ownAddress{}, false
	}
	addr = addr.Unmap()
	if addr.IsLoopback() || addr.IsMulticast() || addr.Is6() && addr.IsLinkLocalUnicast() || addr == bpf.Gateway4 {
		return ownAddress{}, false
	}
	// 0x1 is "temporary" for IPv6 only; for IPv4 the same bit says "secondary".
	if addr.Is6() && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
		return ownAddress{}, false
	}
	bits, _ := a.Mask.Size()
	return ownAddress{
		Prefix:   netip.PrefixFrom(addr, bits),
		link:     a.LinkIndex,
		floating: addr.Is6() && a.Flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED) != 0,
	}, true
}

// markVirtual finds virtual addresses (keepalived, kube-vip): a single address on a link that has a whole subnet around it.
// They may move to another node at any time, and a pod's routes are never changed after its start, so a route by this node
// would outlive the move. They are answered for while they are here, which is all that a pod on that subnet needs.
func markVirtual(own []ownAddress) []ownAddress {
	for i, o := range own {
		if !o.IsSingleIP() {
			continue
		}
		for _, around := range own {
			if around.link == o.link && !around.IsSingleIP() && around.Contains(o.Addr()) {
				own[i].floating = true
			}
		}
	}
	return own
}

// sourceFor chooses the address with which the host itself talks to an endpoint: one that is on-link for the pod if the
// parent has it, so that even a pod without steered routes can answer. vmac has no address to choose.
func sourceFor(endpoint netip.Addr, own []ownAddress, parent int) netip.Addr {
	var best netip.Addr
	for _, o := range own {
		if o.link != parent || o.floating || o.Addr().Is4() != endpoint.Is4() {
			continue
		}
		if o.Contains(endpoint) {
			return o.Addr()
		}
		if !best.IsValid() {
			best = o.Addr()
		}
	}
	return best
}

// steered is what a pod routes by the service gateway, in stable order.
func steered(p Prefixes, own []ownAddress) []netip.Prefix {
	all := slices.Concat(p.Services, p.Pods, p.User)
	for _, o := range own {
		if !o.floating && !covered(o.Addr(), p.Services) && !covered(o.Addr(), p.Pods) && !covered(o.Addr(), p.User) {
			all = append(all, host(o.Addr()))
		}
	}
	slices.SortFunc(all, comparePrefix)
	return slices.Compact(all)
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func covered(a netip.Addr, by []netip.Prefix) bool {
	return slices.ContainsFunc(by, func(p netip.Prefix) bool { return p.Contains(a) })
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
