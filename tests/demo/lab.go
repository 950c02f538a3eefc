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
	env       string // what bin/lab env says; set as soon as there is a cluster
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

// run a command of bin/lab, shown.
func (l *lab) run(ctx context.Context, args ...string) error {
	return show(ctx, strings.Join(l.command(args...), " "))
}

// onNode runs a command on a node.
func (l *lab) onNode(ctx context.Context, node string, argv ...string) (string, error) {
	return output(ctx, l.command(append([]string{"exec", node, "--"}, argv...)...))
}

// inPod runs a shell script in a pod of the application.
func inPod(ctx context.Context, pod, script string) (string, error) {
	return output(ctx, []string{"kubectl", "-n", namespace, "exec", pod, "--", "sh", "-c", script})
}

// kubectl, shown.
func kubectl(ctx context.Context, lines ...string) error {
	for _, args := range lines {
		if err := show(ctx, "kubectl "+args); err != nil {
			return err
		}
	}
	return nil
}

// show a command line and what it says.
func show(ctx context.Context, line string) error {
	typed(line)
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	out := &indented{w: os.Stdout}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	return nil
}

// output of a command that is not shown.
func output(ctx context.Context, argv []string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s\nfrom: %s", err, bytes.TrimSpace(errs.Bytes()), strings.Join(argv, " "))
	}
	return out.String(), nil
}

// enter sets the environment as bin/lab env says: in lines of "export KEY=VALUE".
func (l *lab) enter(ctx context.Context) error {
	out, err := output(ctx, l.command("env"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "export ")), "=")
		if err := os.Setenv(key, os.ExpandEnv(value)); err != nil {
			return err
		}
	}
	l.env = out
	return nil
}

// hints for the user to type.
func (l *lab) hints(lines ...string) {
	say("%s%s", l.env, strings.Join(lines, "\n"))
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
