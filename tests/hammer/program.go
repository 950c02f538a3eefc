package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/berthdev/berth/controller"
)

// The controller's times. They are shorter than its defaults, in the same order: a kubelet that hears of a deletion ends the pod within
// a second, so one second is what ConfirmAfter must exceed.
const (
	controllerInterval     = time.Second
	controllerConfirmAfter = 5 * time.Second
	controllerForgetAfter  = 20 * time.Second
	controllerReturnAfter  = 10 * time.Second
)

// program is the controller, which is killed and started like the agents.
type program struct {
	*world
	log  *slog.Logger
	wire *wire

	mu   sync.Mutex
	conn *conn
	end  context.CancelFunc
}

func (w *world) newController() *program {
	return &program{world: w, log: w.logger("controller"), wire: &wire{rng: w.random("wire", -1), count: w.history.count}}
}

func (p *program) start(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ctx, p.end = context.WithCancel(context.WithoutCancel(ctx))
	p.conn = p.wire.connect()
	conn := p.conn
	p.tasks.Go(func() { // killed at a write
		select {
		case <-ctx.Done():
		case <-conn.ended:
			p.history.add(Event{Kind: Fault, Note: "controller killed at a write"})
			p.kill()
			p.start(ctx)
		}
	})
	p.tasks.Go(func() {
		// A controller that cannot go on ends, and is started anew by its Deployment.
		for ctx.Err() == nil {
			err := controller.Run(ctx, conn.into(p.config), controller.Config{
				NoLeaderElection: true, ManyInProcess: true, MetricsAddress: "0", HealthAddress: "0", Log: p.log,
				Interval: controllerInterval, ConfirmAfter: controllerConfirmAfter, ForgetAfter: controllerForgetAfter,
				ReserveFor: time.Hour, QuarantineFor: time.Hour, ReturnAfter: controllerReturnAfter, ShrinkAfter: time.Second,
			})
			if ctx.Err() == nil {
				p.history.add(Event{Kind: Fault, Note: "the controller ends by itself: " + err.Error()})
				pause(ctx, 100*time.Millisecond)
			}
		}
	})
}

// killAtWrite kills it at one of its next writes.
func (p *program) killAtWrite(n int64, answer bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn.answer.Store(answer)
	p.conn.killIn.Store(n)
}

func (p *program) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.history.add(Event{Kind: Fault, Note: "controller killed"})
		p.end()
		p.conn.end()
	}
}

// logger of a program, into a file of its own if logs are wanted.
func (w *world) logger(name string) *slog.Logger {
	if w.logs == "" {
		return slog.New(slog.DiscardHandler)
	}
	f, err := os.Create(filepath.Join(w.logs, name+".log"))
	if err != nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(f, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
