package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// chaos does to the world what nobody asked for, a fault each few operations, until there are no more.
func (w *world) chaos(ctx context.Context) {
	rng := w.random("chaos", 0)
	var outages sync.WaitGroup
	busy := map[*machine]bool{}
	var mu sync.Mutex
	api := w.apiEvery()
	for next := w.faultEvery; w.more(ctx); {
		if w.ops.Load() < next {
			pause(ctx, 5*time.Millisecond)
			continue
		}
		next += 1 + rng.Int64N(2*w.faultEvery)
		m := w.machines[rng.IntN(len(w.machines))]
		if w.ops.Load() >= api {
			api += w.apiEvery()
			if err := w.restartAPI(ctx, rng); err != nil && ctx.Err() == nil {
				w.history.violate(Event{Kind: Fault}, err.Error())
			}
			continue
		}
		switch n := rng.IntN(25); {
		case n < 4:
			m.kill("at any time")
			pause(ctx, time.Duration(rng.Int64N(int64(100*time.Millisecond))))
			w.restart(m)
		case n < 9:
			m.killAtWrite(1+rng.Int64N(4), rng.IntN(2) == 0)
		case n < 10:
			m.stop()
			w.restart(m)
		case n < 12:
			mu.Lock() // half of the machines stay up
			if !busy[m] && len(busy) < len(w.machines)/2 {
				busy[m] = true
				source := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
				outages.Go(func() {
					m.outage(ctx, source)
					mu.Lock()
					defer mu.Unlock()
					delete(busy, m)
				})
			}
			mu.Unlock()
		case n < 15:
			_ = w.edit(ctx, rng)
		case n < 16:
			d := time.Duration(rng.Int64N(int64(2*time.Hour))) - time.Hour
			m.skew.Store(int64(d))
			w.history.add(Event{Kind: Fault, Node: m.name, Note: fmt.Sprintf("clock is off by %s", d.Round(time.Second))})
		case n < 17:
			w.controller.kill()
			w.controller.start(ctx)
		case n < 18:
			w.controller.killAtWrite(1+rng.Int64N(30), rng.IntN(2) == 0)
		case n < 20:
			w.scale(ctx, w.sets[rng.IntN(len(w.sets))], rng.Int64N(mostReplicas+1))
		case n < 21:
			s := w.sets[rng.IntN(len(w.sets))]
			outages.Go(func() { w.renew(ctx, s) })
		case n < 22:
			outages.Go(func() { w.remake(ctx) })
		default:
			_ = m.gc(ctx)
		}
	}
	outages.Wait()
}

// restart an agent that was ended, unless its machine has failed meanwhile.
func (w *world) restart(m *machine) {
	if m.isState() == off {
		return
	}
	if err := m.start(); err != nil {
		w.history.violate(Event{Kind: Fault, Node: m.name}, err.Error())
	}
}

func (m *machine) killAtWrite(n int64, answer bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != nil {
		m.life.conn.answer.Store(answer)
		m.life.conn.killIn.Store(n)
	}
}

// apiEvery is how many operations lie between two crashes of the API server: it takes some seconds to come back.
func (w *world) apiEvery() int64 { return max(w.faultEvery*25, int64(w.n)/20) }

// restartAPI ends etcd or the API server or both, as a crash does, and starts them again.
func (w *world) restartAPI(ctx context.Context, rng *rand.Rand) error {
	parts := [][]string{{"etcd"}, {"kube-apiserver"}, {"etcd", "kube-apiserver"}}[rng.IntN(3)]
	for _, p := range parts {
		if _, err := w.lab(ctx, "kill", p); err != nil {
			return err
		}
		w.history.add(Event{Kind: Fault, Note: p + " killed"})
	}
	pause(ctx, time.Duration(rng.Int64N(int64(2*time.Second))))
	for _, p := range parts {
		if _, err := w.lab(ctx, "start", p); err != nil {
			return err
		}
		w.history.add(Event{Kind: Fault, Note: p + " started"})
	}
	for ctx.Err() == nil {
		for range 100 {
			if _, err := w.pools.List(ctx, metav1.ListOptions{}); err == nil {
				return nil
			}
			pause(ctx, 200*time.Millisecond)
		}
		// An API server that does not find its etcd ends; whoever supervises it starts it again.
		if _, err := w.lab(ctx, "kill", "kube-apiserver"); err != nil {
			return err
		}
		if _, err := w.lab(ctx, "start", "kube-apiserver"); err != nil {
			return err
		}
		w.history.add(Event{Kind: Fault, Note: "kube-apiserver started again"})
	}
	return ctx.Err()
}
