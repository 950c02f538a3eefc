package carve

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

var epoch = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func object(pairing v1alpha1.Pairing, cidrs ...v1alpha1.SubnetCIDR) *v1alpha1.Subnet {
	s := &v1alpha1.Subnet{}
	s.Name, s.Spec.Network, s.Spec.CIDRs, s.Spec.Pairing = "plan", "net", cidrs, pairing
	return s
}

func subnet(t testing.TB, pairing v1alpha1.Pairing, cidrs ...v1alpha1.SubnetCIDR) *Subnet {
	t.Helper()
	s, err := Compile(object(pairing, cidrs...))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func cidr(c string, reserved ...string) v1alpha1.SubnetCIDR {
	return v1alpha1.SubnetCIDR{CIDR: c, Reserved: reserved}
}

func rng(t testing.TB, s string) ipam.Range {
	t.Helper()
	r, err := ipam.ParseRange(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ask decides for a pool and applies the decision.
func ask(t testing.TB, s *Subnet, b *Book, pool string, size uint64, inUse ...netip.Addr) (Decision, error) {
	t.Helper()
	o := Owner{Pool: pool}
	d, err := Decide(s, b, Ask{Owner: o, Size: size, InUse: inUse})
	b.Apply(d, o, s.Name, epoch)
	if wrong := Check(b.all()...); len(wrong) > 0 {
		t.Fatalf("after %q asked for %d: %v", pool, size, wrong)
	}
	return d, err
}

func (b *Book) all() []*Block {
	var out []*Block
	for _, x := range b.blocks {
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b *Block) int { return a.First.Compare(b.First) })
	return out
}

// forget all that was given up.
func (b *Book) forget() {
	for _, x := range b.all() {
		for _, p := range x.Parts {
			if !p.Had() {
				b.Remove(p)
			}
		}
	}
	for first, x := range b.blocks {
		if len(x.Parts) == 0 {
			delete(b.blocks, first)
		}
	}
	b.changed = nil
}

func has(s *Subnet, b *Book, pool string) (out []string) {
	for _, ps := range Derive(s, b, Owner{Pool: pool}) {
		out = append(out, ps.IPs...)
	}
	return out
}
