package bpf

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"slices"
)

// row of prefixes in front of the trie, as in prefixes.h. It has one key, and as a seat its flag.
type row struct {
	Flags uint64
	IPv4  [rowIPv4]struct{ Address, Mask [4]byte }
	IPv6  [rowIPv6]struct{ Address, Mask [16]byte }
}

const (
	rowKey  = uint64(0)
	rowIPv4 = 16
	rowIPv6 = 8
)

func (r row) seated() row {
	r.Flags |= flagSeated
	return r
}

func firstRow(uint64) uint32 { return 0 }

// newRow has the widest prefixes of each family, as many as there is room for. Where there are fewer, the rest is an address that no packet
// is steered to: all ones is the broadcast address, or that of a group.
func newRow(prefixes map[prefixKey]prefix) (r row) {
	var in4, in6 []netip.Prefix // no longer than there is room: there may be thousands of prefixes
	for _, k := range slices.SortedFunc(maps.Keys(prefixes), func(a, b prefixKey) int {
		return cmp.Or(cmp.Compare(a.Len, b.Len), slices.Compare(a.Address[:], b.Address[:]))
	}) {
		p := k.prefix()
		in, room := &in6, rowIPv6
		if p.Addr().Is4() {
			in, room = &in4, rowIPv4
		}
		if len(*in) < room && !slices.ContainsFunc(*in, func(wider netip.Prefix) bool { return wider.Contains(p.Addr()) }) {
			*in = append(*in, p)
		}
	}
	in4 = append(in4, netip.MustParsePrefix("255.255.255.255/32"))
	in6 = append(in6, netip.MustParsePrefix("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"))
	for i := range r.IPv4 {
		p := in4[min(i, len(in4)-1)]
		r.IPv4[i].Address, r.IPv4[i].Mask = p.Addr().As4(), [4]byte(mask(p))
	}
	for i := range r.IPv6 {
		p := in6[min(i, len(in6)-1)]
		r.IPv6[i].Address, r.IPv6[i].Mask = p.Addr().As16(), [16]byte(mask(p))
	}
	return r
}

func mask(p netip.Prefix) net.IPMask { return net.CIDRMask(p.Bits(), p.Addr().BitLen()) }
