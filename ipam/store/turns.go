package store

import (
	"context"
	"fmt"
)

// atOnce bounds the claims of this node that are on their way. In a burst the others wait before they choose, not after, and so choose
// by what other nodes have claimed meanwhile: simulated (TestNodesSeldomMeet), 8 nodes that each have hundreds on their way meet for every
// other pod. More at once are not faster either, since it is the API server that is waited for.
const atOnce = 8

// turns of claims.
type turns chan struct{}

func newTurns() turns { return make(turns, atOnce) }

// take a turn, and give it back by done.
func (t turns) take(ctx context.Context) (done func(), err error) {
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %d other claims of this node are on their way: %w; try again", ErrUnavailable, atOnce, ctx.Err())
	}
}
