package services

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/client-go/util/workqueue"

	"github.com/berthdev/berth/service"
)

// How long a sink is left alone after it failed, for one Service: twice as long each time.
const (
	firstWait = 10 * time.Millisecond
	longest   = 30 * time.Second
)

// sink is a Sink with what is to be done for it. What it has of a Service is entry.has[index].
//
//	has        the Service has  done                 has then, if it succeeds  if it fails
//	none       no frontends     –                    none
//	none       frontends        Set                  its print                 unsure
//	a print    the same         –                    the same
//	a print    another          Set                  its print                 unsure
//	a print    no frontends     Delete               none                      unsure
//	unsure     any              Set or Delete        its print or none         unsure
type sink struct {
	Sink
	name  string
	index int
	state *state
	log   *slog.Logger
	queue workqueue.TypedRateLimitingInterface[string]
	since map[string]time.Time // when the first event came that is not yet carried out; state.mu is its lock
	quiet rate.Sometimes       // a sink that fails, fails for many

	metrics sinkMetrics
}

// print of a Service: what is alike has the same.
type print uint64

const (
	none   print = iota // the sink does not have it
	unsure              // a call failed
	prints              // and more
)

func newSink(name string, to Sink, s *state, index int, log *slog.Logger) *sink {
	return &sink{Sink: to, name: name, index: index, state: s, log: log.With("sink", name),
		queue:   workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstWait, longest)),
		since:   map[string]time.Time{},
		quiet:   rate.Sometimes{First: 1, Interval: 10 * time.Second},
		metrics: newSinkMetrics(name),
	}
}

// add a Service that changed; state.mu is held. Before all is known there is nothing to measure, and Sync will say it.
func (k *sink) add(name string, at time.Time) {
	if len(k.state.missing) > 0 {
		return
	}
	if _, waits := k.since[name]; !waits {
		k.since[name] = at
	}
	k.queue.Add(name)
}

// run until ctx ends.
func (k *sink) run(ctx context.Context, synced func()) error {
	defer k.queue.ShutDown()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-k.state.complete:
	}
	for wait := 10 * firstWait; ; wait = min(2*wait, longest) {
		err := k.sync()
		if err == nil {
			break
		}
		k.failed(err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
	synced()
	defer context.AfterFunc(ctx, k.queue.ShutDown)()
	for {
		name, down := k.queue.Get()
		if down || ctx.Err() != nil {
			return ctx.Err()
		}
		k.carryOut(name)
		k.queue.Done(name)
	}
}

// sync says all that there is. What changes meanwhile is in the queue.
func (k *sink) sync() error {
	k.state.mu.Lock()
	var all []service.Service
	for name, e := range k.state.services {
		if built, ok := k.state.build(name); ok {
			e.has[k.index] = printOf(built)
			all = append(all, built)
		}
	}
	k.state.mu.Unlock()
	if err := k.Sync(all); err != nil {
		return fmt.Errorf("all %d Services: %w", len(all), err)
	}
	return nil
}

// carryOut what a Service is now.
func (k *sink) carryOut(name string) {
	k.state.mu.Lock()
	e := k.state.services[name]
	since := k.since[name]
	delete(k.since, name)
	if e == nil {
		k.state.mu.Unlock()
		return
	}
	built, ok := k.state.build(name)
	had, next := e.has[k.index], none
	if ok {
		next = printOf(built)
	}
	e.has[k.index] = unsure
	k.state.mu.Unlock()

	var err error
	switch {
	case had == next:
	case ok:
		err = k.Set(built)
	default:
		err = k.Delete(name)
	}
	k.state.mu.Lock()
	defer k.state.mu.Unlock()
	if err != nil {
		if _, again := k.since[name]; !again {
			k.since[name] = since
		}
		k.failed(fmt.Errorf("%s: %w", name, err))
		k.queue.AddRateLimited(name)
		return
	}
	e.has[k.index] = next
	k.queue.Forget(name)
	k.state.clean(name)
	if had != next {
		k.metrics.took.Observe(time.Since(since).Seconds())
	}
}

func (k *sink) failed(err error) {
	k.metrics.errors.Inc()
	k.quiet.Do(func() { k.log.Warn("Services not carried out, trying again", "err", err) })
}

// clean up a Service that is no more, anywhere; s.mu is held.
func (s *state) clean(name string) {
	e := s.services[name]
	if e == nil || e.spec != nil || len(e.slices) > 0 {
		return
	}
	for _, p := range e.has {
		if p != none {
			return
		}
	}
	delete(s.services, name)
}
