//go:build linux

package path

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/berthdev/berth/bpf"
)

// mac is a hardware address that can be compared.
type mac [6]byte

func (m mac) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

func compareMAC(a, b mac) int { return bytes.Compare(a[:], b[:]) }

// endpoints are the addresses to be reached by each vmac: parent → address → MAC.
type endpoints map[string]map[netip.Addr]mac

// put adds an endpoint. The host has one route per address, so one address cannot be at home on two parents of a node.
func (e endpoints) put(ep Endpoint) (netip.Addr, mac, error) {
	addr, m, err := checked(ep)
	if err != nil {
		return addr, m, err
	}
	for parent, addrs := range e {
		if _, taken := addrs[addr]; taken && parent != ep.Parent {
			return addr, m, fmt.Errorf("endpoint %s on %s: the same address is already in use on %s of this node; "+
				"steering needs an address to be unique on the node: use other ranges, or turn steering off for one network",
				addr, ep.Parent, parent)
		}
	}
	if e[ep.Parent] == nil {
		e[ep.Parent] = map[netip.Addr]mac{}
	}
	e[ep.Parent][addr] = m
	return addr, m, nil
}

// take removes an endpoint and says where it was. A late delete of an old sandbox carries the old MAC, and must not take
// the address away from the new one; an empty parent or MAC matches any.
func (e endpoints) take(ep Endpoint) (parents []string) {
	addr := ep.Address.Unmap()
	for parent, addrs := range e {
		if ep.Parent != "" && ep.Parent != parent {
			continue
		}
		m, ok := addrs[addr]
		if !ok || len(ep.MAC) != 0 && !bytes.Equal(ep.MAC, m[:]) {
			continue
		}
		delete(addrs, addr)
		if len(addrs) == 0 {
			delete(e, parent)
		}
		parents = append(parents, parent)
	}
	return parents
}

func anyIs4(e endpoints) bool { return e.any(netip.Addr.Is4) }
func anyIs6(e endpoints) bool { return e.any(netip.Addr.Is6) }

func (e endpoints) any(is func(netip.Addr) bool) bool {
	for _, addrs := range e {
		for a := range addrs {
			if is(a) {
				return true
			}
		}
	}
	return false
}

func checked(ep Endpoint) (netip.Addr, mac, error) {
	addr := ep.Address.Unmap()
	switch {
	case ep.Parent == "":
		return addr, mac{}, fmt.Errorf("endpoint %s: no parent link named", addr)
	case !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() || addr.Zone() != "":
		return addr, mac{}, fmt.Errorf("endpoint on %s: %q is not the address of a host", ep.Parent, ep.Address)
	case len(ep.MAC) != len(mac{}):
		return addr, mac{}, fmt.Errorf("endpoint %s on %s: %q is not an Ethernet address", addr, ep.Parent, ep.MAC)
	}
	return addr, mac(ep.MAC), nil
}

// desiredEndpoints is the endpoint set of one vmac for its program.
func desiredEndpoints(addrs map[netip.Addr]mac) []bpf.Endpoint {
	eps := make([]bpf.Endpoint, 0, len(addrs))
	for _, a := range slices.SortedFunc(maps.Keys(addrs), netip.Addr.Compare) {
		eps = append(eps, bpf.Endpoint{Address: a, MAC: addrs[a]})
	}
	return eps
}

// desiredRoutes is the source address that the host prefers towards each endpoint (the zero Addr: the kernel's choice).
func desiredRoutes(addrs map[netip.Addr]mac, own []ownAddress, parentIndex int) map[netip.Addr]netip.Addr {
	routes := make(map[netip.Addr]netip.Addr, len(addrs))
	for a := range addrs {
		routes[a] = sourceFor(a, own, parentIndex)
	}
	return routes
}

// desiredGroups are the multicast groups that vmac must be a member of: macvlan does not pass it a neighbour solicitation
// for an address whose solicited-node group it has not joined. Those for routers are from everybody who uses an address.
func desiredGroups(own []ownAddress, routers []netip.Addr) map[mac]bool {
	groups := map[mac]bool{solicitedNode(bpf.Gateway6): true}
	for _, o := range own {
		if o.Addr().Is6() {
			groups[solicitedNode(o.Addr())] = true
		}
	}
	for _, r := range routers {
		if r.Is6() {
			groups[solicitedNode(r)] = true
		}
	}
	return groups
}

// desiredClasses is the prefix map of the programs.
func desiredClasses(p Prefixes, own []ownAddress) map[netip.Prefix]bpf.Class {
	classes := map[netip.Prefix]bpf.Class{}
	put := func(prefixes []netip.Prefix, class bpf.Class) {
		for _, prefix := range prefixes {
			classes[prefix] = class
		}
	}
	// The last to claim a prefix has it.
	put(p.User, bpf.ClassUser)
	put(p.Pods, bpf.ClassPod)
	put(p.Services, bpf.ClassService)
	for _, o := range own {
		if !covered(o.Addr(), p.Services) { // such as the ten thousand of a kube-ipvs0
			classes[host(o.Addr())] = bpf.ClassNode
		}
	}
	return classes
}

// desiredRuleset is the content of Berth's table.
func desiredRuleset(p Prefixes, multihomed []netip.Addr, own []ownAddress, vmacs iter.Seq[*vmac]) ruleset {
	want := ruleset{local: p.LocalPods, multihomed: multihomed}
	if p.Served {
		want.unserved = p.Services
	}
	for v := range vmacs {
		want.vmacs = append(want.vmacs, v.name)
		for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			if source := sourceFor(any, own, v.parentIndex); source.IsValid() {
				want.sources = append(want.sources, vmacSource{v.name, source})
			}
		}
	}
	slices.Sort(want.vmacs)
	slices.SortFunc(want.sources, vmacSource.compare)
	return want
}

// normalized checks prefixes and clears their host bits, so that they compare.
func (p Prefixes) normalized() (Prefixes, error) {
	var errs []error
	clean := func(what string, in []netip.Prefix) (out []netip.Prefix) {
		for _, prefix := range in {
			if !prefix.IsValid() || prefix.Addr().Is4In6() {
				errs = append(errs, fmt.Errorf("%s prefix %q is not valid", what, prefix))
				continue
			}
			out = append(out, prefix.Masked())
		}
		slices.SortFunc(out, comparePrefix)
		return slices.Compact(out)
	}
	return Prefixes{
		Services:  clean("service", p.Services),
		Pods:      clean("pod", p.Pods),
		User:      clean("user", p.User),
		LocalPods: clean("local pod", p.LocalPods),
		Served:    p.Served,
	}, errors.Join(errs...)
}
