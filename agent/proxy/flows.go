//go:build linux

package proxy

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/service"
)

// stale says of a UDP flow whether it must find its way anew. A client that goes on sending keeps its flow alive for ever, so what
// conntrack has must go when it is not what the table would say:
//
//	flow                                                        | stale
//	to a frontend that was changed, and a backend of it answers | no, also if others came or went, or if it gets nothing new
//	to a frontend that was changed, and another was to answer:  | yes
//	a removed backend, or nobody, as the Service is new         |
//	to a frontend that is no more                               | yes
//	to anything else                                            | no
type stale struct {
	backends map[service.Frontend][]netip.AddrPort // of changed frontends
}

// MatchConntrackFlow is for netlink.ConntrackDeleteFilters.
func (s stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to := addrPort(flow.Forward.DstIP, flow.Forward.DstPort)
	f := service.Frontend{Address: to.Addr(), Port: to.Port(), Protocol: service.UDP}
	backends, ok := s.backends[f]
	if !ok {
		f.Address = netip.IPv6Unspecified()
		if to.Addr().Is4() {
			f.Address = netip.IPv4Unspecified()
		}
		if backends, ok = s.backends[f]; !ok {
			return false
		}
	}
	by := addrPort(flow.Reverse.SrcIP, flow.Reverse.SrcPort)
	for _, b := range backends {
		if b == by {
			return false
		}
	}
	return true
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// moveFlows ends the stale ones among the flows to changed frontends, of all changes since the last time at once: it costs a dump
// of conntrack.
func (p *Proxy) moveFlows(tracked *conntrack) error {
	p.mu.Lock()
	changed := p.flows
	p.flows = map[service.Frontend]bool{}
	filter := stale{map[service.Frontend][]netip.AddrPort{}}
	families := map[netlink.InetFamily]bool{}
	for f := range changed {
		filter.backends[f] = p.want.answering(f)
		if f.Address.Is4() {
			families[unix.AF_INET] = true
		} else {
			families[unix.AF_INET6] = true
		}
	}
	p.mu.Unlock()
	var errs []error
	for family := range families {
		n, err := tracked.end(family, filter)
		if err != nil {
			errs = append(errs, err)
		} else if n > 0 {
			p.log.Info("UDP flows find their way anew", "flows", n)
		}
	}
	err := errors.Join(errs...)
	if err != nil {
		p.mu.Lock()
		maps.Copy(p.flows, changed)
		p.mu.Unlock()
	}
	return err
}

// conntrack is asked by a socket that stays open, as each closing would hold back transactions (see begin).
type conntrack struct {
	handle *netlink.Handle // nil: not yet, or after an error
}

func (c *conntrack) end(family netlink.InetFamily, filter netlink.CustomConntrackFilter) (n uint, err error) {
	if c.handle == nil {
		if c.handle, err = netlink.NewHandle(unix.NETLINK_NETFILTER); err != nil {
			return 0, fmt.Errorf("conntrack: %w", err)
		}
	}
	const tries = 5
	for range tries {
		var ended uint
		ended, err = c.handle.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter)
		n += ended
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		c.close()
		return n, fmt.Errorf("end stale UDP flows: %w", err)
	}
	return n, nil
}

func (c *conntrack) close() {
	if c.handle != nil {
		c.handle.Close()
		c.handle = nil
	}
}

// answering are those with whom flows to the frontend may go on; nil if nobody has it.
func (w *wanted) answering(f service.Frontend) (all []netip.AddrPort) {
	for _, p := range w.services[w.claims[f].service].Ports {
		if !slices.Contains(p.Frontends, f) {
			continue
		}
		for _, b := range slices.Concat(p.Backends, p.Staying) {
			all = append(all, netip.AddrPortFrom(b.Address, b.Port))
		}
	}
	return all
}
