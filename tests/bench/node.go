package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

const (
	nodeName = "bench-node"
	netnsDir = "/run/netns" // of the pods, where the agent looks for them
)

// node is what a node is to a CNI plugin: the agent, a parent link, and pods with their namespaces; no kubelet, so that nothing
// else asks anything of the API server.
type node struct {
	*control
	*binaries
	agentID    *identity
	agent      *exec.Cmd
	stub       io.Closer
	pods       []pod
	generation int                  // of pods
	contenders map[string]contender // by name
}

func newNode(ctx context.Context, o options) (n *node, err error) {
	n = &node{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	if n.binaries, err = build(ctx, o, "./cmd/berth", "./cmd/berth-agent", "./tests/bench/noop"); err != nil {
		return n, err
	}
	for dir, fs := range map[string]string{n.path("bpf"): "bpf", netnsDir: "tmpfs"} { // which are this program's alone, see sandbox.go
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return n, err
		}
		if err := unix.Mount(fs, dir, fs, 0, ""); err != nil {
			return n, fmt.Errorf("mount a %s on %s: %w", fs, dir, err)
		}
	}
	if err := makeParent(); err != nil {
		return n, err
	}
	l, err := newLab(ctx, o, n.binaries)
	if err != nil {
		return n, err
	}
	if n.control, err = newControl(ctx, l); err != nil {
		return n, err
	}
	if err := n.makeObjects(ctx); err != nil {
		return n, err
	}
	if n.agentID, err = n.agentIdentity(ctx, n.dir); err != nil {
		return n, err
	}
	if err := n.makePods(); err != nil {
		return n, err
	}
	if err := n.makeContenders(); err != nil {
		return n, err
	}
	n.agent, err = n.runAgent(ctx, nodeName, n.socket())
	return n, err
}

func (n *node) socket() string { return n.path("agent.sock") }

func (n *node) close() error {
	var errs []error
	if n.stub != nil {
		errs = append(errs, n.stub.Close())
	}
	if n.agent != nil {
		errs = append(errs, stopAgent(n.agent))
	}
	if n.control != nil {
		errs = append(errs, n.control.close())
	}
	if n.binaries != nil {
		for _, p := range n.pods {
			_ = unix.Unmount(p.netns, unix.MNT_DETACH)
		}
		_ = unix.Unmount(n.path("bpf"), unix.MNT_DETACH)
		n.remove()
	}
	return errors.Join(errs...)
}

// berthConfig of a network whose main plugin has made the interface. Only with macvlan has the agent a service path to keep.
func berthConfig(mainPlugin, socket string) string {
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "bench-%s", "type": %q, "master": %q, "mode": "bridge",
		"ipam": {"type": "berth", "socket": %q}}`, mainPlugin, mainPlugin, parentLink, socket)
}
