//go:build linux

package path

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/bpf"
)

// Crossing is what becomes of an IP packet of a pod at its vmac, by what the kernel has now.
type Crossing struct {
	VMAC    string       // name of the link
	Prefix  netip.Prefix // that steers it; not valid: none does
	Class   bpf.Class    // of the prefix
	Verdict string       // the counter of package bpf that counts it; "" if it comes to no program
	Why     string       // it does not pass; "" if it does
}

// VMAC is the link of a parent that has one, by name and index. It works in the network namespace of its process.
func VMAC(parent string) (name string, index int, err error) {
	k, err := openKernel()
	if err != nil {
		return "", 0, fmt.Errorf("open routing netlink: %w", err)
	}
	defer k.close()
	p, err := k.parent(parent)
	if err != nil {
		return "", 0, err
	}
	name = vmacName(p.Attrs().Index)
	link, err := k.LinkByName(name)
	if err != nil {
		return "", 0, fmt.Errorf("look up the vmac of %q: %w", parent, err)
	}
	return name, link.Attrs().Index, nil
}

// Cross says what becomes of a packet from a pod on the parent. It changes nothing, and works in the network namespace of its process.
func Cross(cfg Config, parent string, from netip.Addr, hardware net.HardwareAddr, to netip.Addr) (c Crossing, err error) {
	s, err := survey(cfg, &Wanted{Endpoints: []Endpoint{{parent, from, hardware}}})
	if err != nil {
		return c, err
	}
	defer s.close()
	v := s.vmacs[parent]
	c.VMAC = v.name
	switch {
	case v.parentLink == nil:
		c.Why = fmt.Sprintf("there is no link %s on this node", parent)
		return c, nil
	case v.link == nil:
		c.Why = fmt.Sprintf("there is no vmac of %s", parent)
		return c, nil
	case v.link.Attrs().Flags&net.FlagUp == 0:
		c.Why = v.name + " is down"
		return c, nil
	case v.view == nil:
		return c, v.viewErr
	}
	for _, program := range bpf.Programs() {
		if _, err := v.view.Attached(program); errors.Is(err, bpf.ErrDetached) {
			c.Why = err.Error()
			return c, nil
		} else if err != nil {
			return c, err
		}
	}
	prefixes, err := v.view.Prefixes()
	if err != nil {
		return c, err
	}
	known, err := v.view.Endpoints()
	if err != nil {
		return c, err
	}
	c.judge(from, mac(hardware), to, known, prefixes)
	return c, nil
}

// judge is what steer does with an IP packet that is in order, in the order of its checks; see the table of package bpf.
func (c *Crossing) judge(from netip.Addr, m mac, to netip.Addr, known []bpf.Endpoint, prefixes map[netip.Prefix]bpf.Class) {
	for p, class := range prefixes {
		if p.Contains(to) && (!c.Prefix.IsValid() || p.Bits() > c.Prefix.Bits()) {
			c.Prefix, c.Class = p, class
		}
	}
	c.Verdict, c.Why = "drop_spoofed_address", fmt.Sprintf("%s is no local pod's address by the program's map", from)
	for _, e := range known {
		if e.Address == from {
			c.Verdict, c.Why = "drop_spoofed_mac", fmt.Sprintf("%s is that of MAC %s, and the pod has %s", from, mac(e.MAC), m)
			if mac(e.MAC) == m {
				c.Verdict, c.Why = "steered_ipv4", ""
				if from.Is6() {
					c.Verdict = "steered_ipv6"
				}
			}
		}
	}
	if c.Why == "" && (!c.Prefix.IsValid() || to == bpf.Gateway4 || to.Is6() && to.IsLinkLocalUnicast()) {
		c.Verdict, c.Why = "drop_not_steered", fmt.Sprintf("%s is in no steered prefix", to)
	}
}

// Source is with which address a destination sees a pod whose packet came in by a vmac.
type Source struct {
	Addresses []netip.Addr // one of them; the pod's own if Own
	Own       bool
	Dropped   bool // it is another tenant's, and never sees the pod
	Why       string
}

// ErrTable is that table inet berth is not what the agent wants, so that what it does is not known.
var ErrTable = errors.New("table inet berth is not as the agent wants it")

// SeenAs says with which source the destination, after a Service's translation if there was one, sees the pod. It goes by the rules that
// the agent wants, if the kernel has them.
func SeenAs(cfg Config, want *Wanted, from, to netip.Addr, translated bool) (Source, error) {
	s, err := survey(cfg, want)
	if err != nil {
		return Source{}, err
	}
	defer s.close()
	for _, o := range s.own {
		if o.Addr() == to {
			return Source{Addresses: []netip.Addr{from}, Own: true, Why: "it is this node itself"}, nil
		}
	}
	rules, known := s.wantedRuleset()
	if !known {
		return Source{}, fmt.Errorf("%w, or it does not say", ErrTable)
	}
	conn, err := nftables.New()
	if err != nil {
		return Source{}, fmt.Errorf("nftables: %w", err)
	}
	if have, err := readTable(conn); err != nil {
		return Source{}, fmt.Errorf("nftables: read table inet berth: %w", err)
	} else if !have.equal(expected(rules)) {
		return Source{}, fmt.Errorf("%w: see berth-agent doctor", ErrTable)
	}
	routes, err := s.RouteGet(to.AsSlice())
	if err != nil || len(routes) == 0 {
		return Source{}, fmt.Errorf("this node's route to %s: %w", to, errors.Join(err, unix.EHOSTUNREACH))
	}
	out, err := s.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return Source{}, err
	}
	if in := s.vmacOf(from); in != "" && desiredIsolation(s.want.Tenants, s.present).drops(in, out.Attrs().Name, to) {
		return Source{Dropped: true, Why: toOtherTenant}, nil
	}
	source, why := rules.decide(out.Attrs().Name, to, translated)
	switch {
	case why == toLocal, why == toKept:
		return Source{Addresses: []netip.Addr{from}, Own: true, Why: why}, nil
	case source.IsValid():
		return Source{Addresses: []netip.Addr{source}, Why: why}, nil
	}
	return Source{Addresses: s.addressesOf(out, to.Is4()), Why: why + "; of " + out.Attrs().Name}, nil
}

// vmacOf a local pod's address; "" if it is not known.
func (s *scene) vmacOf(pod netip.Addr) string {
	for _, ep := range s.want.Endpoints {
		if ep.Address != pod {
			continue
		}
		for v := range s.present {
			if v.parent == ep.Parent {
				return v.name
			}
		}
	}
	return ""
}

// addressesOf a link, of which masquerade takes one.
func (s *scene) addressesOf(out netlink.Link, is4 bool) (all []netip.Addr) {
	for _, o := range s.own {
		if o.link == out.Attrs().Index && o.Addr().Is4() == is4 {
			all = append(all, o.Addr())
		}
	}
	return all
}

// OwnAddresses of this node that pods may want to reach.
func OwnAddresses() (own []netip.Addr, err error) {
	s, err := survey(Config{}, &Wanted{})
	if err != nil {
		return nil, err
	}
	defer s.close()
	for _, o := range s.own {
		own = append(own, o.Addr())
	}
	return own, nil
}
