package services

import (
	"context"
	"errors"
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
		names := k.waiting()
		if len(names) == 0 || ctx.Err() != nil {
			return ctx.Err()
		}
		k.carryOut(names...)
		for _, name := range names {
			k.queue.Done(name)
		}
	}
}

// most Services that a sink is given at once.
const most = 512

// waiting are the names in the queue, once there is one; none if it is shut down.
func (k *sink) waiting() (names []string) {
	for len(names) == 0 || len(names) < most && k.queue.Len() > 0 {
		name, down := k.queue.Get()
		if down {
			break
		}
		names = append(names, name)
	}
	return names
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

// job is a Service as the sink has it, and as it is to be.
type job struct {
	name      string
	since     time.Time
	had, next print
	built     service.Service
}

// carryOut what Services are now.
func (k *sink) carryOut(names ...string) {
	jobs := make([]job, 0, len(names))
	k.state.mu.Lock()
	for _, name := range names {
		j := job{name: name, since: k.since[name]}
		delete(k.since, name)
		e := k.state.services[name]
		if e == nil {
			continue
		}
		var ok bool
		if j.built, ok = k.state.build(name); ok {
			j.next = printOf(j.built)
		}
		j.had = e.has[k.index]
		e.has[k.index] = unsure
		jobs = append(jobs, j)
	}
	k.state.mu.Unlock()
	k.do(jobs)
}

// do jobs at once. If that fails, each for itself: one Service that cannot be had keeps back no other.
func (k *sink) do(jobs []job) {
	var set []service.Service
	var gone []string
	for _, j := range jobs {
		switch {
		case j.had == j.next:
		case j.next == none:
			gone = append(gone, j.name)
		default:
			set = append(set, j.built)
		}
	}
	var err error
	if len(gone) > 0 {
		err = k.Delete(gone...)
	}
	if len(set) > 0 {
		err = errors.Join(err, k.Set(set...))
	}
	if err != nil && len(jobs) > 1 {
		for i := range jobs {
			k.do(jobs[i : i+1])
		}
		return
	}
	k.state.mu.Lock()
	defer k.state.mu.Unlock()
	for _, j := range jobs {
		if err != nil {
			if _, again := k.since[j.name]; !again {
				k.since[j.name] = j.since
			}
			k.failed(fmt.Errorf("%s: %w", j.name, err))
			k.queue.AddRateLimited(j.name)
			continue
		}
		k.state.services[j.name].has[k.index] = j.next
		k.queue.Forget(j.name)
		k.state.clean(j.name)
		if j.had != j.next {
			k.metrics.took.Observe(time.Since(j.since).Seconds())
		}
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
