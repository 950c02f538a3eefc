package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// lab runs commands on the machine, in the cluster and on its nodes.
type lab struct {
	name, dir string
	env       []string // with KUBECONFIG and PATH
}

// command of bin/lab. Its flags come after the verb.
func (l *lab) command(args ...string) []string {
	c := []string{"bin/lab", args[0]}
	if l.name != "" {
		c = append(c, "--name", l.name)
	}
	if l.dir != "" {
		c = append(c, "--dir", l.dir)
	}
	return append(c, args[1:]...)
}

func (l *lab) line(args ...string) string { return strings.Join(l.command(args...), " ") }

// run a command of bin/lab, shown.
func (l *lab) run(ctx context.Context, args ...string) error {
	return l.show(ctx, l.command(args...)...)
}

// kubectl, shown; args have no spaces in them.
func (l *lab) kubectl(ctx context.Context, args string) error {
	return l.show(ctx, append([]string{"kubectl"}, strings.Fields(args)...)...)
}

// show a command and what it says.
func (l *lab) show(ctx context.Context, argv ...string) error {
	typed(argv)
	cmd := exec.CommandContext(ctx, "/usr/bin/env", argv...) // env finds argv[0] in the PATH of l.env
	cmd.Env, cmd.Stdout, cmd.Stderr = l.env, indented{os.Stdout}, indented{os.Stderr}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	return nil
}

// output of a command that is not shown.
func (l *lab) output(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/env", argv...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = l.env, &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(append(out.Bytes(), errs.Bytes()...)))
	}
	return out.String(), nil
}

func (l *lab) onNode(ctx context.Context, node string, argv ...string) (string, error) {
	return l.output(ctx, l.command(append([]string{"exec", node, "--"}, argv...)...)...)
}

func (l *lab) inPod(ctx context.Context, pod string, argv ...string) (string, error) {
	return l.output(ctx, append([]string{"kubectl", "-n", namespace, "exec", pod, "--"}, argv...)...)
}

// readEnv takes over what bin/lab env says: lines of "export KEY=VALUE".
func (l *lab) readEnv(ctx context.Context) error {
	out, err := l.output(ctx, l.command("env")...)
	if err != nil {
		return err
	}
	l.env = os.Environ()
	for line := range strings.Lines(out) {
		l.env = append(l.env, os.ExpandEnv(strings.TrimSpace(strings.TrimPrefix(line, "export "))))
	}
	return nil
}

// value of a variable in env.
func (l *lab) value(key string) (v string) {
	for _, e := range l.env {
		if s, ok := strings.CutPrefix(e, key+"="); ok {
			v = s
		}
	}
	return v
}

// hints are lines for the user to type.
func (l *lab) hints(lines ...string) string {
	out := fmt.Sprintf("  export KUBECONFIG=%s PATH=%s\n", l.value("KUBECONFIG"), strings.Replace(l.value("PATH"), os.Getenv("PATH"), "$PATH", 1))
	for _, line := range lines {
		out += "  " + line + "\n"
	}
	return out
}

// eventually gives f some time to come true; what it says last counts.
func eventually(ctx context.Context, timeout time.Duration, f func() error) error {
	for end := time.Now().Add(timeout); ; time.Sleep(300 * time.Millisecond) {
		err := f()
		if err == nil || ctx.Err() != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s later still: %w", timeout, err)
		}
	}
}
