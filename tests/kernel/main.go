// Command kernel runs the tests of the data path on other kernels than this machine's: Debian's, in virtual machines without hardware
// help (qemu, TCG), so that it runs everywhere, slowly. What a kernel is too old for, or was built without, the tests find out for
// themselves; they are told no version.
//
//	package.go   Debian's kernel packages, unpacked, not installed     initramfs.go  what a machine's memory holds at boot
//	module.go    modules, and what they need                           init.sh       what it does then
//	program.go   test binaries, and programs that tests call           machine.go    qemu
//	result.go    what the tests said
//
// One machine runs at a time. Its tests have no network but what they make themselves.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type opts struct {
	dir      string
	kernels  []string // by the beginnings of their versions
	packages []string // folders of this repository
	run      string
	timeout  time.Duration
	verbose  bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "kernel:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var o opts
	f := flag.NewFlagSet("kernel", flag.ContinueOnError)
	f.StringVar(&o.dir, "dir", ".lab/kernel", "where kernels are kept")
	kernels := f.String("kernels", "6.1,6.12", "their versions, as Debian's packages begin")
	packages := f.String("packages", "bpf,bpf/sock,agent/guards,agent/path,agent/proxy,agent/fast,agent/doctor,agent/trace,agent/links", "folders of the tests")
	f.StringVar(&o.run, "run", "", "only tests that match, as of go test")
	f.DurationVar(&o.timeout, "timeout", 20*time.Minute, "for one package on one kernel")
	f.BoolVar(&o.verbose, "v", false, "print all that tests say")
	if err := f.Parse(args); err != nil {
		return err
	}
	o.kernels, o.packages = strings.Split(*kernels, ","), strings.Split(*packages, ",")

	work, err := os.MkdirTemp("", "berth-kernel-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	common, err := programs(ctx, o, work)
	if err != nil {
		return err
	}
	var all []result
	for _, version := range o.kernels {
		k, err := fetch(ctx, o.dir, version)
		if err != nil {
			return err
		}
		image := filepath.Join(work, "initramfs")
		if err := k.initramfs(image, common, o); err != nil {
			return fmt.Errorf("initramfs of %s: %w", k.version, err)
		}
		results, err := k.run(ctx, image, o)
		if err != nil {
			return err
		}
		all = append(all, results...)
	}
	return report(all)
}
