package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// checkout is the root of the source that the working directory is in.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "tests", "bench", "noop", "main.go")); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("not in a checkout of Berth: run this inside one")
}

// binaries are built for the run, from the source as it is, each as the product's are.
type binaries struct {
	dir string
}

// build packages of the checkout, named from its root.
func build(ctx context.Context, o options, packages ...string) (*binaries, error) {
	dir, err := os.MkdirTemp("", "berth-bench-")
	if err != nil {
		return nil, err
	}
	b := &binaries{dir}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", dir + "/"}, packages...)...)
	cmd.Dir, cmd.Stderr = o.root, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := cmd.Run(); err != nil {
		b.remove()
		return nil, fmt.Errorf("build %v: %w", packages, err)
	}
	return b, nil
}

func (b *binaries) path(name string) string { return filepath.Join(b.dir, name) }

func (b *binaries) remove() { os.RemoveAll(b.dir) }
