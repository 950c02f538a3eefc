package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/berthdev/berth/tests/cluster/controlplane"
	"github.com/berthdev/berth/tests/cluster/fabric"
	"github.com/berthdev/berth/tests/cluster/node"
)

// Kill ends etcd, kube-apiserver or a node at once, as a loss of power does.
// What they have on disk stays.
func (l *Lab) Kill(member string) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.running(); err != nil {
		return err
	}
	if isPart(member) {
		return l.table.Kill(member)
	}
	n, err := l.node(member)
	if err != nil {
		return err
	}
	ids := n.Containers()
	return errors.Join(n.Kill(l.table), fabric.Reset(l.topo, n.Name), removeCgroups(ids))
}

// Start starts what Kill has ended, with the same disk. It waits for a node's
// container runtime, and for nothing else.
func (l *Lab) Start(ctx context.Context, member string) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.running(); err != nil {
		return err
	}
	if isPart(member) {
		return l.controlPlane().StartPart(l.table, member)
	}
	n, err := l.node(member)
	if err != nil {
		return err
	}
	if n.Attach(l.table) == nil {
		return fmt.Errorf("%s runs already", member)
	}
	if err := n.Hold(l.table); err != nil {
		return err
	}
	if err := n.StartRuntime(ctx, l.table); err != nil {
		return err
	}
	return n.StartDaemons(l.table)
}

// Proxy changes the mode of one node's kube-proxy, until `lab down`.
func (l *Lab) Proxy(name, mode string) error {
	if !slices.Contains(proxyModes, mode) {
		return fmt.Errorf("proxy mode %q: want %s", mode, strings.Join(proxyModes, ", "))
	}
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.running(); err != nil {
		return err
	}
	n, err := l.node(name)
	if err != nil {
		return err
	}
	if err := n.Attach(l.table); err != nil {
		return err
	}
	return n.SetProxy(l.table, mode)
}

func isPart(member string) bool {
	return member == controlplane.Etcd || member == controlplane.APIServer
}

func (l *Lab) node(name string) (*node.Node, error) {
	nodes := l.nodes()
	i := slices.IndexFunc(nodes, func(n *node.Node) bool { return n.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("no %q in the lab; there are node-a, node-b, %s and %s", name, controlplane.Etcd, controlplane.APIServer)
	}
	return nodes[i], nil
}
