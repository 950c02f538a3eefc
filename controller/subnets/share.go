package subnets

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/carve"
)

// ErrNotReady means that nothing is carved from a Subnet now; what wraps it says why.
var ErrNotReady = errors.New("nothing is carved from the subnet")

// ErrBusy means that others changed the same blocks at the same time, more than once: try again.
var ErrBusy = errors.New("the blocks changed meanwhile, more than once")

// Share cuts one CIDR of each family, of size addresses each, out of a Subnet, for the Subnet child to be made of them; asked again it
// gives the same. The order is: Share, then make the Subnet. When no Subnet child is there, or no more, the CIDRs return as a pool's
// addresses do. Errors: ErrNotReady, carve.ErrShort, ErrBusy, and those of the API server.
func (c *Carver) Share(ctx context.Context, parent *v1alpha1.Subnet, child string, size int32) ([]netip.Prefix, error) {
	const tries = 10
	for range tries {
		prefixes, err := c.share(ctx, parent, child, size, true)
		if !errors.Is(err, errAgain) {
			return prefixes, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(soon):
		}
	}
	return nil, fmt.Errorf("subnet %q: %w", parent.Name, ErrBusy)
}

func (c *Carver) share(ctx context.Context, parent *v1alpha1.Subnet, child string, size int32, write bool) ([]netip.Prefix, error) {
	v, unlock, err := c.open(ctx, parent)
	if err != nil {
		return nil, err
	}
	defer unlock()
	prefixes, d, err := carve.Share(v.subnet, v.book, child, uint64(size), v.avoid)
	if err != nil || !write {
		return prefixes, err
	}
	o := carve.Owner{To: child}
	v.book.Apply(d, o, parent.Name, c.now().Truncate(time.Second))
	if err := c.ledger.write(ctx, v.subnet.Network, parent, v.book, v.objects); err != nil {
		return nil, err
	}
	observe(d)
	return prefixes, nil
}

// Preview says what a pool would list, if it were made or had another size, and writes nothing. Errors as those of Share.
func (c *Carver) Preview(ctx context.Context, s *v1alpha1.Subnet, pool string, size int32) ([]v1alpha1.PoolSubnet, error) {
	v, unlock, err := c.open(ctx, s)
	if err != nil {
		return nil, err
	}
	defer unlock()
	o := carve.Owner{Pool: pool}
	d, err := carve.Decide(v.subnet, v.book, carve.Ask{Owner: o, Size: uint64(size), Avoid: v.avoid})
	if err != nil {
		return nil, err
	}
	v.book.Apply(d, o, s.Name, c.now())
	return carve.Derive(v.subnet, v.book, o), nil
}

// open a Subnet from which may be carved, under the lock of its network.
func (c *Carver) open(ctx context.Context, s *v1alpha1.Subnet) (*view, func(), error) {
	network := s.Spec.Network
	if network == "" {
		network = "default"
	}
	unlock := c.ledger.lock(network)
	v, err := c.look(ctx, s)
	switch {
	case err != nil:
	case v.reason != "":
		err = fmt.Errorf("%w %q: %s", ErrNotReady, s.Name, v.message)
	case s.DeletionTimestamp != nil:
		err = fmt.Errorf("%w %q: it is being deleted", ErrNotReady, s.Name)
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return v, unlock, nil
}
