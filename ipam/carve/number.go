package carve

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"

	"github.com/berthdev/berth/ipam"
)

// number of an address, as an unsigned integer of 128 bits.
type number struct{ hi, lo uint64 }

func numberOf(a netip.Addr) number {
	b := a.As16()
	return number{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (n number) plus(d uint64) number {
	lo, carry := bits.Add64(n.lo, d, 0)
	return number{n.hi + carry, lo}
}

// minus m, at most the largest uint64. The caller sees to it that m is not above n.
func (n number) minus(m number) uint64 {
	lo, borrow := bits.Sub64(n.lo, m.lo, 0)
	if n.hi-m.hi-borrow != 0 {
		return math.MaxUint64
	}
	return lo
}

func (n number) addr(is4 bool) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.hi)
	binary.BigEndian.PutUint64(b[8:], n.lo)
	if is4 {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}

// after is the address d after a.
func after(a netip.Addr, d uint64) netip.Addr { return numberOf(a).plus(d).addr(a.Is4()) }

// Size of a range, at most the largest uint64.
func Size(r ipam.Range) uint64 {
	d := numberOf(r.To).minus(numberOf(r.From))
	if d == math.MaxUint64 {
		return d
	}
	return d + 1
}

// total of ranges, at most the largest uint64.
func total(rs ipam.Ranges) uint64 {
	var n uint64
	for _, r := range rs {
		d := Size(r)
		if n+d < n {
			return math.MaxUint64
		}
		n += d
	}
	return n
}

// head is the first n addresses of a range that has as many.
func head(r ipam.Range, n uint64) ipam.Range { return ipam.Range{From: r.From, To: after(r.From, n-1)} }

// tail is the last n addresses of a range that has as many.
func tail(r ipam.Range, n uint64) ipam.Range {
	return ipam.Range{From: after(r.From, Size(r)-n), To: r.To}
}

// join the ranges of both.
func join(a, b ipam.Ranges) ipam.Ranges {
	if len(b) == 0 {
		return a
	}
	return ipam.NewRanges(append(append([]ipam.Range(nil), a...), b...)...)
}
