package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// The agent makes links, routes, an nftables table and programs. So that it makes none in the machine's own network, everything
// that needs but an API server runs in a network namespace of its own, in which that, etcd, the agent and this program meet on
// loopback. The mounts are private, too. Nothing of it is left when the last process ends.
const sandboxVariable = "BERTH_BENCH_SANDBOX"

func inSandbox() bool { return os.Getenv(sandboxVariable) != "" }

// inOwnNamespaces runs measureAlone in a child, and reports its results.
func inOwnNamespaces(ctx context.Context, o options, r *report) error {
	var only []string
	for _, p := range []string{"add", "api", "burst", "pools", "wide", "scale"} {
		if o.wants(p) {
			only = append(only, p)
		}
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-only", strings.Join(only, ","), "-adds", fmt.Sprint(o.adds),
		"-leases", fmt.Sprint(o.leases), "-pause", o.pause.String(), "-lab-dir", o.labDir)
	cmd.Env = append(os.Environ(), sandboxVariable+"=1")
	cmd.Dir, cmd.Stderr = o.root, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // lets it tear down
	cmd.WaitDelay = time.Minute
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start in namespaces of its own: %w", err)
	}
	var errs []error
	for d := json.NewDecoder(out); ; {
		var res Result
		err := d.Decode(&res)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("results of %v: %w", only, err))
			_, _ = io.Copy(io.Discard, out)
			break
		}
		errs = append(errs, r.add(res))
	}
	if err := cmd.Wait(); err != nil {
		errs = append(errs, fmt.Errorf("%s: %w", strings.Join(only, ", "), err))
	}
	return errors.Join(errs...)
}

// measureAlone is what runs there: a node without kubelet, and its agent.
func measureAlone(ctx context.Context, o options) (err error) {
	r := &report{lines: []io.Writer{os.Stdout}}
	n, err := newNode(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if o.wants("add") {
		say("part add")
		if err := measureAdd(ctx, o, n, r); err != nil {
			return err
		}
		if err := measureBurst(ctx, n, r); err != nil {
			return err
		}
	}
	if o.wants("api") {
		say("part api")
		if err := measureRequests(ctx, n, r); err != nil {
			return err
		}
	}
	if o.wants("burst") {
		say("part burst")
		if err := measureFleet(ctx, n, r); err != nil {
			return err
		}
	}
	if o.wants("pools") {
		say("part pools")
		if err := measurePools(ctx, o, n, r); err != nil {
			return err
		}
	}
	if o.wants("wide") {
		say("part wide")
		if err := measureWide(ctx, n, r); err != nil {
			return err
		}
	}
	if o.wants("scale") {
		say("part scale")
		return measureScale(ctx, n, r)
	}
	return nil
}
