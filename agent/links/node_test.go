//go:build linux

package links

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/tests/netns"
)

// A node's agent is a process of its own, as in life: it can be killed, and its goroutines are in its namespace. It is this test binary,
// started again in the node's namespace.
const agentEnv = "BERTH_LINKS_TEST_AGENT"

func TestMain(m *testing.M) {
	if config := os.Getenv(agentEnv); config != "" {
		if err := agentMain(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// self is each node's name: HostNetworks of a test are told to one at a time.
const self = "node"

type agentConfig struct {
	File, NetNS string
	API         string // address of the API server
	DieAt       int    // before the operation of this number, counted from 1; 0: not
}

func agentMain(config string) error {
	var c agentConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	reach := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.API)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	out := json.NewEncoder(os.Stdout)
	l := New(Config{File: c.File, NetNS: c.NetNS, Reach: reach, Patience: 15 * time.Second, Steady: 2 * time.Second, Period: time.Second},
		func(states []State) { _ = out.Encode(states) }, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	n := 0
	l.step = func(op) {
		if n++; n == c.DieAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	in := json.NewDecoder(os.Stdin)
	for {
		var all []*v1alpha1.HostNetwork
		if err := in.Decode(&all); err != nil { // the end of stdin is SIGTERM
			cancel()
			return <-ended
		}
		wants, err := Wanted(all, self, labels.Set{})
		if err != nil {
			return err
		}
		l.Set(wants)
	}
}

// agent of a node, as a process.
type agent struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	log  *lockedBuffer
	done chan struct{}

	mu   sync.Mutex
	told []State
	n    int
}

func startAgent(t testing.TB, ns *netns.NS, c agentConfig) *agent {
	t.Helper()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, cmd: exec.Command("/proc/self/exe", "-test.run=^$"), log: &lockedBuffer{}, done: make(chan struct{})}
	a.cmd.Env = append(os.Environ(), agentEnv+"="+string(config))
	a.cmd.Stderr = a.log
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	ns.Do(func() { err = a.cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(a.done)
		d := json.NewDecoder(out)
		for {
			var states []State
			if d.Decode(&states) != nil {
				return
			}
			a.mu.Lock()
			a.told, a.n = states, a.n+1
			a.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		a.kill()
		if t.Failed() {
			t.Logf("agent:\n%s", a.log)
		}
	})
	return a
}

// kill ends the agent as the kernel's out-of-memory killer would.
func (a *agent) kill() {
	_ = a.cmd.Process.Kill() // it may be dead already
	a.wait()
}

func (a *agent) wait() {
	<-a.done
	_ = a.cmd.Wait() // again: an error
}

// quit ends it as a rolling update would.
func (a *agent) quit() {
	a.t.Helper()
	err := a.in.Close()
	<-a.done
	if err := errors.Join(err, a.cmd.Wait()); err != nil {
		a.t.Errorf("agent: %v", err)
	}
}

func (a *agent) set(all ...*v1alpha1.HostNetwork) {
	a.t.Helper()
	if all == nil {
		all = []*v1alpha1.HostNetwork{}
	}
	if err := json.NewEncoder(a.in).Encode(all); err != nil {
		a.t.Errorf("agent: %v\n%s", err, a.log)
	}
}

// state of a HostNetwork, as last told; nil if it was not spoken of.
func (a *agent) state(name string) *State {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.told {
		if s.Name == name {
			return &s
		}
	}
	return nil
}

func (a *agent) rounds() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.n
}

// await a state of a HostNetwork, told of this version of it.
func (a *agent) await(h *v1alpha1.HostNetwork, reason, says string) {
	a.t.Helper()
	eventually(a.t, 120*time.Second, h.Name+" "+reason, func() error {
		s := a.state(h.Name)
		if s == nil || s.Spec != SpecOf(h) || s.Reason != reason || !strings.Contains(s.Message, says) {
			return fmt.Errorf("state %+v", s)
		}
		return nil
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var run, ip = netns.Run, netns.IP

// eventually waits until f succeeds.
func eventually(t testing.TB, within time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// wire is what nodes are plugged into: a switch that carries all VLANs, and the API server behind it, 10.9.0.1.
type wire struct {
	*netns.NS
	t testing.TB
}

const apiServer = "10.9.0.1:6443"

func newWire(t testing.TB) *wire {
	t.Helper()
	w := &wire{netns.New(t), t}
	// With an address of its own: else it takes the lowest of its ports', and becomes another to its neighbours when a node is plugged in.
	ip(t, w.NS, "link add br0 address 02:00:00:00:ff:01 type bridge\nlink set br0 up\naddress add 10.9.0.1/24 dev br0\naddress add 2001:db8:9::1/64 dev br0 nodad\n")
	serve(t, w.NS, apiServer)
	return w
}

// node has cards nic0 to nic2 on the wire; nic0 carries its address, 10.9.0.1N.
type node struct {
	*netns.NS
	t   testing.TB
	w   *wire
	n   int
	cfg agentConfig
}

func (w *wire) node(n int) *node {
	w.t.Helper()
	node := &node{NS: netns.New(w.t), t: w.t, w: w, n: n}
	node.cfg = agentConfig{File: filepath.Join(w.t.TempDir(), "links.json"), NetNS: w.t.TempDir(), API: apiServer}
	run(w.t, node.NS, "", "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0",
		"net.ipv4.conf.all.arp_ignore=1") // its cards share a segment, and each would answer for the others
	for i := range 3 {
		port := node.port(i)
		ip(w.t, w.NS, "link add %s type veth peer name nic%d netns %s\nlink set %s master br0 up\n", port, i, node.Path(), port)
		ip(w.t, node.NS, "link set nic%d address 02:00:00:00:%02d:%02d up\n", i, n, i)
	}
	ip(w.t, node.NS, "address add 10.9.0.1%d/24 dev nic0\naddress add 2001:db8:9::1%d/64 dev nic0 nodad\n"+
		"route add default via 10.9.0.254\nroute add 10.50.0.0/16 via 10.9.0.253 metric 77\nroute add default via 2001:db8:9::ffff\n"+
		"route add 10.60.0.0/16 dev nic0 table 100 proto 44\n", n, n)
	eventually(w.t, 10*time.Second, "IPv6 address", func() error { // which the kernel puts into service later
		local := fmt.Sprintf("local 2001:db8:9::1%d dev nic0", n)
		if got := run(w.t, node.NS, "", "ip", "-6", "route", "show", "table", "local"); !strings.Contains(got, local) {
			return fmt.Errorf("no %q in %s", local, got)
		}
		return nil
	})
	return node
}

// port of a node's card at the switch.
func (n *node) port(card int) string { return fmt.Sprintf("port%d-%d", n.n, card) }

func (n *node) start() *agent {
	n.t.Helper()
	return startAgent(n.t, n.NS, n.cfg)
}

// serve answers on a TCP address in a namespace with the name of the namespace's path.
func serve(t testing.TB, ns *netns.NS, addr string) {
	t.Helper()
	var l net.Listener
	var err error
	ns.Do(func() { l, err = net.Listen("tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
}

// reaches says whether a server can be reached from a namespace.
func reaches(ns *netns.NS, addr string) (err error) {
	ns.Do(func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", addr, 2*time.Second); err == nil {
			c.Close()
		}
	})
	return err
}

// looks waits until the node's picture is as it is wanted. Some of what the kernel does follows a moment later.
func (n *node) looks(t testing.TB, within time.Duration, what, want string) {
	t.Helper()
	eventually(t, within, what, func() error {
		if got := n.picture(); got != want {
			return fmt.Errorf("(-want +got):\n%s", cmp.Diff(want, got))
		}
		return nil
	})
}

// picture of a node's links, addresses and routes, for comparison: all but what the kernel counts, and what it makes by itself.
func (n *node) picture() string {
	n.t.Helper()
	var b strings.Builder
	links := run(n.t, n.NS, "", "ip", "-o", "-d", "link", "show")
	for line := range strings.Lines(links) {
		f := strings.Fields(line)
		b.WriteString(f[1])
		for i, word := range f {
			switch word {
			case "mtu", "link/ether", "alias", "master", "mode", "miimon", "primary", "id":
				fmt.Fprintf(&b, " %s %s", word, f[i+1])
			}
		}
		fmt.Fprintf(&b, " up=%t\n", strings.Contains(f[2], "UP") && !strings.Contains(f[2], "LOWER_UP,DOWN"))
	}
	for _, args := range [][]string{{"-o", "address", "show", "scope", "global"}, {"route", "show", "table", "all"}, {"-6", "route", "show", "table", "all"}} {
		for line := range strings.Lines(run(n.t, n.NS, "", append([]string{"ip"}, args...)...)) {
			if strings.Contains(line, "fe80::") || strings.HasPrefix(line, "multicast ff00::") || strings.Contains(line, "anycast") {
				continue
			}
			line, _, _ = strings.Cut(line, "\\")
			_, after, numbered := strings.Cut(line, ": ")
			if numbered && !strings.Contains(line, "table") {
				line = after
			}
			for _, word := range []string{" linkdown", " nodad", " pref medium"} {
				line = strings.ReplaceAll(line, word, "")
			}
			b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
		}
	}
	return b.String()
}
