package subnets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
)

// Reasons of the condition Ready of a Subnet.
const (
	reasonServing   = "Serving"
	reasonMalformed = "Malformed"
	reasonOverlap   = "OverlapsSubnet"
	reasonVLAN      = "VLANTaken"
	reasonOutside   = "CarvedOutside"
	reasonDeleting  = "WaitsForPools"
	reasonDisputed  = "BlocksDisputed"
)

// view of one Subnet, at one moment.
type view struct {
	object  *v1alpha1.Subnet
	subnet  *carve.Subnet // nil: malformed
	book    *carve.Book
	objects map[netip.Addr]*v1alpha1.IPBlock
	avoid   map[ipam.Family]ipam.Ranges
	// reason and message say why nothing is carved from it; "" if it may be.
	reason, message string
	// away says why no further block can be claimed; nil if one can.
	away error
}

// look at a Subnet.
func (c *Carver) look(ctx context.Context, s *v1alpha1.Subnet) (*view, error) {
	network := cmp.Or(s.Spec.Network, "default")
	objects, err := c.ledger.read(ctx, network)
	if err != nil {
		return nil, err
	}
	v := &view{object: s, objects: objects, book: c.ledger.book(objects)}
	var err2 error
	if v.subnet, err2 = carve.Compile(s); err2 != nil {
		v.subnet, v.reason, v.message = nil, reasonMalformed, err2.Error()
		return v, nil
	}
	if s.Spec.Hub {
		v.subnet.Begin(c.cfg.Seed)
	}
	if v.avoid, err = c.avoid(ctx, network); err != nil {
		return nil, err
	}
	elsewhere, err := c.cfg.Blocks.Elsewhere(ctx, s, objects)
	if errors.Is(err, ErrAway) {
		v.away = err
	} else if err != nil {
		return nil, err
	}
	for _, f := range ipam.Families {
		v.avoid[f] = append(v.avoid[f], elsewhere.Overlap(v.subnet.Whole(f))...)
	}
	if lost := carve.Lost(v.subnet, v.book); len(lost) > 0 {
		v.reason, v.message = reasonOutside, fmt.Sprintf("%s, which cidrs, gateway and reserved leave no more; allow it again, or delete these first", some(lost))
		return v, nil
	}
	var others v1alpha1.SubnetList
	if err := c.client.List(ctx, &others, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	for i := range others.Items {
		o := &others.Items[i]
		if o.Name == s.Name || !older(o, s) {
			continue
		}
		if carve.OneVLAN(&o.Spec, &s.Spec) {
			v.reason = reasonVLAN
			v.message = fmt.Sprintf("vlan %d on parent %s is of network %q, by subnet %q, which is older; take another VLAN, or make the subnet anew with network: %s",
				*s.Spec.VLAN, s.Spec.Parent, cmp.Or(o.Spec.Network, "default"), o.Name, cmp.Or(o.Spec.Network, "default"))
			return v, nil
		}
		if cmp.Or(o.Spec.Network, "default") != network {
			continue
		}
		other, err := carve.Compile(o)
		if err != nil {
			continue // it says so itself, and has nothing carved
		}
		if shared := carve.Shared(v.subnet, other, v.book); shared != "" {
			v.reason = reasonOverlap
			v.message = fmt.Sprintf("subnet %q of network %q, which is older, has %s too; take it out of cidrs", o.Name, network, shared)
			return v, nil
		}
	}
	return v, nil
}

func older(a, b *v1alpha1.Subnet) bool {
	if t := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); t != 0 {
		return t < 0
	}
	return a.Name < b.Name
}

// avoid is what pools of a network have that nobody carved.
func (c *Carver) avoid(ctx context.Context, network string) (map[ipam.Family]ipam.Ranges, error) {
	pools, err := PlainPools(ctx, c.client, network)
	if err != nil {
		return nil, err
	}
	all := map[ipam.Family][]ipam.Range{}
	for i := range pools {
		if compiled, err := ipam.Compile(&pools[i]); err == nil {
			for _, f := range ipam.Families {
				all[f] = append(all[f], compiled.Ranges(f)...)
			}
		}
	}
	out := map[ipam.Family]ipam.Ranges{}
	for _, f := range ipam.Families {
		out[f] = ipam.NewRanges(all[f]...)
	}
	return out, nil
}

// some of the words, and how many more there are.
func some(words []string) string {
	const most = 5
	words = slices.Clone(words)
	if n := len(words); n > most {
		words = append(words[:most], fmt.Sprintf("%d more", n-most))
	}
	return strings.Join(words, ", ")
}
