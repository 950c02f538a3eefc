//go:build linux

package links

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// snapshot is what a change is undone from: the links that it touches as they were before, and the names of those that were not there.
type snapshot struct {
	Links []saved
	New   []string
}

// saved link. Addresses and routes are the kernel's own messages (RTM_NEWADDR, RTM_NEWROUTE), so that nothing of them is lost.
type saved struct {
	Link
	AddressMessages [][]byte
	RouteMessages   [][]byte
}

func (s snapshot) link(name string) *saved {
	for i := range s.Links {
		if s.Links[i].Name == name {
			return &s.Links[i]
		}
	}
	return nil
}

// touched are the links that operations change, by themselves or through others: a bond's ports and what is on it.
func touched(ops []op, now Observed) []string {
	names := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		if name == "" || names[name] {
			return
		}
		names[name] = true
		for _, p := range now.ports(name) {
			add(p)
		}
		for _, a := range now.above(name) {
			add(a)
		}
	}
	for _, o := range ops {
		add(o.Link)
		if o.Verb == enslave || o.Verb == move {
			add(o.To)
		}
	}
	var out []string
	for name := range names {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// take a snapshot of what operations touch.
func (k *kernel) take(ops []op, now Observed) (snapshot, error) {
	var s snapshot
	byIndex := map[int]*saved{}
	for _, name := range touched(ops, now) {
		if l, ok := now[name]; ok {
			s.Links = append(s.Links, saved{Link: l})
		} else {
			s.New = append(s.New, name)
		}
	}
	for i := range s.Links {
		byIndex[s.Links[i].Index] = &s.Links[i]
	}
	addrs, err := k.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	if err != nil {
		return s, fmt.Errorf("read addresses: %w", err)
	}
	for _, m := range addrs {
		if l := byIndex[int(binary.NativeEndian.Uint32(m[4:]))]; l != nil && !linkLocal(m) {
			l.AddressMessages = append(l.AddressMessages, m)
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := k.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family)}})
		if err != nil {
			return s, fmt.Errorf("read routes: %w", err)
		}
		for _, m := range routes {
			if l := byIndex[routeLink(m)]; l != nil {
				l.RouteMessages = append(l.RouteMessages, m)
			}
		}
	}
	return s, nil
}

func (k *kernel) dump(request, answer int, filter nl.NetlinkRequestData) ([][]byte, error) {
	return retry(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(request, unix.NLM_F_DUMP)
		req.Sockets = k.raw
		req.AddData(filter)
		return req.Execute(unix.NETLINK_ROUTE, uint16(answer))
	})
}

// linkLocal addresses of IPv6 are the kernel's: each link makes its own.
func linkLocal(message []byte) bool {
	attrs, err := nl.ParseRouteAttr(message[unix.SizeofIfAddrmsg:])
	if err != nil || message[0] != unix.AF_INET6 {
		return false
	}
	for _, a := range attrs {
		if ip, ok := netip.AddrFromSlice(a.Value); a.Attr.Type == unix.IFA_ADDRESS && ok {
			return ip.IsLinkLocalUnicast()
		}
	}
	return false
}

// routeLink is the link of a route that people, daemons or router advertisements made; 0 for one that comes with its address, is
// only cached, or leads to several links or none.
func routeLink(message []byte) int {
	h := nl.DeserializeRtMsg(message)
	if h.Type != unix.RTN_UNICAST || h.Protocol == unix.RTPROT_KERNEL || h.Flags&unix.RTM_F_CLONED != 0 {
		return 0
	}
	attrs, err := nl.ParseRouteAttr(message[unix.SizeofRtMsg:])
	if err != nil {
		return 0
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.RTA_OIF {
			return int(binary.NativeEndian.Uint32(a.Value))
		}
	}
	return 0
}

// put back addresses and routes of a saved link, on it or on another. Addresses that are there already are left as they are; of routes
// to the same place there can be but one of a metric, so it says whether that is replaced (NLM_F_REPLACE) or left (NLM_F_EXCL).
func (k *kernel) put(s *saved, on netlink.Link, routes int) error {
	var errs []error
	for _, m := range s.AddressMessages {
		errs = append(errs, k.create(unix.RTM_NEWADDR, addressOn(m, s.Name, on), unix.NLM_F_EXCL))
	}
	// A route through a gateway is taken once the gateway can be reached: by an address, or by a route of scope link.
	for _, through := range []bool{false, true} {
		for _, m := range s.RouteMessages {
			if hasGateway(m) == through {
				errs = append(errs, k.create(unix.RTM_NEWROUTE, routeOn(m, on), routes))
			}
		}
	}
	return errors.Join(errs...)
}

