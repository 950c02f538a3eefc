//go:build linux

// Package links makes and mends the links that HostNetworks want of a node: bonds, VLANs, their MTU.
//
//	wanted.go            what HostNetworks want of this node
//	kernel.go            what there is
//	plan*.go             what to do about the difference, and what to refuse (pure)
//	act.go               the operations, by netlink
//	change.go            one change: the API server must be reached after it, or it is undone
//	snapshot.go, undo.go what it is undone from, and how
//	record.go            what of that is on disk, for an agent that is killed in the middle
//
// It works on levels, as package path does: whoever changes something, the next round sees the difference. It owns only the links
// with its alias ("berth:hostnetwork/NAME"). Of others it changes the members of bonds, and these only while they are members.
package links

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Config does not change while the agent runs.
type Config struct {
	File  string                      // what outlives the agent
	NetNS string                      // directory of the sandboxes' network namespaces
	Reach func(context.Context) error // whether the API server answers, on a connection of its own; within some seconds

	Patience time.Duration // how long after a change the API server may be out of reach
	Steady   time.Duration // how long it must be reached, for a change that could have cut the node off
	Period   time.Duration // between looks, besides those that events bring
}

// DefaultConfig has the times.
var DefaultConfig = Config{NetNS: "/run/netns", Patience: time.Minute, Steady: 5 * time.Second, Period: 30 * time.Second}

// State of a HostNetwork on this node.
type State struct {
	Name, Spec string // Spec is the version of it, see SpecOf; "" if it no longer selects this node
	Ready      bool
	Reason     string
	Message    string
	Links      []string
}

// Links of this node.
type Links struct {
	cfg  Config
	log  *slog.Logger
	kick chan struct{}
	tell func([]State)
	step func(op) // nil but in tests

	mu       sync.Mutex
	wants    []Want
	known    bool // wants is what there is
	interest interest

	k      *kernel
	record record
	told   []State
	tries  map[string]string // by HostNetwork: what the kernel said to a change that was not felt, and is tried again
}

// New has no effect on the node. What it finds and does is told after each round, all states at once.
func New(cfg Config, tell func([]State), log *slog.Logger) *Links {
	return &Links{cfg: cfg, tell: tell, log: log, kick: make(chan struct{}, 1), tries: map[string]string{}}
}

// Set what is wanted; see Wanted.
func (l *Links) Set(wants []Want) {
	l.mu.Lock()
	same := l.known && reflect.DeepEqual(l.wants, wants)
	l.wants, l.known = wants, true
	l.mu.Unlock()
	if !same {
		l.wake()
	}
}

