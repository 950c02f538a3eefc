//go:build linux

package path

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	vmacPrefix = "vmac"
	alias      = "berth"
)

// vmac is the macvlan sibling on the host of the pods of one parent.
//
//	state    | link           | program  | leaves by
//	absent   | none           | none     | first endpoint → made, program attached, then set up → in use
//	in use   | up             | attached | last endpoint gone → idle; parent deleted (the kernel deletes vmac) → absent
//	idle     | up             | attached | endpoint → in use; Config.Idle over → removed → absent
//	adopted  | up, found      | pinned   | at once in use or idle; nothing in it is interrupted
type vmac struct {
	name        string
	index       int
	parent      string
	parentIndex int
	mac         mac
	program     program
	up          bool
	idleSince   time.Time // zero while in use
}

func vmacName(parentIndex int) string { return vmacPrefix + strconv.Itoa(parentIndex) }

// vmacMAC is the same for a parent of a node for ever, so that pods' neighbour caches stay right. It is set at creation, which
// also keeps udev's MACAddressPolicy=persistent away: that only replaces random addresses.
func vmacMAC(node, parent string) mac {
	sum := sha256.Sum256([]byte("vmac\x00" + node + "\x00" + parent))
	m := mac(sum[:6])
	m[0] = m[0]&^0x01 | 0x02 // unicast, locally administered
	return m
}

func (k *kernel) parent(name string) (netlink.Link, error) {
	link, err := k.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, fmt.Errorf("parent link %q does not exist on this node; create it, or correct `master` in the network "+
			"attachment definition: %w", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("look up parent link %q: %w", name, err)
	}
	return link, nil
}

// ourVmac tells ours from a foreign link of that name. The alias cannot be set in the creation itself, so a link without
// alias but with our MAC is one of an agent that died in between.
func ourVmac(link netlink.Link, m mac) bool {
	a := link.Attrs()
	return link.Type() == "macvlan" && strings.HasPrefix(a.Name, vmacPrefix) &&
		(a.Alias == alias || a.Alias == "" && m != (mac{}) && string(a.HardwareAddr) == string(m[:]))
}

// ensureLink finds or makes the vmac of a parent and brings its settings up to date. The link is left down if it is new: the
// program comes first. An existing one is never recreated while it is usable: pods know its MAC.
func (k *kernel) ensureLink(log *slog.Logger, node string, parent netlink.Link) (link netlink.Link, created bool, err error) {
	p := parent.Attrs()
	name, m := vmacName(p.Index), vmacMAC(node, p.Name)

	link, err = k.LinkByName(name)
	switch {
	case errors.As(err, new(netlink.LinkNotFoundError)):
		link, created = nil, true
	case err != nil:
		return nil, false, fmt.Errorf("look up link %q: %w", name, err)
	case !ourVmac(link, m):
		return nil, false, fmt.Errorf("link %q exists but is not Berth's; rename or delete it", name)
	case link.(*netlink.Macvlan).Mode != netlink.MACVLAN_MODE_BRIDGE || link.Attrs().ParentIndex != p.Index:
		log.Warn("replacing a vmac that someone has changed", "link", name, "mode", link.(*netlink.Macvlan).Mode)
		if err := k.LinkDel(link); err != nil {
			return nil, false, fmt.Errorf("delete link %q: %w", name, err)
		}
		created = true
	}

	if created {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex, attrs.MTU, attrs.HardwareAddr = name, p.Index, p.MTU, net.HardwareAddr(m[:])
		if err := k.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
			return nil, false, fmt.Errorf("create link %q on %q: %w; is %q a bridge or bond port, or does it carry ipvlan or "+
				"passthru links?", name, p.Name, err, p.Name)
		}
		if link, err = k.LinkByName(name); err != nil {
			return nil, false, fmt.Errorf("look up new link %q: %w", name, err)
		}
	}
	if link.Attrs().Alias != alias {
		if err := k.LinkSetAlias(link, alias); err != nil {
			return nil, created, fmt.Errorf("set alias of %q: %w", name, err)
		}
	}
	if string(link.Attrs().HardwareAddr) != string(m[:]) {
		log.Warn("setting back the MAC of a vmac that someone has changed", "link", name, "from", link.Attrs().HardwareAddr, "to", m)
		if err := k.LinkSetHardwareAddr(link, m[:]); err != nil {
			return nil, created, fmt.Errorf("set MAC of %q to %s: %w", name, m, err)
		}
		link.Attrs().HardwareAddr = net.HardwareAddr(m[:])
	}
	if link.Attrs().MTU != p.MTU {
		if err := k.LinkSetMTU(link, p.MTU); err != nil {
			return nil, created, fmt.Errorf("set MTU of %q to %d: %w", name, p.MTU, err)
		}
	}
	if err := apply(log, vmacSettings(name)...); err != nil {
		return nil, created, err
	}
	return link, created, nil
}

// vmacs lists the links that are ours. The kernel is asked for macvlan links only: a node has hundreds of others.
func (k *kernel) vmacs() ([]netlink.Link, error) {
	messages, err := retry(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("macvlan"))
		req.AddData(info)
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
	if err != nil {
		return nil, fmt.Errorf("list macvlan links: %w", err)
	}
	var ours []netlink.Link
	for _, m := range messages {
		link, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, fmt.Errorf("list macvlan links: %w", err)
		}
		if ourVmac(link, mac{}) {
			ours = append(ours, link)
		}
	}
	return ours, nil
}
