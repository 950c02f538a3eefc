// Package lab puts the parts together: a real Kubernetes of two nodes in two
// zones, with Multus, on one machine.
package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/berthdev/berth/tests/cluster/controlplane"
	"github.com/berthdev/berth/tests/cluster/manifests"
	"github.com/berthdev/berth/tests/cluster/node"
	"github.com/berthdev/berth/tests/cluster/proc"
	"github.com/berthdev/berth/tests/cluster/topology"
)

// Lab is one cluster. Several fit on a machine, told apart by Dir and Name;
// they share Dir's binaries and images.
type Lab struct {
	Dir  string // absolute
	Name string
	Say  func(format string, args ...any)

	spec  spec
	topo  *topology.Topology
	table *proc.Table
}

// spec is what a running lab must be remembered by.
type spec struct {
	Slot      int    `json:"slot"`
	ProxyMode string `json:"proxyMode"`
}

// New prepares a lab; whether it runs is not looked at yet.
func New(dir, name string, say func(string, ...any)) (*Lab, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// Checks the name.
	if _, err := topology.New(name, 0); err != nil {
		return nil, err
	}
	return &Lab{Dir: abs, Name: name, Say: say}, nil
}

func (l *Lab) bin() string      { return filepath.Join(l.Dir, "bin") }
func (l *Lab) state() string    { return filepath.Join(l.Dir, "run", l.Name) }
func (l *Lab) logs() string     { return filepath.Join(l.Dir, "logs", l.Name) }
func (l *Lab) specFile() string { return filepath.Join(l.state(), "lab.json") }

// Kubeconfig is the administrator's.
func (l *Lab) Kubeconfig() string { return filepath.Join(l.state(), "kubeconfig") }

// Env is what a shell needs to use the cluster.
func (l *Lab) Env() string {
	return fmt.Sprintf("export KUBECONFIG=%s\nexport PATH=%s:$PATH\n", l.Kubeconfig(), l.bin())
}

// lock keeps two commands from changing the same lab at once.
func (l *Lab) lock() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Join(l.Dir, "run"), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(l.Dir, "run", l.Name+".lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lab %q: another `lab up` or `lab down` is at work on it: wait for it", l.Name)
	}
	return func() { f.Close() }, nil
}

// load reads the state of a lab that runs, or did.
func (l *Lab) load() error {
	b, err := os.ReadFile(l.specFile())
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &l.spec); err != nil {
		return fmt.Errorf("%s: %w; run `lab down`", l.specFile(), err)
	}
	return l.plan()
}

func (l *Lab) plan() (err error) {
	if l.topo, err = topology.New(l.Name, l.spec.Slot); err != nil {
		return err
	}
	l.table, err = proc.Open(filepath.Join(l.state(), "processes.json"))
	return err
}

// running is load for commands that need the lab up.
func (l *Lab) running() error {
	err := l.load()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("lab %q is not up in %s; start it with `lab up`", l.Name, l.Dir)
	}
	return err
}

func (l *Lab) controlPlane() *controlplane.Config {
	return &controlplane.Config{
		Name:     l.Name,
		Bin:      l.bin(),
		Dir:      l.state(),
		Logs:     l.logs(),
		Wrap:     []string{"nsenter", "--net=/run/netns/" + l.topo.Namespace("control"), "--"},
		Address:  l.topo.API4,
		APIPort:  topology.APIPort,
		EtcdPort: 2379,
		PeerPort: 2380,
	}
}

func (l *Lab) nodes() []*node.Node {
	var out []*node.Node
	for _, n := range l.topo.Nodes {
		out = append(out, &node.Node{
			Node: n, Lab: l.topo, Bin: l.bin(), Dir: filepath.Join(l.state(), n.Name),
			Logs: l.logs(), ProxyMode: l.spec.ProxyMode,
		})
	}
	return out
}

func (l *Lab) kubectl() manifests.Kubectl {
	return manifests.Kubectl{Path: filepath.Join(l.bin(), "kubectl"), Kubeconfig: l.Kubeconfig()}
}

// Load imports image archives into all nodes.
func (l *Lab) Load(archives ...string) error {
	if err := l.running(); err != nil {
		return err
	}
	nodes := l.nodes()
	for _, n := range nodes {
		if err := n.Attach(l.table); err != nil {
			return err
		}
	}
	err := each(nodes, func(n *node.Node) error { return n.LoadAll(archives) })
	if err == nil {
		l.Say("loaded %s into every node", strings.Join(archives, ", "))
	}
	return err
}

// EnterCommand is the command prefix that runs a command on a member of the
// lab: a node by its Kubernetes name, "router" or "control".
func (l *Lab) EnterCommand(member string) ([]string, error) {
	if err := l.running(); err != nil {
		return nil, err
	}
	if member == "router" || member == "control" {
		return []string{"nsenter", "--net=/run/netns/" + l.topo.Namespace(member), "--"}, nil
	}
	for _, n := range l.nodes() {
		if n.Name != member {
			continue
		}
		if err := n.Attach(l.table); err != nil {
			return nil, err
		}
		return n.Enter(), nil
	}
	return nil, fmt.Errorf("no node %q in the lab; there are node-a, node-b, router and control", member)
}
