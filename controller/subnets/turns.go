package subnets

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/carve"
)

// turn is what one pool wants of the blocks of its network. Pools that come while another one's turn is decided and written wait, and
// whoever is next takes the turns of all that wait: of a thousand pools at once each block is written a few times, and not once for each.
type turn struct {
	pool   *v1alpha1.IPPool
	subnet *v1alpha1.Subnet

	// What came of it, under the lock of the network. The view has what is written; it is nil if the pool stays as it is.
	done bool
	view *view
	out  outcome
	err  error
}

func (t *turn) end(v *view, out outcome, err error) { t.done, t.view, t.out, t.err = true, v, out, err }

// turns that wait, by network.
type turns struct {
	mu sync.Mutex
	of map[string][]*turn
}

func (w *turns) wait(network string, t *turn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of == nil {
		w.of = map[string][]*turn{}
	}
	w.of[network] = append(w.of[network], t)
}

// take all that wait.
func (w *turns) take(network string) []*turn {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.of[network]
	delete(w.of, network)
	return all
}

// turn of a pool: by itself, or with others.
func (c poolReconciler) turn(ctx context.Context, network string, pool *v1alpha1.IPPool, s *v1alpha1.Subnet) (*view, outcome, error) {
	t := &turn{pool: pool, subnet: s}
	c.turns.wait(network, t)
	defer c.ledger.lock(network)()
	if !t.done { // by whoever had the lock before
		c.takeAll(ctx, c.turns.take(network))
	}
	if !t.done { // whoever took it came to nothing
		return nil, outcome{}, errAgain
	}
	return t.view, t.out, t.err
}

// takeAll turns of one network, under its lock: of each Subnet those that only take addresses together, the others one after the other.
func (c poolReconciler) takeAll(ctx context.Context, all []*turn) {
	of := map[string][]*turn{}
	for _, t := range all {
		of[t.subnet.Name] = append(of[t.subnet.Name], t)
	}
	for _, some := range of {
		if len(some) > 1 {
			c.carve(ctx, some)
		}
		for _, t := range some {
			if !t.done {
				c.carve(ctx, []*turn{t})
			}
		}
	}
}

// carve for pools of one Subnet by one write of each block. Of several, those that give something up, which has an order of its own, are
// left undone, and all if no block can be claimed: they are to be carved for alone.
func (c poolReconciler) carve(ctx context.Context, all []*turn) {
	together := len(all) > 1
	end := func(v *view, out outcome, err error) {
		for _, t := range all {
			t.end(v, out, err)
		}
	}
	s := all[len(all)-1].subnet // the newest
	v, err := c.look(ctx, s)
	switch {
	case err != nil:
		end(nil, outcome{}, err)
		return
	case v.reason != "":
		end(nil, outcome{reason: reasonNotReady, message: fmt.Sprintf("nothing is carved from Subnet %q, and the pool keeps what it has: %s", s.Name, v.message)}, nil)
		return
	case s.DeletionTimestamp != nil:
		end(nil, outcome{reason: reasonNotReady, message: fmt.Sprintf("Subnet %q is being deleted, and the pool keeps what it has until it is deleted too", s.Name)}, nil)
		return
	}
	var decided []*turn
	var decisions []carve.Decision
	for _, t := range all {
		o := carve.Owner{Pool: t.pool.Name}
		ask := carve.Ask{Owner: o, Size: uint64(*t.pool.Spec.Size), Avoid: v.avoid}
		idle := v.book.Idle(o, s.Name, ask.Size)
		if idle && together {
			continue
		}
		if idle {
			if ask.InUse, err = c.inUse(ctx, client.MatchingLabels{v1alpha1.LabelPool: t.pool.Name}); err != nil {
				t.end(nil, outcome{}, err)
				return
			}
		}
		d, short := carve.Decide(v.subnet, v.book, ask)
		if together && len(d.Return)+len(d.Strays) > 0 {
			continue
		}
		v.book.Apply(d, o, s.Name, c.now().Truncate(time.Second))
		t.out = v.outcome(t.pool, d, short)
		if idle || short != nil {
			t.out.after = again
		}
		decided, decisions = append(decided, t), append(decisions, d)
	}
	if together {
		v.book.TakenOnly()
	}
	err = c.ledger.write(ctx, v.subnet.Network, s, v.book, v.objects)
	if errors.Is(err, ErrAway) && together {
		return
	}
	if errors.Is(err, ErrAway) {
		end(nil, outcome{reason: reasonAway, message: err.Error() + "; the pool keeps what it has", after: again}, nil)
		return
	}
	for i, t := range decided {
		if err != nil {
			t.end(nil, outcome{}, err)
			continue
		}
		observe(decisions[i])
		t.end(v, t.out, nil)
	}
}

// outcome for a pool of what was decided for it.
func (v *view) outcome(pool *v1alpha1.IPPool, d carve.Decision, short error) outcome {
	switch {
	case short != nil && v.away != nil:
		return outcome{reason: reasonAway, message: fmt.Sprintf("%s (in the blocks that this cluster has); %s; the pool keeps what it has", short, v.away)}
	case short != nil:
		return outcome{reason: reasonShort, message: short.Error() + "; the pool keeps what it has"}
	case d.Kept > 0:
		return outcome{reason: reasonKept, message: fmt.Sprintf("size is %d, and the pool keeps %d addresses more, which are in use, until they are not", *pool.Spec.Size, d.Kept)}
	}
	return outcome{reason: reasonCarved, message: fmt.Sprintf("the pool has its %d addresses of Subnet %q", *pool.Spec.Size, v.object.Name)}
}
