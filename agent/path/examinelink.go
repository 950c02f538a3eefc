//go:build linux

package path

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/bpf"
)

func (s *scene) examineLink(v *sight) (found []report.Finding) {
	add := func(f report.Finding) { found = append(found, f) }
	if v.parentLink == nil {
		return []report.Finding{bad(checkLink, "create it, or correct `master` in the network attachment definition",
			"parent link %q of %d addresses does not exist", v.parent, len(s.desired[v.parent]))}
	}
	parent := v.parentLink.Attrs()
	if parent.Flags&net.FlagUp == 0 {
		add(bad(checkLink, "ip link set "+v.parent+" up", "parent link %s is down", v.parent))
	}
	if v.link == nil {
		if foreign, err := s.LinkByName(v.name); err == nil {
			add(bad(checkLink, "rename or delete that link", "%s exists, is a %s with alias %q and not Berth's", v.name, foreign.Type(), foreign.Attrs().Alias))
		} else {
			add(bad(checkLink, mended, "%s, the sibling of the pods on %s, does not exist", v.name, v.parent))
		}
		return found
	}
	a, want := v.link.Attrs(), vmacMAC(s.cfg.NodeName, v.parent)
	if a.Flags&net.FlagUp == 0 {
		add(bad(checkLink, mended, "%s is down", v.name))
	}
	if m, is := v.link.(*netlink.Macvlan); is && m.Mode != netlink.MACVLAN_MODE_BRIDGE {
		add(bad(checkLink, mended, "%s is not in mode bridge", v.name))
	}
	if a.Alias != alias {
		add(bad(checkLink, mended, "%s has alias %q, not %q", v.name, a.Alias, alias))
	}
	if a.MTU != parent.MTU {
		add(bad(checkLink, mended, "%s has MTU %d, its parent %s has %d", v.name, a.MTU, v.parent, parent.MTU))
	}
	if a.HardwareAddr.String() != want.String() {
		add(bad(checkLink, mended,
			"%s has MAC %s, and for this node and parent it is to be %s", v.name, a.HardwareAddr, want))
	}
	for _, stray := range s.strays {
		if stray.LinkIndex == v.index {
			add(bad(checkLink, mended+"; find who puts it there", "%s has an address, %s; it is to have none", v.name, stray.IPNet))
		}
	}
	return orOK(found, checkLink, "%s on %s: up, MTU %d, MAC %s, no address", v.name, v.parent, a.MTU, want)
}

func (s *scene) examineProgram(v *sight) (found []report.Finding) {
	if v.view == nil {
		return []report.Finding{bad(checkProgram, mended, "%s: %s", v.name, v.viewErr)}
	}
	modes := ""
	for _, name := range bpf.Programs() {
		mode, err := v.view.Attached(name)
		if err != nil {
			found = append(found, bad(checkProgram, mended, "%s", err))
		}
		modes = mode
	}
	return orOK(found, checkProgram, "%s: %s attached by %s, and pinned", v.name, strings.Join(bpf.Programs(), " and "), modes)
}

// forwarding is what the node needs to be a router.
func (s *scene) forwarding() (settings []setting) {
	if anyIs4(s.desired) {
		settings = append(settings, routerSettings4...)
	}
	if anyIs6(s.desired) {
		settings = append(settings, routerSettings6...)
	}
	return settings
}

func (s *scene) examineSysctls(settings []setting, whose string) (found []report.Finding, err error) {
	for _, set := range settings {
		key := "net." + strings.ReplaceAll(set.key, "/", ".")
		switch now, err := readSysctl(set.key); {
		case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(set.key, "ipv6/conf/all"):
			found = append(found, bad(checkSysctls, "remove ipv6.disable=1 from its command line", "a pod has an IPv6 address, and IPv6 is off in this node's kernel"))
		case errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(set.key, "ipv6/"): // off in the kernel
		case err != nil:
			return found, fmt.Errorf("sysctl %s: %w", key, err)
		case now != set.value:
			found = append(found, bad(checkSysctls, mended+"; find who changes it (sysctl -w "+key+"="+set.value+")", "%s is %s, not %s", key, now, set.value))
		}
	}
	if len(settings) == 0 {
		return nil, nil
	}
	return orOK(found, checkSysctls, "%d settings %s", len(settings), whose), nil
}
