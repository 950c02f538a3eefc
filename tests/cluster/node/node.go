// Package node makes a Kubernetes node out of namespaces: a network, mount,
// process and host-name namespace in which containerd, kubelet and kube-proxy
// run, and find everything where a machine of its own would have it.
package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berthdev/berth/tests/cluster/pki"
	"github.com/berthdev/berth/tests/cluster/proc"
	"github.com/berthdev/berth/tests/cluster/topology"
)

// Node is a node of the lab called Lab, with its files in Dir.
type Node struct {
	topology.Node
	Lab       *topology.Topology
	Bin       string
	Dir       string
	Logs      string
	ProxyMode string
	holder    int
}

// Containers lists the ids of the node's containers and sandboxes, as
// containerd keeps them on disk, whether it runs or not.
func (n *Node) Containers() []string {
	var ids []string
	for _, d := range []string{"io.containerd.runtime.v2.task/k8s.io", "io.containerd.grpc.v1.cri/containers", "io.containerd.grpc.v1.cri/sandboxes"} {
		entries, err := os.ReadDir(filepath.Join(n.Dir, "containerd", d))
		if err != nil {
			continue // not made yet
		}
		for _, e := range entries {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Hold starts the process that holds the node's namespaces, and with them the
// node: it is the first process of the process namespace, so that all of the
// node's processes end with it, whatever became of their parents.
func (n *Node) Hold(t *proc.Table) error {
	p, err := t.Start(n.Name+" holder", filepath.Join(n.Logs, n.Name+"-holder.log"),
		[]string{"nsenter", "--net=/run/netns/" + n.Lab.Namespace(n.Name), "--", filepath.Join(n.Bin, "pause"), n.Lab.Namespace(n.Name)},
		&syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS})
	if err != nil {
		return err
	}
	n.holder = p.PID
	// nsenter turns into pause once it has joined the network namespace.
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
		if err == nil && strings.TrimSpace(string(b)) == "pause" {
			break
		}
		if time.Now().After(deadline) || !p.Alive() {
			return fmt.Errorf("holder of %s did not start; %s says:\n%s", n.Name, p.Log, proc.Tail(p.Log, 5))
		}
	}
	for _, d := range n.directories() {
		if err := os.MkdirAll(filepath.Join(n.Dir, d), 0o755); err != nil {
			return err
		}
	}
	return n.run("sh", "-euc", n.mountScript())
}

// Attach finds the holder that Hold started earlier.
func (n *Node) Attach(t *proc.Table) error {
	p, ok := t.Lookup(n.Name + " holder")
	if !ok || !p.Alive() {
		return fmt.Errorf("node %s of lab %q does not run; start it with `lab up`", n.Name, n.Lab.Name)
	}
	n.holder = p.PID
	return nil
}

// Enter is the command prefix that runs a command on the node.
func (n *Node) Enter() []string {
	return []string{"nsenter", "-t", strconv.Itoa(n.holder), "-m", "-n", "-p", "-u", "--"}
}

// path is a path of the node as seen from the machine.
func (n *Node) path(p string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", n.holder), p)
}

func (n *Node) run(argv ...string) error {
	argv = append(n.Enter(), argv...)
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("on %s: %s: %w\n%s", n.Name, strings.Join(argv, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// StartRuntime starts containerd and waits for its socket.
func (n *Node) StartRuntime(ctx context.Context, t *proc.Table) error {
	if err := n.writeRuntimeConfig(); err != nil {
		return err
	}
	if err := n.start(t, "containerd", "containerd", "--config", filepath.Join(n.Dir, "containerd.toml")); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	p, _ := t.Lookup(n.Name + " containerd")
	for {
		if n.run("ctr", "version") == nil {
			return nil
		}
		if ctx.Err() != nil || !p.Alive() {
			return fmt.Errorf("containerd of %s is not ready; the last lines of %s:\n%s", n.Name, p.Log, proc.Tail(p.Log, 15))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// LoadAll imports image archives into the node's containerd.
func (n *Node) LoadAll(archives []string) error {
	for _, a := range archives {
		if err := n.load(a); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) load(archive string) error {
	// Opened here, for the node may see another file under that name, or none.
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	argv := append(n.Enter(), "ctr", "--namespace", "k8s.io", "images", "import", "-")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = f
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load %s into %s: %w\n%s", archive, n.Name, err, bytes.TrimSpace(out))
	}
	return nil
}

// Join makes the node's certificates and starts the kubelet and kube-proxy.
// They wait by themselves for an API server that is not there yet.
func (n *Node) Join(t *proc.Table, ca *pki.Authority) error {
	serving, err := ca.Issue(n.Name+"-kubelet", pki.Subject{
		User: n.Name, Names: []string{n.Name}, Addrs: []netip.Addr{n.Mgmt4, n.Mgmt6}})
	if err != nil {
		return err
	}
	server := n.Lab.Server()
	for file, s := range map[string]pki.Subject{
		"kubelet.kconf":    {User: "system:node:" + n.Name, Groups: []string{"system:nodes"}},
		"kube-proxy.kconf": {User: "system:kube-proxy"},
		"multus.kconf":     {User: "multus"},
	} {
		if err := ca.Kubeconfig(filepath.Join(n.Dir, file), n.Lab.Name, server, s); err != nil {
			return err
		}
	}
	if err := n.installCNI(); err != nil {
		return err
	}
	if err := n.writeKubeletConfig(ca.CertFile, serving); err != nil {
		return err
	}
	if n.ProxyMode != "none" {
		if err := n.writeProxyConfig(); err != nil {
			return err
		}
	}
	return n.StartDaemons(t)
}

// StartDaemons starts the kubelet and kube-proxy with what Join has written.
func (n *Node) StartDaemons(t *proc.Table) error {
	if err := n.start(t, "kubelet", filepath.Join(n.Bin, "kubelet"),
		"--config="+filepath.Join(n.Dir, "kubelet.yaml"),
		"--kubeconfig="+filepath.Join(n.Dir, "kubelet.kconf"),
		"--hostname-override="+n.Name,
		fmt.Sprintf("--node-ip=%s,%s", n.Mgmt4, n.Mgmt6),
		fmt.Sprintf("--node-labels=zone=%[1]s,topology.kubernetes.io/zone=%[1]s", n.Zone.Name)); err != nil {
		return err
	}
	return n.startProxy(t)
}

func (n *Node) proxyConfig() string { return filepath.Join(n.Dir, "kube-proxy.yaml") }

// startProxy starts kube-proxy, unless the node has none.
func (n *Node) startProxy(t *proc.Table) error {
	if config, err := os.Stat(n.proxyConfig()); errors.Is(err, fs.ErrNotExist) || err == nil && config.Size() == 0 {
		return nil
	}
	return n.start(t, "kube-proxy", filepath.Join(n.Bin, "kube-proxy"), "--config="+n.proxyConfig(), "--hostname-override="+n.Name)
}

// SetProxy has kube-proxy run in another mode, whose start takes away the rules of the mode before; or, with none, take all away and not
// run.
func (n *Node) SetProxy(t *proc.Table, mode string) error {
	if p, ok := t.Lookup(n.Name + " kube-proxy"); ok {
		if p.Alive() { // it is nsenter, whose end does not end what it has started in the node's process namespace
			if err := n.run("pkill", "-KILL", "-x", "kube-proxy"); err != nil {
				return err
			}
		}
		if err := t.Kill(n.Name + " kube-proxy"); err != nil {
			return err
		}
	}
	if mode == "none" {
		// Emptied, not removed: where /opt has the lab's files, the node goes on to see one that is replaced there.
		if err := os.WriteFile(n.proxyConfig(), nil, 0o644); err != nil {
			return err
		}
		return n.run(filepath.Join(n.Bin, "kube-proxy"), "--cleanup")
	}
	n.ProxyMode = mode
	if err := n.writeProxyConfig(); err != nil {
		return err
	}
	return n.startProxy(t)
}

// Kill ends the node as a loss of power does: all its processes, mounts and
// network namespaces at once; what is on its disk stays.
func (n *Node) Kill(t *proc.Table) error {
	if _, ok := t.Lookup(n.Name + " holder"); !ok {
		return fmt.Errorf("%s does not run", n.Name)
	}
	for _, daemon := range []string{"holder", "kube-proxy", "kubelet", "containerd"} { // with the first end the others
		if _, ok := t.Lookup(n.Name + " " + daemon); !ok {
			continue
		}
		if err := t.Kill(n.Name + " " + daemon); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) start(t *proc.Table, daemon string, argv ...string) error {
	_, err := t.Start(n.Name+" "+daemon, filepath.Join(n.Logs, n.Name+"-"+daemon+".log"), append(n.Enter(), argv...), nil)
	return err
}
