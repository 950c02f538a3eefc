package carve

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Block is an IPBlock made ready. It is not changed once it is made.
type Block struct {
	// First of its 256 addresses.
	First netip.Addr
	// Cluster that has it; "": this one.
	Cluster string
	// Disputed names who holds it besides: nobody takes an address of it then, and pools give up what they have; "": nobody.
	Disputed string
	Parts    []Part
}

// Part is a range of a block that somebody has.
type Part struct {
	ipam.Range
	// Subnet that it was carved from.
	Subnet string
	// Owner that has it, or had it.
	Owner Owner
	// Returned is when it was given up; zero: its owner has it.
	Returned time.Time
}

// Owner of a part: a pool, or a subnet made from the one it was carved from.
type Owner struct{ Pool, To string }

func (o Owner) String() string {
	if o.To != "" {
		return fmt.Sprintf("subnet %q", o.To)
	}
	return fmt.Sprintf("pool %q", o.Pool)
}

// Had says whether the owner has the part, and has not given it up.
func (p Part) Had() bool { return p.Returned.IsZero() }

// FirstOf the block that has address a.
func FirstOf(a netip.Addr) netip.Addr {
	b := a.AsSlice()
	b[len(b)-1] = 0 // v1alpha1.BlockSize is 256
	first, _ := netip.AddrFromSlice(b)
	return first
}

// Range of all addresses of the block that begins at first.
func Range(first netip.Addr) ipam.Range {
	return ipam.Range{From: first, To: after(first, v1alpha1.BlockSize-1)}
}

// Name of the block of a network that begins at first.
func Name(network string, first netip.Addr) string { return ipam.LeaseName(network, first) }

// Read an IPBlock. One that does not say what it has is an error, and must be taken as full: nobody may carve from what is not understood.
func Read(b *v1alpha1.IPBlock) (*Block, error) {
	first, err := netip.ParseAddr(b.Spec.First)
	if err != nil || FirstOf(first) != first || Name(b.Spec.Network, first) != b.Name {
		return nil, fmt.Errorf("block %q: first: %q of network %q is not what its name says", b.Name, b.Spec.First, b.Spec.Network)
	}
	out := &Block{First: first, Cluster: b.Spec.Cluster, Disputed: b.Annotations[v1alpha1.AnnotationDisputed]}
	for i, p := range b.Spec.Parts {
		r, err := ipam.ParseRange(p.IPs)
		switch {
		case err != nil:
			return nil, fmt.Errorf("block %q: parts[%d].ips: %w", b.Name, i, err)
		case FirstOf(r.From) != first || FirstOf(r.To) != first:
			return nil, fmt.Errorf("block %q: parts[%d].ips: %s is outside of the block", b.Name, i, r)
		case (p.Pool == "") == (p.To == ""):
			return nil, fmt.Errorf("block %q: parts[%d]: either a pool or a subnet (to) has %s", b.Name, i, r)
		}
		part := Part{Range: r, Subnet: p.Subnet, Owner: Owner{p.Pool, p.To}}
		if p.ReturnedAt != nil {
			part.Returned = p.ReturnedAt.Time
		}
		out.Parts = append(out.Parts, part)
	}
	return out, nil
}

// Write the parts into an IPBlock's spec.
func (b *Block) Write(spec *v1alpha1.IPBlockSpec) {
	spec.Parts = nil
	for _, p := range b.Parts {
		out := v1alpha1.IPBlockPart{IPs: p.Range.String(), Subnet: p.Subnet, Pool: p.Owner.Pool, To: p.Owner.To}
		if !p.Had() {
			out.ReturnedAt = &metav1.Time{Time: p.Returned}
		}
		spec.Parts = append(spec.Parts, out)
	}
}

// Full is a block of which nothing may be carved, since what it has is not understood.
func Full(first netip.Addr) *Block { return &Block{First: first, Cluster: "?"} }

// with is the block where part p stands for whatever its owner had in its range of the same subnet; without, where nothing stands there.
func (b *Block) with(p Part, put bool) *Block {
	var parts []Part
	for _, o := range b.Parts {
		if o.Subnet != p.Subnet || o.Owner != p.Owner {
			parts = append(parts, o)
			continue
		}
		for _, left := range (ipam.Ranges{o.Range}).Subtract(ipam.Ranges{p.Range}) {
			o.Range = left
			parts = append(parts, o)
		}
	}
	if put {
		parts = append(parts, p)
	}
	slices.SortFunc(parts, func(a, b Part) int {
		return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.Subnet, b.Subnet), cmp.Compare(a.Owner.Pool, b.Owner.Pool), cmp.Compare(a.Owner.To, b.Owner.To))
	})
	return &Block{First: b.First, Cluster: b.Cluster, Disputed: b.Disputed, Parts: merge(parts)}
}

// merge parts that touch and differ in nothing else.
func merge(parts []Part) []Part {
	var out []Part
	for _, p := range parts {
		i := slices.IndexFunc(out, func(o Part) bool {
			return o.To.Next() == p.From && o.Subnet == p.Subnet && o.Owner == p.Owner && o.Returned.Equal(p.Returned)
		})
		if i >= 0 {
			out[i].To = p.To
			continue
		}
		out = append(out, p)
	}
	return out
}
