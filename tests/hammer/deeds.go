package main

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
)

// deeds say at each revision of etcd, which orders the writes of all objects, who owns the addresses that are carved, and find what must
// never be:
//
//	block  parts of it that overlap
//	pool   an address in the lists of two pools
//	pool   an address in its list that no block says it has, or gave up and nobody else may have yet
//	lease  in use, of a carved pool, of an address that no block says is that pool's: given away, it is two pools'
//
// The last two are looked for at each write of either side.
type deeds struct {
	parts  map[netip.Addr]deed            // by blocks
	listed map[string]map[netip.Addr]bool // by carved pools
	lists  map[netip.Addr]string          // the same, by address
	given  map[netip.Addr]string          // the pool of a lease in use
}

// deed of an address.
type deed struct {
	pool      string
	returning bool
}

func (d deed) String() string {
	switch {
	case d.pool == "":
		return "nobody's"
	case d.returning:
		return d.pool + "'s, which gave it up"
	}
	return d.pool + "'s"
}

func newDeeds() *deeds {
	return &deeds{parts: map[netip.Addr]deed{}, listed: map[string]map[netip.Addr]bool{}, lists: map[netip.Addr]string{}, given: map[netip.Addr]string{}}
}

// block as it is written; one that is deleted has no parts. The answer is whose deeds changed, and what is wrong.
func (d *deeds) block(b *v1alpha1.IPBlock) (changed map[netip.Addr]deed, wrong []string) {
	block, err := carve.Read(b)
	if err != nil {
		return nil, []string{err.Error()}
	}
	wrong = carve.Check(block)
	now := map[netip.Addr]deed{}
	for _, p := range block.Parts {
		for a := range each(p.Range) {
			now[a] = deed{p.Owner.Pool, !p.Had()}
		}
	}
	changed = map[netip.Addr]deed{}
	for a := range each(carve.Range(block.First)) {
		if d.parts[a] != now[a] {
			changed[a] = now[a]
			if d.parts[a] = now[a]; now[a].pool == "" {
				delete(d.parts, a)
			}
		}
	}
	for a := range changed {
		wrong = append(wrong, d.about(a)...)
	}
	return changed, wrong
}

// pool as it is written; one that is deleted lists nothing.
func (d *deeds) pool(p *v1alpha1.IPPool) (changed []netip.Addr, wrong []string) {
	now := map[netip.Addr]bool{}
	if len(p.Spec.Subnets) > 0 {
		compiled, err := ipam.Compile(p)
		if err != nil {
			return nil, []string{err.Error()}
		}
		for _, f := range ipam.Families {
			for _, r := range compiled.Ranges(f) {
				for a := range each(r) {
					now[a] = true
				}
			}
		}
	}
	for a := range d.listed[p.Name] {
		if !now[a] {
			changed = append(changed, a)
			delete(d.lists, a)
		}
	}
	for a := range now {
		if other := d.lists[a]; other != "" && other != p.Name {
			wrong = append(wrong, fmt.Sprintf("two pools: %s lists %s, and so does %s", p.Name, lease4(a), other))
		}
		if !d.listed[p.Name][a] {
			changed = append(changed, a)
		}
		d.lists[a] = p.Name
		wrong = append(wrong, d.about(a)...)
	}
	d.listed[p.Name] = now
	return changed, wrong
}

// lease as it is written; one that is deleted is not in use.
func (d *deeds) lease(l *v1alpha1.IPLease) (wrong []string) {
	a, err := netip.ParseAddr(l.Spec.Address)
	if err != nil {
		return []string{err.Error()}
	}
	delete(d.given, a)
	if l.Spec.Phase != v1alpha1.LeaseReleased && l.Spec.Pool != "" {
		d.given[a] = l.Spec.Pool
	}
	return d.about(a)
}

// about an address that is carved: what its lease and the lists say of it must be what its block says.
func (d *deeds) about(a netip.Addr) (wrong []string) {
	if !slices.ContainsFunc(estates, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return nil
	}
	owner := d.parts[a]
	if p := d.lists[a]; p != "" && p != owner.pool {
		wrong = append(wrong, fmt.Sprintf("not its own: pool %s lists %s, which is %s", p, lease4(a), owner))
	}
	if p := d.given[a]; p != "" && p != owner.pool {
		wrong = append(wrong, fmt.Sprintf("given away: lease %s of pool %s is in use, and the address is %s", lease4(a), p, owner))
	}
	return wrong
}

// lease4 is the name of an address' lease, by which the report finds what else is known of it.
func lease4(a netip.Addr) string { return ipam.LeaseName(network, a) }

// estates are the CIDRs of the Subnets.
var estates = func() (out []netip.Prefix) {
	for _, s := range subnetSpecs() {
		for _, c := range s.Spec.CIDRs {
			out = append(out, netip.MustParsePrefix(c.CIDR))
		}
	}
	return out
}()

// each address of a range, which must be small.
func each(r ipam.Range) func(func(netip.Addr) bool) {
	return func(yield func(netip.Addr) bool) {
		for a := r.From; a.IsValid() && !r.To.Less(a); a = a.Next() {
			if !yield(a) {
				return
			}
		}
	}
}
