// Command hammer tries to break what Berth promises of its leases. It runs the agents of many nodes and the controller in its own
// process, against a kube-apiserver and an etcd of their own, and plays kubelets, runtimes, users and the StatefulSet controller: pods
// are made, get sandboxes again and again, are deleted in all the ways there are and made anew under their names, on other nodes.
// Meanwhile agents are killed at their writes, API server and etcd crash, nodes fail and return, requests are lost, doubled and late,
// watches stall, clocks jump, pools are edited. Others are carved from Subnets, grow, shrink and return to them.
//
// What sandboxes use is written down together with what the API server says, and checked as it is written (see checker). At the end
// the faults stop, and everything must be freed and usable again.
//
//	life.go              the pods of one name            outage.go, chaos.go  what goes wrong with nodes and the rest
//	estate.go            the pools that are carved       trace.go, deeds.go   who owns which of their addresses, and whether it may
//	machine.go, cni.go   nodes, the plugin's requests    wire.go              what goes wrong with requests
//	history.go, check.go what happened, and whether it may  quiet.go          the end
//
// The seed decides what each actor does. Goroutines and processes do not run the same way twice, so a seed makes the same run likely,
// not certain.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

type opts struct {
	n, agents  int
	seed       uint64
	faultEvery int64
	labDir     string
	labBin     string
	logs       string
}

// slots are the pod names.
func (o opts) slots() int { return 5 * o.agents }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "hammer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var o opts
	f := flag.NewFlagSet("hammer", flag.ContinueOnError)
	f.IntVar(&o.n, "n", 3000, "operations: CNI verbs, pods made and deleted")
	f.IntVar(&o.agents, "agents", 8, "nodes, 8 to 32")
	f.Uint64Var(&o.seed, "seed", rand.Uint64(), "of all that is random; default: another each time")
	f.Int64Var(&o.faultEvery, "fault-every", 40, "operations between two faults of nodes, agents, pools and so on")
	f.StringVar(&o.labDir, "lab-dir", ".lab", "where the lab keeps its binaries")
	f.StringVar(&o.labBin, "lab", "bin/lab", "the lab's command")
	f.StringVar(&o.logs, "logs", "", "directory for the logs of agents and controller; default: none are written")
	if err := f.Parse(args); err != nil {
		return err
	}
	if o.agents < 8 || o.agents > 32 {
		return fmt.Errorf("-agents %d is not 8 to 32", o.agents)
	}
	if o.faultEvery < 1 {
		return fmt.Errorf("-fault-every %d is not positive", o.faultEvery)
	}
	var err error
	if o.labDir, err = filepath.Abs(o.labDir); err != nil {
		return err
	}
	klog.SetLogger(logr.Discard()) // what goes wrong is wanted here
	ctrl.SetLogger(logr.Discard())
	if o.logs != "" {
		if err := os.MkdirAll(o.logs, 0o755); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "hammer-")
	if err != nil {
		return err
	}
	w := &world{opts: o, dir: dir, history: newHistory()}
	return errors.Join(w.run(ctx), w.stop())
}

func (w *world) say(format string, args ...any) {
	fmt.Printf("%6.1fs %s\n", time.Since(w.history.start).Seconds(), fmt.Sprintf(format, args...))
}

func (w *world) run(ctx context.Context) error {
	w.controller = w.newController()
	w.say("%d operations on %d agents, seed %d", w.n, w.agents, w.seed)
	if err := w.start(ctx); err != nil {
		return err
	}
	for i := range w.agents {
		m := w.newMachine(i)
		w.machines = append(w.machines, m)
		if err := errors.Join(os.Mkdir(filepath.Join(w.dir, m.name), 0o700), m.putNode(ctx, corev1.ConditionTrue, false), m.start()); err != nil {
			return err
		}
	}
	w.controller.start(ctx)
	ctx, end := context.WithCancel(ctx)
	defer end()
	go func() {
		select {
		case <-w.history.violated:
			end()
		case <-ctx.Done():
		}
	}()
	w.tasks.Go(func() { w.look(ctx) })
	w.trace = &trace{world: w, deeds: newDeeds()}
	w.tasks.Go(func() { w.trace.run(ctx) })
	w.tasks.Go(func() { w.progress(ctx) })

	lives, estates := w.newLives(), w.newEstates()
	var wg sync.WaitGroup
	wg.Go(func() { w.chaos(ctx) })
	for _, e := range estates {
		wg.Go(func() { e.run(ctx) })
	}
	for _, l := range lives {
		wg.Go(func() { l.run(ctx) })
	}
	wg.Wait()
	err := ctx.Err() // a run that was ended has shown nothing
	if err == nil {
		err = w.quiet(ctx, lives, estates)
	}
	return errors.Join(err, w.report(os.Stdout))
}
