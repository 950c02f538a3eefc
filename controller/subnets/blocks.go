package subnets

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
)

// ErrElsewhere means that another cluster has a block: carve from another one.
var ErrElsewhere = errors.New("another cluster has the block")

// ErrAway means that no block can be claimed now, since the hub cannot be asked; what wraps it says why.
var ErrAway = errors.New("no further block can be claimed")

// Blocks makes and deletes IPBlocks; everything between is an update of what is there. A hub stands here between the carver and the API
// server. Both are asked by one at a time for a network, in this process; another process may ask for the same.
type Blocks interface {
	// Claim creates a block with its first parts, on behalf of a Subnet. AlreadyExists of the API server and ErrElsewhere mean to look
	// again, and choose another; ErrAway, to be content with the blocks that are there.
	Claim(ctx context.Context, s *v1alpha1.Subnet, b *v1alpha1.IPBlock) error
	// GiveBack deletes a block that nobody has a part of, as it was read (UID, resourceVersion): a conflict means that somebody has.
	// A block with spec.cluster is carved from by nobody, so that it can be given back in more than one step. ErrAway: not now.
	GiveBack(ctx context.Context, b *v1alpha1.IPBlock) error
	// Elsewhere is what may not be carved from a Subnet, as others are known to have it, given the blocks of its network that are here. With
	// an error that Is ErrAway it is all that is not in blocks that are here.
	Elsewhere(ctx context.Context, s *v1alpha1.Subnet, here map[netip.Addr]*v1alpha1.IPBlock) (ipam.Ranges, error)
}

// Local blocks, of one cluster that has all of its Subnets.
type Local struct{ Client client.Client }

// Claim creates it.
func (l Local) Claim(ctx context.Context, s *v1alpha1.Subnet, b *v1alpha1.IPBlock) error {
	if s.Spec.Hub {
		return errNoHub(s)
	}
	return l.Client.Create(ctx, b)
}

// GiveBack deletes it.
func (l Local) GiveBack(ctx context.Context, b *v1alpha1.IPBlock) error {
	uid, version := b.UID, b.ResourceVersion
	return l.Client.Delete(ctx, b, client.Preconditions{UID: &uid, ResourceVersion: &version})
}

// Elsewhere is nothing, or everything of a hub's Subnet.
func (Local) Elsewhere(_ context.Context, s *v1alpha1.Subnet, _ map[netip.Addr]*v1alpha1.IPBlock) (ipam.Ranges, error) {
	if !s.Spec.Hub {
		return nil, nil
	}
	return Whole(s), errNoHub(s)
}

func errNoHub(s *v1alpha1.Subnet) error {
	return fmt.Errorf("%w: Subnet %q is a hub's, and this controller has none; set --cluster-name and --hub-kubeconfig-secret", ErrAway, s.Name)
}

// Whole is all addresses of a Subnet, of both families.
func Whole(s *v1alpha1.Subnet) ipam.Ranges {
	compiled, err := carve.Compile(s)
	if err != nil {
		return nil // nothing is carved from it
	}
	return append(compiled.Whole(ipam.IPv4), compiled.Whole(ipam.IPv6)...)
}
