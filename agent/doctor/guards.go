//go:build linux

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/agent/state"
	"github.com/berthdev/berth/bpf"
	"github.com/berthdev/berth/bpf/sock"
)

const (
	guardMended   = "the agent sets this right within half a minute; if it stays, its log says why. Until then the pod may send as anybody, or not at all"
	guardUnfenced = "the agent's log says why the kernel takes none (it needs BTF and BPF trampolines); drop NET_RAW and NET_ADMIN in pods that do not need them"
	guardRound    = "if the pod made it, it goes around the guard: take NET_ADMIN from it. If another network of the pod's has it, that network is not guarded by Berth"
)

// examineGuards looks at each guarded interface: its program, what that lets it send as, and what else is in its namespace.
func examineGuards(cfg Config, told *state.State) (found []report.Finding) {
	guarded := 0
	known := map[string][]string{} // interfaces of Berth's by namespace
	for _, i := range told.Interfaces {
		known[i.NetNS] = append(known[i.NetNS], i.Name)
	}
	looked := map[string]bool{}
	for _, i := range told.Interfaces {
		file := i.NetNSFile(cfg.NetNS)
		if i.Guard == nil || file == "" { // of the latter netns tells
			continue
		}
		guarded++
		name := fmt.Sprintf("pod %s/%s, %s", i.Namespace, i.Pod, i.Name)
		wrong := func(s report.Severity, remedy, format string, args ...any) {
			found = append(found, finding(checkGuards, s, remedy, "%s: %s", name, fmt.Sprintf(format, args...)))
		}
		faults, others, err := guardOf(cfg, i, file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			wrong(report.Fail, guardMended, "it is to be guarded, and is not: %s", err)
		case errors.As(err, new(netlink.LinkNotFoundError)):
			wrong(report.Warn, "none is needed if the pod is about to go, or has renamed it: its program is the link's, whatever that is called", "there is no such interface")
		case err != nil:
			wrong(report.Warn, "run the doctor as root in the agent's pod", "its source guard cannot be read: %s", err)
		}
		for _, fault := range faults {
			wrong(report.Fail, guardMended, "%s", fault)
		}
		if !sameSet(i.Guard.Addresses, i.Addresses) {
			wrong(report.Fail, guardMended, "its guard is of %s, and its leases are of %s", join(i.Guard.Addresses), join(i.Addresses))
		}
		for _, other := range others {
			if !looked[file] && !slices.Contains(known[i.NetNS], other) {
				wrong(report.Warn, guardRound, "there is a macvlan link %s in its namespace, which Berth does not know and so does not guard", other)
			}
		}
		looked[file] = true
	}
	if guarded > 0 {
		found = append(found, examineFence(cfg)...)
	}
	if len(found) == 0 {
		found = append(found, finding(checkGuards, report.OK, "", "%d interfaces are guarded, as their leases say", guarded))
	}
	return found
}

// examineFence looks whether there is one. Who is within, bpf.ExamineSource tells.
func examineFence(cfg Config) []report.Finding {
	switch _, err := bpf.ExamineFence(cfg.Path.PinDir, 0); {
	case errors.Is(err, fs.ErrNotExist):
		return []report.Finding{finding(checkGuards, report.Warn, guardUnfenced,
			"pods can go around their source guard by PACKET_QDISC_BYPASS, AF_XDP or a macvlan link of their own: no fence keeps them from it")}
	case err != nil:
		return []report.Finding{finding(checkGuards, report.Warn, "run the doctor as root in the agent's pod", "the fence of the source guard cannot be read: %s", err)}
	}
	return nil
}

// guardOf an interface: what is wrong, and the macvlan links of its namespace.
func guardOf(cfg Config, i state.Interface, file string) (faults, links []string, err error) {
	cookie, err := sock.Cookie(file)
	if err != nil {
		return nil, nil, err
	}
	want := bpf.Source{Addresses: i.Guard.Addresses, Prefixes: i.Guard.Allowed, DHCP: i.Guard.DHCP}
	if m, err := net.ParseMAC(i.MAC); err == nil {
		copy(want.MAC[:], m)
	}
	err = sock.Within(file, func() error {
		all, err := netlink.LinkList() //nolint:forbidigo // a pod has few, and what is wrong is looked at twice
		if err != nil {
			return fmt.Errorf("list links: %w", err)
		}
		for _, l := range all {
			if l.Type() == "macvlan" || l.Type() == "macvtap" {
				links = append(links, l.Attrs().Name)
			}
		}
		l, err := netlink.LinkByName(i.Name)
		if err != nil {
			return err
		}
		faults, err = bpf.ExamineSource(cfg.Path.PinDir, bpf.Place{Cookie: cookie, Index: l.Attrs().Index}, want)
		return err
	})
	return faults, links, err
}

func sameSet(a, b []netip.Addr) bool {
	sorted := func(s []netip.Addr) []netip.Addr {
		s = slices.Clone(s)
		slices.SortFunc(s, netip.Addr.Compare)
		return s
	}
	return slices.Equal(sorted(a), sorted(b))
}

func join(all []netip.Addr) string {
	var s []string
	for _, a := range all {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}