// Wake looks again: what uses a link may have gone.
func (l *Links) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// Run until ctx ends. First of all it undoes what an agent was killed in the middle of; that needs nobody but the kernel.
func (l *Links) Run(ctx context.Context) error {
	if err := l.open(); err != nil {
		return err
	}
	defer l.k.close()
	stop, err := l.watch(ctx)
	if err != nil {
		return err
	}
	defer stop()
	for {
		if err := l.round(ctx); err != nil && ctx.Err() == nil {
			l.log.Error("links of HostNetworks; will try again", "err", err)
		}
		timer := time.NewTimer(l.cfg.Period)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-l.kick:
			select { // a change of links comes as a burst of events
			case <-ctx.Done():
			case <-time.After(settling):
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (l *Links) open() (err error) {
	if l.k, err = openKernel(l.cfg.NetNS); err != nil {
		return fmt.Errorf("links: %w", err)
	}
	if l.record, err = readRecord(l.cfg.File); err != nil {
		if l.record.Failed == nil {
			return fmt.Errorf("links: %w", err)
		}
		l.log.Error("what an earlier agent did to links is not known", "err", err)
	}
	if c := l.record.Change; c != nil {
		l.log.Warn("an agent ended in the middle of a change; undoing it", "hostnetwork", c.Owner, "ops", c.Ops)
		if err := l.takeBack(failure{c.Spec, unproven}); err != nil {
			l.log.Error("links of HostNetworks; will try again", "err", err)
		}
	}
	return nil
}

const unproven = "the agent ended before it was known that the API server is reached with this change, which was undone and is not " +
	"tried again until the spec changes"

// mostChanges in one round; more would be two that undo each other.
const mostChanges = 50

// round brings the node nearer to what is wanted: one change after the other, each planned on what is there then.
func (l *Links) round(ctx context.Context) error {
	l.mu.Lock()
	wants, known := l.wants, l.known
	l.mu.Unlock()
	if c := l.record.Change; c != nil { // what could not be undone at once
		if err := l.takeBack(failure{c.Spec, "this change was undone, late, as the kernel refused to before; it is not tried again until the spec changes"}); err != nil {
			return err
		}
	}
	if !known {
		return nil
	}
	wants, queued := hold(wants, l.record.Applied)
	l.forget(wants)
	for range mostChanges {
		now, err := l.look(wants)
		if err != nil {
			return err
		}
		var states []State
		changed := false
		for _, d := range plan(wants, now) {
			spec := specOf(wants, d.Owner)
			_, failed := l.record.Failed[d.Owner]
			if len(d.Ops) > 0 && !failed && !changed && l.tries[d.Owner] == "" && queued[d.Owner] != nothing {
				if changed, err = l.change(ctx, d, spec); err != nil {
					return err
				}
			}
			states = append(states, l.state(d, spec).inQueue(queued[d.Owner]))
		}
		if !changed {
			clear(l.tries) // for the next round
			l.report(states)
			return l.applied(wants, states)
		}
	}
	return errors.New("links change again and again; does something else on this node manage the members or the bond?")
}

// What a HostNetwork whose turn on this node has not come keeps until then.
const (
	theOld  = "keeps what it has"
	nothing = "changes nothing"
)

// hold on, where it is not this node's turn, to what was applied before, and mend that; what it was may not be known: then what stands,
// stays. Where nothing is to be done no turn is needed.
func hold(wants []Want, applied map[string]Want) (out []Want, queued map[string]string) {
	queued = map[string]string{}
	for _, w := range wants {
		if was, known := applied[w.Name]; w.Queued && known && !was.same(w) {
			queued[w.Name] = theOld
			w = was
		} else if w.Queued && !known {
			queued[w.Name] = nothing
		}
		out = append(out, w)
	}
	return out, queued
}

// inQueue says so of a state that is not what the spec wants.
func (s State) inQueue(how string) State {
	if how == theOld || how == nothing && s.Reason == "" {
		s.Reason = v1alpha1.LinksQueued
		s.Message = strings.TrimPrefix(s.Message+"; it is not this node's turn yet to become as the spec is", "; ")
		if how == nothing {
			s.Spec = ""
		}
	}
	return s
}

// applied notes what has been, for the time of the next version of it.
func (l *Links) applied(wants []Want, states []State) error {
	next := map[string]Want{}
	for _, w := range wants {
		if was, known := l.record.Applied[w.Name]; known {
			next[w.Name] = was
		}
		for _, s := range states {
			if s.Name == w.Name && s.Ready {
				w.Queued = false
				next[w.Name] = w
			}
		}
	}
	if reflect.DeepEqual(next, l.record.Applied) {
		return nil
	}
	l.record.Applied = next
	return l.record.write(l.cfg.File)
}

// look at the node. Who uses links that are to go is asked of the sandboxes, which costs.
func (l *Links) look(wants []Want) (Observed, error) {
	now, err := l.k.observe()
	if err != nil {
		return nil, err
	}
	wanted := map[string]bool{}
	for _, w := range wants {
		for _, name := range w.made() {
			wanted[name] = true
		}
	}
	for name, link := range now {
		if link.owner() != "" && !wanted[name] {
			if link.Users, err = l.k.users(link.Index); err != nil {
				return nil, err
			}
			now[name] = link
		}
	}
	l.setInterest(wants, now)
	return now, nil
}

// forget what failed or worked of a spec that is another by now.
func (l *Links) forget(wants []Want) {
	for owner, f := range l.record.Failed {
		if f.Spec != specOf(wants, owner) {
			delete(l.record.Failed, owner)
		}
	}
	for owner, spec := range l.record.Proven {
		if spec != specOf(wants, owner) {
			delete(l.record.Proven, owner)
		}
	}
}

func specOf(wants []Want, owner string) string {
	for _, w := range wants {
		if w.Name == owner {
			return w.Spec
		}
	}
	return ""
}

func (l *Links) state(d decision, spec string) State {
	s := State{Name: d.Owner, Spec: spec, Links: d.Links}
	failed, ok := l.record.Failed[d.Owner]
	try := l.tries[d.Owner]
	switch {
	case ok:
		s.Reason, s.Message = v1alpha1.LinksUndone, failed.Message
	case d.Refused != nil:
		s.Reason, s.Message = v1alpha1.LinksRefused, strings.Join(d.Refused, "; ")
	case try != "":
		s.Reason, s.Message = v1alpha1.LinksFailed, try
	case d.Waits != nil:
		s.Reason, s.Message = v1alpha1.LinksWaiting, strings.Join(d.Waits, "; ")
	case d.Amiss != nil:
		s.Reason, s.Message = v1alpha1.LinksIncomplete, strings.Join(d.Amiss, "; ")
	case len(d.Ops) == 0:
		s.Ready, s.Reason = true, v1alpha1.LinksReady
	}
	return s
}

func (l *Links) report(states []State) {
	if !reflect.DeepEqual(states, l.told) {
		for _, s := range states {
			l.log.Info("links of a HostNetwork", "hostnetwork", s.Name, "ready", s.Ready, "why", s.Message, "links", s.Links)
		}
	}
	l.told = states
	l.tell(states)
}
