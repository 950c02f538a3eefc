//go:build linux

package path

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// VLANOf a link of this node: the VLAN that it is (IEEE 802.1Q), 0 for a link of another type or protocol. Over is the VLAN that its
// tagged frames are in again; 0 for none.
func VLANOf(name string) (vlan, over int32, err error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return 0, 0, fmt.Errorf("link %q does not exist on this node; create it, or correct master in the network attachment definition", name)
	} else if err != nil {
		return 0, 0, fmt.Errorf("link %q: %w", name, err)
	}
	v, ok := link.(*netlink.Vlan)
	if !ok || v.VlanProtocol != netlink.VLAN_PROTOCOL_8021Q {
		return 0, 0, nil
	}
	if v.NetNsID >= 0 { // the link below is in another namespace, of which nothing is known here
		return int32(v.VlanId), 0, nil
	}
	below, err := netlink.LinkByIndex(v.ParentIndex)
	if err != nil {
		return 0, 0, fmt.Errorf("the link below %q: %w", name, err)
	}
	if b, ok := below.(*netlink.Vlan); ok {
		return int32(v.VlanId), int32(b.VlanId), nil
	}
	return int32(v.VlanId), 0, nil
}
