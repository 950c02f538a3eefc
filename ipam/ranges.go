package ipam

import (
	"cmp"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
)

// Range is the addresses from From to To, both included, of one family.
type Range struct{ From, To netip.Addr }

func (r Range) String() string {
	if r.From == r.To {
		return r.From.String()
	}
	return r.From.String() + "-" + r.To.String()
}

// Ranges are sorted, disjoint ranges of one family that do not touch.
type Ranges []Range

// NewRanges of one family, in any order; they may overlap.
func NewRanges(in ...Range) Ranges { return normalize(in) }

// RangeOf all addresses of a prefix without host bits.
func RangeOf(p netip.Prefix) Range { return Range{p.Addr(), last(p)} }

// Usable is the prefix but the addresses that no host may have.
func Usable(p netip.Prefix) Ranges { return usable(p) }

// ParseRange reads "ADDRESS", "FIRST-LAST" or a CIDR without host bits.
func ParseRange(s string) (Range, error) {
	if strings.Contains(s, "/") {
		p, err := ParseCIDR(s)
		if err != nil {
			return Range{}, err
		}
		return Range{p.Addr(), last(p)}, nil
	}
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	f, err := parseAddr(strings.TrimSpace(from))
	if err != nil {
		return Range{}, err
	}
	t, err := parseAddr(strings.TrimSpace(to))
	if err != nil {
		return Range{}, err
	}
	switch {
	case f.Is4() != t.Is4():
		return Range{}, fmt.Errorf("range %q mixes IPv4 and IPv6", s)
	case t.Less(f):
		return Range{}, fmt.Errorf("range %q ends before it begins; write %q", s, t.String()+"-"+f.String())
	}
	return Range{f, t}, nil
}

// ParseCIDR reads a CIDR and refuses host bits.
func ParseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q is not a CIDR such as 10.6.0.0/16", s)
	}
	if p.Addr().Is4In6() {
		return p, fmt.Errorf("%q is an IPv4-mapped IPv6 CIDR; write it as IPv4", s)
	}
	if m := p.Masked(); m != p {
		return p, fmt.Errorf("CIDR %q has host bits; write %q", s, m)
	}
	return p, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Errorf("%q is not an IP address", s)
	case a.Zone() != "" || a.Is4In6():
		return a, fmt.Errorf("%q: zones and IPv4-mapped addresses are not allowed", s)
	}
	return a, nil
}

// last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// normalize sorts and merges ranges that overlap or touch.
func normalize(in []Range) Ranges {
	in = slices.Clone(in)
	slices.SortFunc(in, func(a, b Range) int {
		return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To))
	})
	var out Ranges
	for _, r := range in {
		if n := len(out); n > 0 {
			if end := &out[n-1].To; !end.Less(r.From) || end.Next() == r.From {
				if end.Less(r.To) {
					*end = r.To
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

// Subtract returns the addresses of rs that are not in cut.
func (rs Ranges) Subtract(cut Ranges) Ranges {
	var out Ranges
	for _, r := range rs {
		from, done := r.From, false
		for _, c := range cut {
			if c.To.Less(from) {
				continue
			}
			if r.To.Less(c.From) {
				break
			}
			if from.Less(c.From) {
				out = append(out, Range{from, c.From.Prev()})
			}
			if !c.To.Less(r.To) {
				done = true
				break
			}
			from = c.To.Next()
		}
		if !done {
			out = append(out, Range{from, r.To})
		}
	}
	return out
}

// Overlap returns the addresses that are in both.
func (rs Ranges) Overlap(other Ranges) Ranges {
	var out []Range
	for i, j := 0, 0; i < len(rs) && j < len(other); {
		a, b := rs[i], other[j]
		from, to := a.From, a.To
		if from.Less(b.From) {
			from = b.From
		}
		if b.To.Less(to) {
			to = b.To
		}
		if !to.Less(from) {
			out = append(out, Range{from, to})
		}
		if a.To.Less(b.To) {
			i++
		} else {
			j++
		}
	}
	return normalize(out)
}

// Contains says whether a is in one of the ranges.
func (rs Ranges) Contains(a netip.Addr) bool {
	_, found := rs.Find(a)
	return found
}

// Find returns the index of the range that holds a.
func (rs Ranges) Find(a netip.Addr) (int, bool) {
	return slices.BinarySearchFunc(rs, a, func(r Range, a netip.Addr) int {
		switch {
		case r.To.Less(a):
			return -1
		case a.Less(r.From):
			return 1
		}
		return 0
	})
}

// Count of addresses.
func (rs Ranges) Count() *big.Int {
	n, one := new(big.Int), big.NewInt(1)
	for _, r := range rs {
		n.Add(n, distance(r.From, r.To))
		n.Add(n, one)
	}
	return n
}

func (rs Ranges) String() string {
	s := make([]string, len(rs))
	for i, r := range rs {
		s[i] = r.String()
	}
	return strings.Join(s, ",")
}

func distance(from, to netip.Addr) *big.Int {
	a, b := from.As16(), to.As16()
	return new(big.Int).Sub(new(big.Int).SetBytes(b[:]), new(big.Int).SetBytes(a[:]))
}

// parseRanges reads entries that must lie inside subnet.
func parseRanges(field string, entries []string, subnet netip.Prefix) (Ranges, error) {
	var out []Range
	for _, e := range entries {
		r, err := ParseRange(strings.TrimSpace(e))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		if !subnet.Contains(r.From) || !subnet.Contains(r.To) {
			return nil, fmt.Errorf("%s: %q is not inside the subnet %s", field, e, subnet)
		}
		out = append(out, r)
	}
	return normalize(out), nil
}
