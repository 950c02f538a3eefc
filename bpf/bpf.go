// Package bpf is the packet side of the service path: the programs on a vmac and on its parent, and the maps that tell
// them about local pods and steered prefixes.
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
