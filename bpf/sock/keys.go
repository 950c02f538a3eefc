package sock

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/berthdev/berth/service"
)

// Keys and values of the maps, as in maps.h and sticky.h. IPv4 is held v4-mapped.
type (
	endpoint struct {
		Address  [16]byte
		Port     [2]byte // big-endian
		Protocol uint16
	}
	way struct {
		Network       uint64
		Address, Mask [16]byte
	}
	podValue struct {
		Count uint64
		Ways  [maxWays]way
	}
	serviceValue struct{ Generation, Count, Affinity, Flags uint32 }
	slotKey      struct{ Service, Generation, Index uint32 }
	memberKey    struct {
		Service uint32
		Backend endpoint
	}
	clientKey struct {
		Pod     uint64
		Service uint32
		_       uint32
	}
	choice struct {
		Used    uint64
		Backend endpoint
		_       uint32
	}
	useKey struct {
		Socket  uint64
		Address endpoint
		_       uint32
	}
	origin struct {
		Frontend endpoint
		_        uint32
	}
)

// Flags of a service.
const (
	flagSteered = 1 << iota
	flagEmpty
)

const maxWays = 8

// stays is set in the protocol of a member that gets nothing new.
const stays = 0x100

// networkNone is that of a backend that nobody reaches directly.
const networkNone = 0

// networkOf is the number of a network's addresses of one family; "" is the underlay. A hash, so that it means the same to the next
// agent. Families have different ones, as ::/0 would have all v4-mapped addresses in it.
func networkOf(name string, v4 bool) uint64 {
	n := uint64(1) << 1
	if name != "" {
		sum := sha256.Sum256([]byte(name))
		n = binary.BigEndian.Uint64(sum[:]) | 1<<63
	}
	if v4 {
		return n | 1
	}
	return n &^ 1
}

func endpointOf(a netip.Addr, port uint16, protocol service.Protocol) endpoint {
	e := endpoint{Address: a.As16(), Protocol: uint16(protocol)}
	binary.BigEndian.PutUint16(e.Port[:], port)
	return e
}

func (e endpoint) addrPort() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(e.Address).Unmap(), binary.BigEndian.Uint16(e.Port[:]))
}

func (e endpoint) String() string {
	return fmt.Sprintf("%s/%s", e.addrPort(), service.Protocol(e.Protocol))
}

func (e endpoint) compare(other endpoint) int {
	return cmp.Or(bytes.Compare(e.Address[:], other.Address[:]), bytes.Compare(e.Port[:], other.Port[:]), cmp.Compare(e.Protocol, other.Protocol))
}

// plain is the endpoint of a member's key.
func (e endpoint) plain() endpoint {
	e.Protocol &^= stays
	return e
}

// nodePort is the frontend that stands for this one on all nodes.
func (e endpoint) nodePort() endpoint {
	a := netip.AddrFrom16(e.Address)
	if a.Is4In6() {
		e.Address = netip.IPv4Unspecified().As16()
	} else {
		e.Address = netip.IPv6Unspecified().As16()
	}
	return e
}

func (w way) contains(a [16]byte) bool {
	for i := range a {
		if a[i]&w.Mask[i] != w.Address[i] {
			return false
		}
	}
	return true
}

// native is what native in maps.h is.
func (p podValue) native(a [16]byte, network uint64) bool {
	for _, w := range p.Ways[:min(p.Count, maxWays)] {
		if w.Network == network && w.contains(a) {
			return true
		}
	}
	return false
}