func (k *kernel) create(kind int, message []byte, flags int) error {
	req := nl.NewNetlinkRequest(kind, unix.NLM_F_CREATE|unix.NLM_F_ACK|flags)
	req.Sockets = k.raw
	req.AddRawData(message)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", described(kind, message), err)
	}
	return nil
}

// remove what a saved link has had, from another.
func (k *kernel) remove(s *saved, from netlink.Link) error {
	var errs []error
	for _, m := range s.AddressMessages {
		req := nl.NewNetlinkRequest(unix.RTM_DELADDR, unix.NLM_F_ACK)
		req.Sockets = k.raw
		req.AddRawData(addressOn(m, s.Name, from))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("remove %s: %w", described(unix.RTM_NEWADDR, m), err))
		}
	}
	return errors.Join(errs...)
}

func hasGateway(route []byte) bool {
	attrs, _ := nl.ParseRouteAttr(route[unix.SizeofRtMsg:])
	return slices.ContainsFunc(attrs, func(a syscall.NetlinkRouteAttr) bool {
		return a.Attr.Type == unix.RTA_GATEWAY || a.Attr.Type == unix.RTA_VIA
	})
}

// addressOn is the message for another link. The address is known to be the node's own, so nobody is asked for duplicates: until they had
// answered it could not be used.
func addressOn(message []byte, was string, on netlink.Link) []byte {
	out := slices.Clone(message[:unix.SizeofIfAddrmsg])
	binary.NativeEndian.PutUint32(out[4:], uint32(on.Attrs().Index))
	six := message[0] == unix.AF_INET6
	return rewrite(out, message[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) []byte {
		switch kind {
		case unix.IFA_LABEL: // begins with the link's name
			rest, ok := strings.CutPrefix(strings.TrimRight(string(value), "\x00"), was)
			if label := on.Attrs().Name + rest; ok && len(label) < unix.IFNAMSIZ {
				return []byte(label + "\x00")
			}
			return []byte(on.Attrs().Name + "\x00")
		case unix.IFA_FLAGS:
			flags := binary.NativeEndian.Uint32(value)
			if six {
				flags |= unix.IFA_F_NODAD
			}
			return binary.NativeEndian.AppendUint32(nil, flags&^(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_OPTIMISTIC))
		}
		return value
	})
}

// routeOn is the message for another link. The state of its next hop is the kernel's to say, and what it counts down to it says
// otherwise than it wants to hear it.
func routeOn(message []byte, on netlink.Link) []byte {
	out := slices.Clone(message[:unix.SizeofRtMsg])
	flags := binary.NativeEndian.Uint32(out[8:])
	binary.NativeEndian.PutUint32(out[8:], flags&unix.RTNH_F_ONLINK)
	var expires uint32
	out = rewrite(out, message[unix.SizeofRtMsg:], func(kind uint16, value []byte) []byte {
		switch kind {
		case unix.RTA_OIF:
			return binary.NativeEndian.AppendUint32(nil, uint32(on.Attrs().Index))
		case unix.RTA_CACHEINFO: // struct rta_cacheinfo: rta_expires is the third, in 1/100 s
			if len(value) >= 12 {
				expires = binary.NativeEndian.Uint32(value[8:]) / 100
			}
			return nil
		}
		return value
	})
	if expires > 0 && message[0] == unix.AF_INET6 {
		out = append(out, nl.NewRtAttr(unix.RTA_EXPIRES, nl.Uint32Attr(expires)).Serialize()...)
	}
	return out
}

// rewrite attributes behind a header. Those that become nil are left out.
func rewrite(header, attrs []byte, f func(kind uint16, value []byte) []byte) []byte {
	parsed, err := nl.ParseRouteAttr(attrs)
	if err != nil {
		return append(header, attrs...)
	}
	for _, a := range parsed {
		if value := f(a.Attr.Type, a.Value); value != nil {
			header = append(header, nl.NewRtAttr(int(a.Attr.Type), value).Serialize()...)
		}
	}
	return header
}

// described address or route, for messages.
func described(kind int, message []byte) string {
	size, attr, what, bits := unix.SizeofIfAddrmsg, uint16(unix.IFA_ADDRESS), "address", message[1]
	if kind == unix.RTM_NEWROUTE {
		size, attr, what = unix.SizeofRtMsg, unix.RTA_DST, "route"
	}
	attrs, _ := nl.ParseRouteAttr(message[size:])
	for _, a := range attrs {
		if ip, ok := netip.AddrFromSlice(a.Value); a.Attr.Type == attr && ok {
			return fmt.Sprintf("%s %s/%d", what, ip, bits)
		}
	}
	return "default " + what
}
