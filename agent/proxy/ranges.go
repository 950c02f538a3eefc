//go:build linux

package proxy

import (
	"net/netip"
	"slices"
)

// addrRange is from first to last, both included.
type addrRange struct{ first, last netip.Addr }

func (r addrRange) String() string { return r.first.String() + "-" + r.last.String() }

// ranges are the prefixes of one family as the kernel wants an interval set: sorted, and apart from each other. The result is
// never nil, since no range of this family means that no client of it may come.
func ranges(prefixes []netip.Prefix, is4 bool) []addrRange {
	all := []addrRange{}
	for _, p := range prefixes {
		if p.Addr().Is4() == is4 {
			all = append(all, addrRange{p.Masked().Addr(), last(p)})
		}
	}
	slices.SortFunc(all, func(a, b addrRange) int { return a.first.Compare(b.first) })
	apart := all[:0]
	for _, r := range all {
		if n := len(apart); n > 0 {
			before := &apart[n-1]
			if next := before.last.Next(); !next.IsValid() || r.first.Compare(next) <= 0 {
				if r.last.Compare(before.last) > 0 {
					before.last = r.last
				}
				continue
			}
		}
		apart = append(apart, r)
	}
	return apart
}

func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func everybody(all []addrRange) bool {
	return len(all) == 1 && all[0].first.IsUnspecified() && !all[0].last.Next().IsValid()
}
