//go:build linux

package path

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// neighbours are the permanent neighbours of a vmac. What the kernel has learnt itself is not ours.
func (k *kernel) neighbours(link int) (map[netip.Addr]mac, error) {
	actual := map[netip.Addr]mac{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := retry(func() ([]netlink.Neigh, error) {
			return k.NeighListExecute(netlink.Ndmsg{Family: uint8(family), Index: uint32(link), State: netlink.NUD_PERMANENT})
		})
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		for _, n := range list {
			addr, ok := netip.AddrFromSlice(n.IP)
			if !ok {
				continue
			}
			var m mac
			copy(m[:], n.HardwareAddr)
			actual[addr.Unmap()] = m
		}
	}
	return actual, nil
}

// setNeighbour makes the host know a pod without asking: a pod's answers to vmac's own questions would not pass the program,
// and vmac has no address to ask with.
func (k *kernel) setNeighbour(link int, addr netip.Addr, m mac) error {
	if err := k.NeighSet(neighbour(link, addr, m)); err != nil {
		return fmt.Errorf("neighbour %s (%s): %w", addr, m, err)
	}
	return nil
}

func (k *kernel) deleteNeighbour(link int, addr netip.Addr) error {
	if err := k.NeighDel(neighbour(link, addr, mac{})); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete neighbour %s: %w", addr, err)
	}
	return nil
}

func neighbour(link int, addr netip.Addr, m mac) *netlink.Neigh {
	n := &netlink.Neigh{LinkIndex: link, IP: addr.AsSlice(), State: netlink.NUD_PERMANENT, Family: netlink.FAMILY_V4}
	if addr.Is6() {
		n.Family = netlink.FAMILY_V6
	}
	if m != (mac{}) {
		n.HardwareAddr = m[:]
	}
	return n
}
