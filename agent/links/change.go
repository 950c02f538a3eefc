//go:build linux

package links

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// change does a decision's operations.
//
//	before                  | the API server then | what follows
//	reached                 | reached, steadily   | the change stays: the spec is proven
//	reached                 | not within Patience | undone; the spec fails, and is not tried again
//	reached                 | the kernel refuses  | undone; tried again in the next round if nothing was felt, else the spec fails
//	reached                 | the agent is ended  | undone; the next agent begins anew
//	reached                 | the agent is killed | undone by the next agent; the spec fails
//	not reached, proven     | –                   | the change stays: it mends what was right, and what there was did not work either
//	not reached, not proven | –                   | nothing is begun
//
// It says whether the node has changed, for better or worse, so that another look is due.
func (l *Links) change(ctx context.Context, d decision, spec string) (changed bool, err error) {
	unreached := l.cfg.Reach(ctx)
	proven := spec != "" && l.record.Proven[d.Owner] == spec
	if unreached != nil && !proven {
		l.tries[d.Owner] = fmt.Sprintf("the API server is not reached from this node, so no change is begun: %v", unreached)
		return false, nil
	}
	now, err := l.k.observe()
	if err != nil {
		return false, err
	}
	c := &change{Owner: d.Owner, Spec: spec}
	for _, o := range d.Ops {
		c.Ops = append(c.Ops, o.String())
	}
	if c.Before, err = l.k.take(d.Ops, now); err != nil {
		return false, err
	}
	l.record.Change = c
	if err := l.record.write(l.cfg.File); err != nil { // nothing is begun that could not be undone
		l.record.Change = nil
		return false, fmt.Errorf("record of a change: %w", err)
	}
	l.log.Info("changing links", "hostnetwork", d.Owner, "ops", c.Ops)
	felt := false
	for _, o := range d.Ops {
		felt = felt || o.disturbs()
		if l.step != nil {
			l.step(o)
		}
		if err := l.k.do(o, c.Before); err != nil {
			return true, l.refused(d.Owner, spec, felt, err)
		}
	}
	if unreached == nil {
		if err := l.probe(ctx, felt); ctx.Err() != nil {
			return true, errors.Join(ctx.Err(), l.takeBack(failure{}))
		} else if err != nil {
			return true, l.takeBack(failure{spec, fmt.Sprintf("the API server was not reached for %s after this change, which was undone "+
				"and is not tried again until the spec changes: %v", l.cfg.Patience, err)})
		}
		l.record.Proven[d.Owner] = spec
	}
	l.record.Change = nil
	return true, l.record.write(l.cfg.File)
}

// refused by the kernel.
func (l *Links) refused(owner, spec string, felt bool, err error) error {
	l.log.Warn("the kernel refused a change; undoing it", "hostnetwork", owner, "err", err)
	if !felt {
		l.tries[owner] = err.Error()
		return l.takeBack(failure{})
	}
	return l.takeBack(failure{spec, fmt.Sprintf("%v; the change was undone, and is not tried again until the spec changes", err)})
}

// probe whether the API server is still reached.
func (l *Links) probe(ctx context.Context, felt bool) error {
	end := time.Now().Add(l.cfg.Patience)
	var since time.Time // reached without a gap
	var last error
	for {
		err := l.cfg.Reach(ctx)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			if last == nil {
				l.log.Warn("the API server is not reached after a change of links; waiting", "for", time.Until(end), "err", err)
			}
			since, last = time.Time{}, err
		case since.IsZero():
			since = now
		}
		if err == nil && (!felt || now.Sub(since) >= l.cfg.Steady) {
			return nil
		}
		if now.After(end) {
			return cmp.Or(err, last, errors.New("it took too long"))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(time.Second, l.cfg.Steady/2)):
		}
	}
}

// mostSteps back; each round of undo is one.
const mostSteps = 10

// takeBack the change that is recorded. Without a spec in it, the failure is not kept: another try is welcome.
func (l *Links) takeBack(f failure) error {
	c := l.record.Change
	var err error
	for step := 0; ; step++ {
		now, e := l.k.observe()
		if e != nil {
			return e
		}
		ops := undo(c.Before, now)
		if len(ops) == 0 || step == mostSteps {
			if len(ops) > 0 {
				err = errors.Join(err, fmt.Errorf("left to be undone: %s", ops))
			}
			break
		}
		var errs []error
		for _, o := range ops {
			l.log.Info("undoing", "hostnetwork", c.Owner, "op", o.String())
			errs = append(errs, l.k.do(o, c.Before))
		}
		err = errors.Join(errs...)
	}
	for _, s := range slices.Backward(c.Before.Links) {
		err = errors.Join(err, l.k.do(op{Verb: restore, Link: s.Name}, c.Before))
	}
	if err != nil {
		return fmt.Errorf("undo a change for HostNetwork %q: %w", c.Owner, err)
	}
	l.record.Change = nil
	if f.Spec != "" || f.Message != "" {
		l.record.Failed[c.Owner] = f
	}
	l.log.Warn("a change was undone", "hostnetwork", c.Owner, "why", f.Message)
	return l.record.write(l.cfg.File)
}
