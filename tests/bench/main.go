// Command bench measures Berth on this machine, against what it is to be compared with, in the same run:
//
//	start  start of the plugin, against an empty program in Go
//	bpf    the programs of the service path, by the kernel's test run
//	add    ADD and DEL of the whole plugin, against host-local and against a no-op plugin with one API write
//	api    requests to the API server for each ADD and DEL, by its own count
//	burst  1000 ADDs at once on 4 and on 8 nodes, with as many addresses, against host-local
//	pools  ADD in a pool of 65,536 that is mostly used and in a /64, against a /24; the agent's memory
//	wide   1000 nodes and 20,000 leases: watch events for each ADD, and an agent's memory
//	scale  an agent's memory, and its maps', with 10,000 Services and 50,000 endpoints
//	carve  1000 pools of 5 made at once from one Subnet, and of 1000 Deployments: pools a second, against as many that need no carving,
//	       and requests to the API server for each
//	path   a ClusterIP in fast mode and through vmac, against the same pods' own addresses, and those against pods without source guard, on
//	       the two-node lab
//	many   the same on one node with 10,000 Services and 50,000 endpoints, by Berth's own table and by kube-proxy's, against few Services
//
// Results are JSON lines on stdout and in a file; progress and a table are on stderr. Times depend on the machine and on what else
// it does; ratios are of values measured in turn. Nothing fails for being slow.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

var parts = []string{"start", "bpf", "add", "api", "burst", "pools", "wide", "scale", "carve", "path", "many"}

type options struct {
	only   []string
	adds   int
	pairs  int
	leases int
	starts int
	pause  time.Duration
	out    string
	labDir string
	table  table  // that serves what comes by vmac
	root   string // of the checkout
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == crrCommand {
		return connectRequestClose(ctx, args[1:])
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("network namespaces and clusters need root: use sudo")
	}
	if inSandbox() {
		return measureAlone(ctx, o)
	}
	begin := time.Now()
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	file, err := os.Create(o.out)
	if err != nil {
		return err
	}
	defer file.Close()
	r := &report{}
	r.lines = append(r.lines, os.Stdout, file)
	err = measure(ctx, o, r)
	err = errors.Join(err, r.table(os.Stderr))
	say("took %.0f s; results in %s", time.Since(begin).Seconds(), o.out)
	return err
}

// measure all parts asked for. One that fails does not keep the others from being measured.
func measure(ctx context.Context, o options, r *report) error {
	var errs []error
	part := func(name string, f func() error) {
		if !o.wants(name) || ctx.Err() != nil {
			return
		}
		say("part %s", name)
		if err := f(); err != nil {
			say("part %s: %v", name, err)
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	part("start", func() error { return measureStart(ctx, o, r) })
	part("bpf", func() error { return measurePrograms(ctx, o, r) })
	if o.wants("add") || o.wants("api") || o.wants("burst") || o.wants("pools") || o.wants("wide") || o.wants("scale") {
		if err := inOwnNamespaces(ctx, o, r); err != nil {
			errs = append(errs, err)
		}
	}
	part("carve", func() error { return measureCarve(ctx, o, r) })
	part("path", func() error { return measurePath(ctx, o, r) })
	part("many", func() error { return measureMany(ctx, o, r) })
	return errors.Join(append(errs, ctx.Err())...)
}

func parse(args []string) (options, error) {
	var o options
	var only, by string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&only, "only", strings.Join(parts, ","), "parts to run")
	f.IntVar(&o.adds, "adds", 240, "ADDs and DELs of each contender")
	f.IntVar(&o.pairs, "pairs", 15, "pairs of each measurement of the path")
	f.StringVar(&by, "table", "nftables", "what serves what comes by vmac in part path: "+strings.Join(tableNames(), ", "))
	f.IntVar(&o.leases, "leases", 50000, "leases in the big pool")
	f.IntVar(&o.starts, "starts", 300, "starts of each program")
	f.DurationVar(&o.pause, "pause", 2*time.Millisecond, "between two calls, so that one does not pay for the other's aftermath")
	f.StringVar(&o.out, "o", "dist/bench.jsonl", "file for the results")
	f.StringVar(&o.labDir, "lab-dir", ".lab", "where the lab keeps its parts")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.only = strings.Split(only, ",")
	for _, p := range o.only {
		if !slices.Contains(parts, p) {
			return o, fmt.Errorf("-only: no part %q; there are %s", p, strings.Join(parts, ", "))
		}
	}
	i := slices.Index(tableNames(), by)
	if i < 0 {
		return o, fmt.Errorf("-table: no table %q; there are %s", by, strings.Join(tableNames(), ", "))
	}
	o.table = tables[i]
	if o.adds < 1 || o.pairs < 1 || o.starts < 1 {
		return o, errors.New("-adds, -pairs and -starts must be at least 1")
	}
	root, err := checkout()
	if err != nil {
		return o, err
	}
	o.root = root
	for _, p := range []*string{&o.out, &o.labDir} {
		if !filepath.IsAbs(*p) {
			*p = filepath.Join(root, *p)
		}
	}
	return o, nil
}

func (o options) wants(part string) bool { return slices.Contains(o.only, part) }
