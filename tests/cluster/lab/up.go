package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berthdev/berth/tests/cluster/build"
	"github.com/berthdev/berth/tests/cluster/fabric"
	"github.com/berthdev/berth/tests/cluster/manifests"
	"github.com/berthdev/berth/tests/cluster/node"
	"github.com/berthdev/berth/tests/cluster/proc"
)

var proxyModes = []string{"nftables", "iptables", "none"}

// Up brings the lab up and returns when nodes and DNS are ready. No proxy mode
// means nftables, or whatever a lab that is up already has.
func (l *Lab) Up(ctx context.Context, proxyMode string) error {
	if proxyMode != "" && !slices.Contains(proxyModes, proxyMode) {
		return fmt.Errorf("proxy mode %q: want %s", proxyMode, strings.Join(proxyModes, ", "))
	}
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()

	switch err := l.load(); {
	case err == nil:
		return l.alreadyUp(ctx, proxyMode)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	start := time.Now()
	if err := l.wire(proxyMode); err != nil {
		return err
	}
	if err := l.up(ctx); err != nil {
		return fmt.Errorf("%w\n(what is up stays up to be looked at, logs are in %s; `lab down` removes it)", err, l.logs())
	}
	l.Say("lab %q is up after %.0f s: nodes node-a (zone a) and node-b (zone b)", l.Name, time.Since(start).Seconds())
	return nil
}

// wire plans the lab, so that it does not meet another, and makes its network.
func (l *Lab) wire(proxyMode string) error {
	unlock, err := fabric.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	if l.spec.Slot, err = fabric.FreeSlot(l.Name); err != nil {
		return err
	}
	l.spec.ProxyMode = cmp.Or(proxyMode, "nftables")
	if err := l.plan(); err != nil {
		return err
	}
	if fabric.Present(l.topo) {
		if !fabric.Dead(l.topo) {
			return fmt.Errorf("lab %q: its namespaces or links exist already, of a lab in another --dir: "+
				"take that down with its --dir, or use another --name", l.Name)
		}
		l.Say("network: a lab %q of another --dir has left namespaces or links without a process; they go", l.Name)
		if err := fabric.Down(l.topo); err != nil {
			return fmt.Errorf("network of the lab before: %w", err)
		}
	}
	if err := l.save(); err != nil {
		return err
	}
	l.Say("network: zones a (10.6.0.0/16, fd00:6::/64) and b (10.7.0.0/16, fd00:7::/64), management %s", l.topo.Mgmt4)
	if err := fabric.Up(l.topo); err != nil {
		return fmt.Errorf("network: %w; `lab down` removes what is there of it", err)
	}
	// Before the lock is given up: a lab without a process is dead, and another of its name may take its place.
	for _, n := range l.nodes() {
		if err := n.Hold(l.table); err != nil {
			return fmt.Errorf("%w; `lab down` removes what is there", err)
		}
	}
	return nil
}

func (l *Lab) save() error {
	if err := os.MkdirAll(l.state(), 0o755); err != nil {
		return err
	}
	b, err := json.Marshal(l.spec)
	if err != nil {
		return err
	}
	return os.WriteFile(l.specFile(), b, 0o644)
}

// alreadyUp says so, or what a lab that is not lacks.
func (l *Lab) alreadyUp(ctx context.Context, proxyMode string) error {
	if proxyMode != "" && l.spec.ProxyMode != proxyMode {
		return fmt.Errorf("lab %q is up with proxy mode %s, not %s: run `lab down` first", l.Name, l.spec.ProxyMode, proxyMode)
	}
	for _, p := range l.table.All() {
		if !p.Alive() {
			return fmt.Errorf("lab %q is half up: %s (pid %d) has ended: run `lab down`, then `lab up`; the last lines of %s:\n%s",
				l.Name, p.Name, p.PID, p.Log, proc.Tail(p.Log, 10))
		}
	}
	if len(l.table.All()) == 0 || !l.controlPlane().Healthy(ctx) {
		return fmt.Errorf("lab %q is half up: its API server does not answer: run `lab down`, then `lab up`", l.Name)
	}
	if err := l.waitReady(ctx); err != nil {
		return err
	}
	l.Say("lab %q is up already, and healthy", l.Name)
	return nil
}

func (l *Lab) up(ctx context.Context) error {
	cp := l.controlPlane()
	l.Say("certificates")
	ca, err := cp.Certificates()
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	l.Say("etcd and kube-apiserver at %s", cp.Server())
	if err := cp.StartAPI(l.table); err != nil {
		return err
	}
	nodes := l.nodes()
	for _, n := range nodes {
		l.Say("%s: namespaces and containerd, zone %s, eth0 %s", n.Name, n.Zone.Name, n.Under4)
		if err := n.Attach(l.table); err != nil {
			return err
		}
		if err := n.StartRuntime(ctx, l.table); err != nil {
			return err
		}
	}
	l.Say("images into both nodes")
	if err := each(nodes, func(n *node.Node) error { return n.LoadAll(build.Archives(l.Dir)) }); err != nil {
		return err
	}
	if err := cp.WaitReady(ctx, l.table); err != nil {
		return err
	}
	l.Say("kube-controller-manager and kube-scheduler")
	if err := cp.StartControllers(l.table); err != nil {
		return err
	}
	values := manifests.Values{Topology: l.topo, Proxy: l.spec.ProxyMode != "none"}
	if err := l.kubectl().Apply(ctx, values, "nodes"); err != nil {
		return err
	}
	for _, n := range nodes {
		l.Say("%s: kubelet, kube-proxy (%s)", n.Name, n.ProxyMode)
		if err := n.Join(l.table, ca); err != nil {
			return err
		}
	}
	l.Say("Multus and CoreDNS")
	if err := l.kubectl().Apply(ctx, values, "network-attachment-definition", "multus", "coredns"); err != nil {
		return err
	}
	return l.waitReady(ctx)
}

// waitReady waits for the nodes and for DNS.
func (l *Lab) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go l.watch(ctx, cancel)
	k := l.kubectl()
	_, err := k.Run(ctx, "", "wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("nodes not ready: %w\n%s", err, l.tails("node-a-kubelet", "node-b-kubelet", "node-a-containerd"))
	}
	l.Say("nodes are ready")
	_, err = k.Run(ctx, "", "rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=60s")
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		pods, _ := k.Run(ctx, "", "describe", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")
		return fmt.Errorf("DNS not ready: %w\n%s\n%s", err, pods, l.tails("kube-controller-manager", "node-a-kubelet", "node-b-kubelet"))
	}
	l.Say("DNS is ready")
	return nil
}

// watch ends a wait at once when a daemon has ended, and says which.
func (l *Lab) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	for {
		for _, p := range l.table.All() {
			if !p.Alive() {
				cancel(fmt.Errorf("%s has ended; the last lines of %s:\n%s", p.Name, p.Log, proc.Tail(p.Log, 15)))
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (l *Lab) tails(names ...string) string {
	var s string
	for _, n := range names {
		f := filepath.Join(l.logs(), n+".log")
		s += fmt.Sprintf("--- the last lines of %s\n%s\n", f, proc.Tail(f, 8))
	}
	return s
}

// each runs f for all nodes at once.
func each(nodes []*node.Node, f func(*node.Node) error) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = f(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
