//go:build linux

package path

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// askAfter is when the wire is asked for the addresses that were attached first. By then the program knows that it is to listen, even if
// the pod is the parent's first. Pods that come meanwhile are asked for with it.
const askAfter = time.Second

// askLater asks whether another host uses an IPv6 address that is new, as the pod's kernel would by duplicate address detection (RFC 4862,
// 5.4). That keeps a pod from its address meanwhile, and so the plugin turns it off. Whoever uses the address answers to all nodes, which
// is a Sighting. p.mu is held.
func (p *Path) askLater(parent string, a netip.Addr, m mac) {
	if p.see == nil || !a.Is6() {
		return
	}
	if p.asks[parent] == nil {
		p.asks[parent] = map[netip.Addr]mac{}
		time.AfterFunc(askAfter, func() { p.ask(parent) })
	}
	p.asks[parent][a] = m
}

// ask for what is attached still.
func (p *Path) ask(parent string) {
	p.mu.Lock()
	addrs, index := p.asks[parent], 0
	delete(p.asks, parent)
	maps.DeleteFunc(addrs, func(a netip.Addr, m mac) bool { return p.desired[parent][a] != m })
	if v := p.vmacs[parent]; v != nil {
		index = v.parentIndex
	}
	p.mu.Unlock()
	if index == 0 || len(addrs) == 0 {
		return
	}
	if err := solicit(index, addrs); err != nil { // p.mu is free: to close a packet socket takes an RCU grace period
		p.log.Warn("it is not asked whether another host uses the addresses of pods", "parent", parent, "addresses", slices.Collect(maps.Keys(addrs)), "err", err)
	}
}

// solicit sends questions out by the parent only, under the pods' own MACs: switches see no other, and pods of this node need not be asked.
func solicit(parent int, addrs map[netip.Addr]mac) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	defer unix.Close(fd)
	ipv6 := binary.NativeEndian.Uint16([]byte{unix.ETH_P_IPV6 >> 8, unix.ETH_P_IPV6 & 0xff})
	for a, m := range addrs {
		if err := unix.Sendto(fd, solicitation(a, m), 0, &unix.SockaddrLinklayer{Ifindex: parent, Protocol: ipv6}); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// solicitation is the frame of duplicate address detection (RFC 4861, 4.3).
func solicitation(target netip.Addr, from mac) []byte {
	const icmpv6, neighbourSolicitation, length = 58, 135, 24
	to := netip.MustParseAddr("ff02::1:ff00:0").As16()
	t := target.As16()
	copy(to[13:], t[13:])
	icmp := slices.Concat([]byte{neighbourSolicitation, 0, 0, 0, 0, 0, 0, 0}, t[:])

	// The source of the pseudo-header (RFC 8200, 8.1), the unspecified address, adds nothing.
	sum := uint32(length + icmpv6)
	for _, b := range [][]byte{to[:], icmp} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(icmp[2:], ^uint16(sum))

	group := solicitedNode(target)
	return slices.Concat(group[:], from[:], []byte{unix.ETH_P_IPV6 >> 8, unix.ETH_P_IPV6 & 0xff},
		[]byte{6 << 4, 0, 0, 0, 0, length, icmpv6, 255}, make([]byte, 16), to[:], icmp)
}
