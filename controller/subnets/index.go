package subnets

import (
	"cmp"
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/carve"
)

// Indexes of the cache, so that no event costs a look at all pools or blocks.
const (
	networkIndex = "spec.network"
	// ownerIndex of blocks, by those who have parts of them.
	ownerIndex = "spec.parts.owner"
	// PlainIndex of pools that are not carved, by network.
	PlainIndex = "plain"
)

// IndexPlain is the function of PlainIndex.
func IndexPlain(o client.Object) []string {
	if s := &o.(*v1alpha1.IPPool).Spec; s.Subnet == "" {
		return []string{cmp.Or(s.Network, "default")}
	}
	return nil
}

func indexOwners(o client.Object) []string {
	seen := map[string]bool{}
	var out []string
	for _, p := range o.(*v1alpha1.IPBlock).Spec.Parts {
		if key := (carve.Owner{Pool: p.Pool, To: p.To}).String(); !seen[key] {
			seen[key] = true
			out = append(out, key)
		}
	}
	return out
}

// PlainPools are the pools of a network that are not carved, from a cache that has the PlainIndex. They must not be changed.
func PlainPools(ctx context.Context, cache client.Reader, network string) ([]v1alpha1.IPPool, error) {
	var list v1alpha1.IPPoolList
	err := cache.List(ctx, &list, client.MatchingFields{PlainIndex: cmp.Or(network, "default")}, client.UnsafeDisableDeepCopy)
	return list.Items, err
}
