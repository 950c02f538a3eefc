//go:build linux

package trace

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/bpf"
)

// hop is the pod's own next hop.
type hop struct {
	link     string
	hardware net.HardwareAddr
	gateway  netip.Addr
	source   netip.Addr
}

// route in the pod's namespace.
func (w *walk) route() bool {
	const name = "route"
	if w.netns == "" {
		return w.suppose(name, "the pod's network namespace is not known to the agent, so its routes are not read")
	}
	h, err := hopTo(w.netns, w.to.Address)
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return w.end(name, "the pod has no route: its connect fails at once", fmt.Sprintf("the pod has no route to %s", w.to.Address))
	case err != nil:
		return w.suppose(name, err.Error())
	}
	what := fmt.Sprintf("by %s via %s from %s", h.link, h.gateway, h.source)
	if !h.gateway.IsValid() {
		what = fmt.Sprintf("by %s, on the link, from %s", h.link, h.source)
	}
	if h.gateway != bpf.Gateway4 && h.gateway.WithZone("") != bpf.Gateway6 {
		return w.end(name, "past this node's vmac: not by Berth", what,
			"that is not the service gateway: the destination is not steered for this pod, which got its routes when it started; or another interface brings Services")
	}
	for _, i := range w.pod {
		if i.Name == h.link {
			w.by, w.from = i, h.source
			w.by.MAC = h.hardware.String()
		}
	}
	if w.by.Parent == "" {
		return w.end(name, "not by Berth", what, "that interface is none that the agent keeps a service path for")
	}
	return w.on(name, report.Passes, what+": to the service gateway")
}

// suppose goes on with what the lease says, where the pod cannot be looked into.
func (w *walk) suppose(name, why string) bool {
	for _, i := range w.pod {
		if a := w.address(i); a.IsValid() {
			w.by, w.from = i, a
			return w.on(name, report.Unknown, why, fmt.Sprintf("if it goes to the service gateway, it is by %s from %s", i.Name, a))
		}
	}
	return w.end(name, "not by Berth", why, "no interface with a service path has an address of this family")
}

// hopTo asks the kernel for the route in the namespace.
func hopTo(file string, to netip.Addr) (h hop, err error) {
	ns, err := netns.GetFromPath(file)
	if err != nil {
		return h, fmt.Errorf("network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }()
	k, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return h, fmt.Errorf("network namespace %s: %w", file, err)
	}
	defer k.Close()
	routes, err := k.RouteGet(to.AsSlice())
	if err != nil {
		return h, fmt.Errorf("the pod's route to %s: %w", to, err)
	}
	if len(routes) == 0 {
		return h, fmt.Errorf("the pod's route to %s: %w", to, unix.ENETUNREACH)
	}
	link, err := k.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return h, fmt.Errorf("the pod's route to %s: %w", to, err)
	}
	h.link, h.hardware = link.Attrs().Name, link.Attrs().HardwareAddr
	h.gateway, _ = netip.AddrFromSlice(routes[0].Gw)
	h.source, _ = netip.AddrFromSlice(routes[0].Src)
	h.gateway, h.source = h.gateway.Unmap(), h.source.Unmap()
	return h, nil
}

// toServiceCIDR by what the agent wants.
func (w *walk) toServiceCIDR() bool {
	p := w.told.Path.Prefixes
	return p != nil && slices.ContainsFunc(p.Services, func(c netip.Prefix) bool { return c.Contains(w.to.Address) })
}

// crossing of the vmac.
func (w *walk) crossing() bool {
	const name = "vmac"
	w.steered = w.toServiceCIDR() // what the programs have counts, where that can be read
	hardware, err := net.ParseMAC(w.by.MAC)
	if err != nil {
		return w.on(name, report.Unknown, fmt.Sprintf("the MAC of %s is not known", w.by.Name))
	}
	c, err := path.Cross(w.cfg.Path, w.by.Parent, w.from, hardware, w.to.Address)
	if err != nil {
		return w.on(name, report.Unknown, err.Error())
	}
	w.vmac, w.steered = c.VMAC, c.Class == bpf.ClassService
	why := c.Why
	if c.Verdict != "" && why != "" {
		why += ", so it is dropped and counted as " + c.Verdict
	}
	if why != "" {
		return w.end(name, "lost at the vmac: see `berth-agent doctor`", why)
	}
	return w.on(name, report.Passes, fmt.Sprintf("%s lets it pass (%s)", c.VMAC, c.Verdict),
		fmt.Sprintf("%s is in the steered prefix %s, of class %s; %s with MAC %s is a local pod's", w.to.Address, c.Prefix, c.Class, w.from, hardware))
}
