// Package bpf is the packet side of the service path: the programs on a vmac and on its parent, and the maps that tell
// them about local pods and steered prefixes.
//
// The program steer is on the vmac's ingress. It answers for the gateway, which no link bears, and for the node, and lets
// the host's stack see nothing but local pods' packets to steered prefixes. The first line that fits decides:
//
//	frame                                                   verdict   counted as
//	tagged; neither IP nor ARP                              drop      drop_vlan, drop_not_ip
//	shorter than its headers say, or against their rules    drop      drop_truncated, drop_malformed
//	ARP or ND, other than a question for the gateway        drop      drop_arp_other, drop_nd_other
//	  or for one of the node's addresses
//	such a question, from the unspecified address           drop      drop_arp_probe, drop_nd_dad
//	such a question, from no local pod                      drop      drop_arp_stranger, drop_nd_stranger
//	such a question, from a pod's address by another MAC    drop      drop_spoofed_mac
//	such a question                                         answer    arp_answered, nd_answered
//	IP to a group or to all; not to the vmac's MAC          drop      drop_multicast, drop_wrong_mac
//	IPv6 from a link-local address                          drop      drop_link_local
//	IP from an address of no local pod; by another MAC      drop      drop_spoofed_address, drop_spoofed_mac
//	IP to no steered prefix, or to the gateway              drop      drop_not_steered
//	IP                                                      pass      steered_ipv4, steered_ipv6
//
// Fragments pass by their addresses, as whatever else has an IP header. A question from a link-local address is judged by
// its MAC, which has to be some pod's. An answer that could not be written is drop_write_failed.
//
// Whatever becomes of it, ARP and ND also tell who uses which address:
//
//	frame                                                   address         MAC
//	ARP question or answer, but for a probe                 the sender's    the sender's
//	neighbour solicitation, but from ::                     the source      the frame's source
//	neighbour advertisement                                 the target      the frame's source
//
// Such a sighting goes to user space, by a ring buffer, if the address is watched (SyncWatched) and not an endpoint with that
// very MAC: once in half a minute, and no more than 128 a second of all. IP never comes by there.
//
// The program guard is on the parent's egress, where all that a pod broadcasts goes by:
//
//	frame                                                   verdict   counted as
//	from no local pod's MAC, nor the vmac's                 pass      -
//	ARP for the gateway, or in its name                     drop      guard_arp
//	ND for the gateway, or in its name                      drop      guard_nd
//	any other                                               pass      -
//
// The host itself may have a router at such an address, fe80::1 above all: its own questions and answers pass.
//
// Siblings have their copy of a broadcast by then. The sender is told of the drop: its link counts it, and a packet socket
// gets ENOBUFS.
//
// Everything is pinned below Config.PinDir/Config.Name: the maps endpoints, macs, prefixes, counters and seats, and in tcx mode the
// links steer and guard. With clsact there are no links to pin, and the filters, named berth/<vmac>/<program>, last as long
// as the devices do. The process may end; what it attached goes on.
package bpf

import (
	"fmt"
	"net/netip"
)

// The service gateway: the same on every node, configured on no link, answered for by the steer program.
var (
	Gateway4 = netip.MustParseAddr("169.254.1.1")
	Gateway6 = netip.MustParseAddr("fe80::1")
)

// Class says why a prefix is steered.
type Class uint32

const (
	ClassService Class = iota + 1 // a service CIDR of the cluster
	ClassPod                      // a pod CIDR of the cluster's default network
	ClassNode                     // this node's own address; steer answers ARP and neighbour solicitations for it
	ClassUser                     // added by the user
)

func (c Class) String() string {
	switch c {
	case ClassService:
		return "service"
	case ClassPod:
		return "pod"
	case ClassNode:
		return "node"
	case ClassUser:
		return "user"
	}
	return fmt.Sprintf("Class(%d)", uint32(c))
}

// Endpoint is an address of a pod on this node, and the MAC that may use it.
type Endpoint struct {
	Address netip.Addr
	MAC     [6]byte
}

// Config of the programs of one vmac.
type Config struct {
	PinDir string  // on a BPF file system, e.g. /sys/fs/bpf/berth; the pins of this vmac go to PinDir/Name
	Name   string  // name of the vmac link
	VMAC   int     // ifindex of the vmac
	Parent int     // ifindex of its parent
	MAC    [6]byte // of the vmac
	Clsact bool    // attach as on a kernel without tcx
}
