package subnets

import (
	"context"
	"errors"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// ErrElsewhere means that another cluster has a block: carve from another one.
var ErrElsewhere = errors.New("another cluster has the block")

// Blocks makes and deletes IPBlocks; everything between is an update of what is there. A hub stands here between the carver and the API
// server. Both are asked by one at a time for a network, in this process; another process may ask for the same.
type Blocks interface {
	// Claim creates a block with its first parts, on behalf of a Subnet. AlreadyExists of the API server and ErrElsewhere mean to look
	// again, and choose another.
	Claim(ctx context.Context, s *v1alpha1.Subnet, b *v1alpha1.IPBlock) error
	// GiveBack deletes a block that nobody has a part of, as it was read (UID, resourceVersion): a conflict means that somebody has.
	// A block with spec.cluster is carved from by nobody, so that it can be given back in more than one step.
	GiveBack(ctx context.Context, b *v1alpha1.IPBlock) error
	// Elsewhere is what other clusters are known to have of a Subnet, so that it need not be asked for.
	Elsewhere(ctx context.Context, s *v1alpha1.Subnet) (ipam.Ranges, error)
}

// Local blocks, of one cluster that has all of its Subnets.
type Local struct{ Client client.Client }

// Claim creates it.
func (l Local) Claim(ctx context.Context, _ *v1alpha1.Subnet, b *v1alpha1.IPBlock) error {
	return l.Client.Create(ctx, b)
}

// GiveBack deletes it.
func (l Local) GiveBack(ctx context.Context, b *v1alpha1.IPBlock) error {
	uid, version := b.UID, b.ResourceVersion
	return l.Client.Delete(ctx, b, client.Preconditions{UID: &uid, ResourceVersion: &version})
}

// Elsewhere is nothing.
func (Local) Elsewhere(context.Context, *v1alpha1.Subnet) (ipam.Ranges, error) { return nil, nil }
