package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// labName tells the clusters of this program from others on the machine.
const labName = "bench"

// lab runs the command of tests/cluster.
type lab struct {
	o   options
	bin string
}

func newLab(ctx context.Context, o options, b *binaries) (*lab, error) {
	l := &lab{o, b.path("lab")}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", l.bin, "./cmd/lab")
	cmd.Dir, cmd.Stderr = filepath.Join(o.root, "tests", "cluster"), os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("build the lab: %w", err)
	}
	return l, nil
}

// run a command of the lab, named by its words, with further arguments. Its output goes to stderr, as progress.
func (l *lab) run(ctx context.Context, command string, args ...string) error {
	cmd := l.command(ctx, command, args...)
	cmd.Stdout = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("lab %s: %w", command, err)
	}
	return nil
}

// output of a command of the lab.
func (l *lab) output(ctx context.Context, command string, args ...string) (string, error) {
	out, err := l.command(ctx, command, args...).Output()
	if err != nil {
		return "", fmt.Errorf("lab %s %s: %w", command, strings.Join(args, " "), err)
	}
	return string(out), nil
}

func (l *lab) command(ctx context.Context, command string, args ...string) *exec.Cmd {
	words := append(strings.Fields(command), "--dir", l.o.labDir, "--name", labName)
	cmd := exec.CommandContext(ctx, l.bin, append(words, args...)...)
	cmd.Dir, cmd.Stderr = l.o.root, os.Stderr
	return cmd
}

// part of Kubernetes or of the CNI plugins that the lab has built.
func (l *lab) part(name string) string { return filepath.Join(l.o.labDir, "bin", name) }

// apply what Kubernetes' own client takes, with stdin.
func (l *lab) apply(ctx context.Context, kubeconfig, stdin string, args ...string) error {
	return l.kubectl(ctx, kubeconfig, stdin, append([]string{"apply", "--server-side"}, args...)...)
}

func (l *lab) kubectl(ctx context.Context, kubeconfig, stdin string, args ...string) error {
	cmd := exec.CommandContext(ctx, l.part("kubectl"), append([]string{"--kubeconfig", kubeconfig}, args...)...)
	cmd.Dir, cmd.Stdin = l.o.root, strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// control is an API server with etcd, and nothing else of Kubernetes.
type control struct {
	*lab
	kubeconfig string
	rest       *rest.Config
}

func newControl(ctx context.Context, l *lab) (*control, error) {
	if err := l.run(context.WithoutCancel(ctx), "apiserver down"); err != nil { // of a run that was killed
		return nil, err
	}
	c := &control{lab: l, kubeconfig: filepath.Join(l.o.labDir, "run", labName+"-apiserver", "kubeconfig")}
	err := l.run(ctx, "apiserver up")
	if err == nil {
		c.rest, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	c.rest.QPS = -1
	return c, nil
}

func (c *control) close() error { return c.run(context.Background(), "apiserver down") }
