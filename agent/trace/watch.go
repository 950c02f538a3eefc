//go:build linux

package trace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/agent/state"
	"github.com/berthdev/berth/bpf"
	"github.com/berthdev/berth/bpf/sock"
)

// Watch shows packets of a pod, at most so many in a second, until ctx or show ends it: those on its interfaces and at their vmacs, and
// those that a program of Berth drops. With Request.To only those to and from these addresses, the Endpoints, and what fast mode has for
// them now. Nothing of it is left when its process ends, however that ends.
//
//	a packet that                                   is shown
//	the pod sends or receives                       as such, at its interface
//	goes to the node, or comes from it              at the vmac, too
//	the source guard, steer or guard drops          with the counter that counts it
//	the node's rules in nftables drop, whoever's    with their table and chain, on its way from the vmac, not back
//	iptables-legacy drops                           at the vmac, and not again: nothing comes after it
//	a socket of the pod may not send                not: fast mode's refusals are no packets
//	passes the pod's egress by (AF_XDP, …)          at the vmac, or not at all
func Watch(ctx context.Context, cfg Config, r Request, perSecond uint32, show func(report.Packet) error) (err error) {
	told, err := state.Ask(ctx, cfg.Socket)
	if err != nil {
		return fmt.Errorf("%w; without it nobody knows the pod's interfaces", err)
	}
	var pod []state.Interface
	filter := bpf.WatchFilter{PerSecond: perSecond}
	file := ""
	for _, i := range told.Interfaces {
		if i.Namespace != r.Namespace || i.Pod != r.Pod || i.Parent == "" {
			continue
		}
		pod = append(pod, i)
		filter.Addresses = append(filter.Addresses, i.Addresses...)
		if mac, err := net.ParseMAC(i.MAC); err == nil && len(mac) == 6 {
			filter.MACs = append(filter.MACs, [6]byte(mac))
		}
		if file == "" {
			file = i.NetNSFile(cfg.NetNS)
		}
	}
	if len(pod) == 0 {
		return fmt.Errorf("pod %s/%s has no interface of Berth on this node with a service path", r.Namespace, r.Pod)
	}
	if file != "" {
		if filter.Cookie, err = sock.Cookie(file); err != nil {
			return err
		}
	}
	filter.Peers = peers(cfg, r, filter.Cookie)
	w, err := bpf.OpenWatch(cfg.Path.PinDir, filter)
	switch {
	case errors.Is(err, bpf.ErrWatched):
		return fmt.Errorf("%w; wait until they have ended", err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: the agent has attached nothing on this node, or is of an earlier version", err)
	case err != nil:
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	vmacs, err := watchLinks(w, pod, file)
	if err != nil {
		return err
	}
	rules, err := newTracer(vmacs, filter.Addresses, r.To, perSecond)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var one sync.Mutex
	tell := func(p report.Packet) error {
		one.Lock()
		defer one.Unlock()
		return show(p)
	}
	ended := make(chan error, 1)
	go func() {
		defer cancel()
		ended <- rules.follow(ctx.Done(), tell)
	}()
	err = watch(ctx, w, tell)
	cancel()
	return errors.Join(err, <-ended, rules.close())
}

// peers are none if all is to be shown.
func peers(cfg Config, r Request, cookie uint64) (out []bpf.WatchPeer) {
	view, err := sock.Open(cfg.Path.PinDir)
	if err == nil {
		defer func() { _ = view.Close() }()
	}
	for _, to := range r.To {
		add := func(a netip.AddrPort) {
			out = append(out, bpf.WatchPeer{AddrPort: a, Protocol: uint8(to.Protocol)})
		}
		add(netip.AddrPortFrom(to.Address, to.Port))
		for _, e := range r.Endpoints {
			add(e)
		}
		if err != nil { // fast mode is off, or cannot be read
			continue
		}
		if a, err := view.Lookup(cookie, to); err == nil {
			for _, c := range a.Backends {
				add(c.Backend)
			}
		}
	}
	return out
}

// watchLinks names the vmacs.
func watchLinks(w *bpf.Watch, pod []state.Interface, file string) (vmacs []string, err error) {
	var parents []string
	for _, i := range pod {
		if !slices.Contains(parents, i.Parent) {
			parents = append(parents, i.Parent)
		}
	}
	for _, p := range parents {
		name, index, err := path.VMAC(p)
		if err == nil {
			err = w.Link(index, false)
		}
		if err != nil {
			return nil, err
		}
		vmacs = append(vmacs, name)
	}
	if file == "" {
		return vmacs, nil // drops and what comes by a vmac are shown all the same
	}
	return vmacs, sock.Within(file, func() error {
		for _, i := range pod {
			link, err := netlink.LinkByName(i.Name)
			if err != nil {
				return fmt.Errorf("interface %s of the pod: %w", i.Name, err)
			}
			if err := w.Link(link.Attrs().Index, true); err != nil {
				return err
			}
		}
		return nil
	})
}

// renewEvery is well below the time that a watch lasts by itself.
const renewEvery = time.Second

func watch(ctx context.Context, w *bpf.Watch, show func(report.Packet) error) error {
	var told uint64
	for next := time.Now().Add(renewEvery); ctx.Err() == nil; {
		p, err := w.Read(earlier(next, time.Now().Add(renewEvery/4))) // ctx is looked at between
		switch {
		case err == nil:
			err = show(packet(p))
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = nil
		}
		if now := time.Now(); err == nil && now.After(next) {
			next = now.Add(renewEvery)
			err = w.Renew()
			if lost, lookErr := w.Lost(); err == nil && lookErr == nil && lost.OverBudget+lost.BufferFull > told {
				err = show(report.Packet{Time: now, Lost: lost.OverBudget + lost.BufferFull - told})
				told = lost.OverBudget + lost.BufferFull
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

var sights = map[bpf.Sight]string{bpf.PodSends: "pod sends", bpf.PodReceives: "pod receives", bpf.NodeReceives: "vmac receives", bpf.NodeSends: "vmac sends",
	bpf.SteerDrops: "steer drops", bpf.GuardDrops: "guard drops", bpf.SourceDrops: "source drops"}

// packet for people.
func packet(p bpf.SeenPacket) report.Packet {
	out := report.Packet{Time: p.Time, At: sights[p.At], Drop: p.Reason, Length: p.Length}
	if !p.Src.IsValid() {
		out.From, out.To = net.HardwareAddr(p.SrcMAC[:]).String(), net.HardwareAddr(p.DstMAC[:]).String()
		out.Protocol = fmt.Sprintf("EtherType 0x%04x", p.EtherType)
		return out
	}
	out.From, out.To = p.Src.String(), p.Dst.String()
	if p.SrcPort != 0 || p.DstPort != 0 {
		out.From, out.To = netip.AddrPortFrom(p.Src, p.SrcPort).String(), netip.AddrPortFrom(p.Dst, p.DstPort).String()
	}
	out.Protocol, out.Detail = protocol(p)
	if p.Fragment {
		out.Detail = strings.TrimSpace(out.Detail + " fragment")
	}
	return out
}

func protocol(p bpf.SeenPacket) (name, detail string) {
	const arp = 0x0806
	switch {
	case p.EtherType == arp && p.Detail == 1:
		return "ARP", "who has"
	case p.EtherType == arp:
		return "ARP", "is at " + net.HardwareAddr(p.SrcMAC[:]).String()
	}
	switch p.Protocol {
	case 6:
		return "TCP", flags(p.Detail)
	case 17:
		return "UDP", ""
	case 132:
		return "SCTP", ""
	case 1:
		return "ICMP", fmt.Sprintf("type %d", p.Detail)
	case 58:
		return "ICMPv6", fmt.Sprintf("type %d", p.Detail)
	}
	return fmt.Sprintf("IP protocol %d", p.Protocol), ""
}

func flags(set uint8) string {
	var out []string
	for i, name := range []string{"FIN", "SYN", "RST", "PSH", "ACK"} {
		if set&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return strings.Join(out, " ")
}
