package carve

import (
	"net/netip"
	"slices"
	"time"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Book is the blocks of one network, and what is changed in them. Nothing of it is written yet: who writes a changed block must win its
// update, or its creation, against the block as it was read.
type Book struct {
	blocks map[netip.Addr]*Block
	// changed blocks in the order of their first change: that of an IPv4 address is changed before that of its partner.
	changed []netip.Addr
}

// NewBook of the blocks of a network.
func NewBook(blocks ...*Block) *Book {
	b := &Book{blocks: make(map[netip.Addr]*Block, len(blocks))}
	for _, x := range blocks {
		b.blocks[x.First] = x
	}
	return b
}

// Changed blocks, in the order in which to write them. One without parts is to be deleted.
func (b *Book) Changed() []*Block {
	out := make([]*Block, len(b.changed))
	for i, first := range b.changed {
		out[i] = b.blocks[first]
	}
	return out
}

// TakenOnly says that several owners took from the book, and none gave up anything: then all IPv4 blocks are written before the others.
func (b *Book) TakenOnly() {
	slices.SortStableFunc(b.changed, func(x, y netip.Addr) int { return x.BitLen() - y.BitLen() })
}

// Block that begins at first; nil if there is none.
func (b *Book) Block(first netip.Addr) *Block { return b.blocks[first] }

// Put part p, which may span blocks, in place of what its owner has there.
func (b *Book) Put(p Part) { b.each(p, true) }

// Remove what p's owner has of p's subnet in p's range.
func (b *Book) Remove(p Part) { b.each(p, false) }

func (b *Book) each(p Part, put bool) {
	for from := p.From; ; {
		first := FirstOf(from)
		end := Range(first).To
		piece := p
		piece.From, piece.To = from, end
		if !end.Less(p.To) {
			piece.To = p.To
		}
		old := b.blocks[first]
		if old == nil {
			old = &Block{First: first}
		}
		b.blocks[first] = old.with(piece, put)
		b.Touch(first)
		if piece.To == p.To {
			return
		}
		from = end.Next()
	}
}

// Of gives the ranges of one family that an owner has of a subnet, and those that it gave up and may have back.
func (b *Book) Of(o Owner, subnet string, f ipam.Family) (had, returning ipam.Ranges) {
	var h, r []ipam.Range
	for _, x := range b.blocks {
		if ipam.FamilyOf(x.First) != f {
			continue
		}
		for _, p := range x.Parts {
			switch {
			case p.Owner != o || p.Subnet != subnet:
			case p.Had():
				h = append(h, p.Range)
			default:
				r = append(r, p.Range)
			}
		}
	}
	return ipam.NewRanges(h...), ipam.NewRanges(r...)
}

// Idle says whether an owner has more addresses of a family of a subnet than size, or gave some up that are not forgotten yet: whoever
// decides for it must know then which are in use.
func (b *Book) Idle(o Owner, subnet string, size uint64) bool {
	for _, f := range ipam.Families {
		if had, old := b.Of(o, subnet, f); len(old) > 0 || total(had) > size {
			return true
		}
	}
	return false
}

// Touch has a block written, though it has not changed.
func (b *Book) Touch(first netip.Addr) {
	if !slices.Contains(b.changed, first) {
		b.changed = append(b.changed, first)
	}
}

// strays are parts that an owner has, and has not given up, of other subnets than the one: it was made anew, of another.
func (b *Book) strays(o Owner, subnet string) (out []Part) {
	for _, x := range b.blocks {
		for _, p := range x.Parts {
			if p.Owner == o && p.Subnet != subnet && p.Had() {
				out = append(out, p)
			}
		}
	}
	return out
}

// Free of one family: what the subnet has and no part holds. Blocks of other clusters, disputed ones, and the ranges to avoid, are not
// free. Parts by which the subnet itself was cut out of another are no hindrance.
func (b *Book) Free(s *Subnet, f ipam.Family, avoid ipam.Ranges) ipam.Ranges {
	var taken []ipam.Range
	for _, x := range b.blocks {
		if ipam.FamilyOf(x.First) != f {
			continue
		}
		if x.Cluster != "" || x.Disputed != "" {
			taken = append(taken, Range(x.First))
			continue
		}
		for _, p := range x.Parts {
			if p.Owner.To != s.Name {
				taken = append(taken, p.Range)
			}
		}
	}
	return s.usable[f].Subtract(ipam.NewRanges(append(taken, avoid...)...))
}

// disputed is the addresses of one family of all blocks that somebody else holds, too.
func (b *Book) disputed(f ipam.Family) ipam.Ranges {
	var out []ipam.Range
	for first, x := range b.blocks {
		if ipam.FamilyOf(first) == f && x.Disputed != "" {
			out = append(out, Range(first))
		}
	}
	return ipam.NewRanges(out...)
}

// opened is the addresses of one family of all blocks that exist.
func (b *Book) opened(f ipam.Family) ipam.Ranges {
	var out []ipam.Range
	for first := range b.blocks {
		if ipam.FamilyOf(first) == f {
			out = append(out, Range(first))
		}
	}
	return ipam.NewRanges(out...)
}

// Apply a decision, made now, for an owner.
func (b *Book) Apply(d Decision, o Owner, subnet string, now time.Time) {
	for _, r := range d.Take {
		b.Put(Part{Range: r, Subnet: subnet, Owner: o})
	}
	for _, r := range d.Return {
		b.Put(Part{Range: r, Subnet: subnet, Owner: o, Returned: now})
	}
	for _, p := range d.Strays {
		p.Returned = now
		b.Put(p)
	}
}

// compile-time proof that FirstOf may clear one byte.
var _ = [1]struct{}{}[v1alpha1.BlockSize-256]
