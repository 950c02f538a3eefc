//go:build linux

package trace

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/agent/proxy"
	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/agent/state"
	"github.com/berthdev/berth/bpf/sock"
	"github.com/berthdev/berth/service"
	"github.com/berthdev/berth/tests/netns"
)

// node is a namespace with a parent, eth0, and a macvlan pod on it, whose path and Services are the real ones.
type node struct {
	*testing.T
	host, pod *netns.NS
	cfg       Config
	path      *path.Path
	proxy     *proxy.Proxy
	state     *state.State
}

const script = `ip link add eth0 type veth peer name wire; ip link set eth0 up; ip link set wire up
ip address add 10.6.0.11/16 dev eth0
ip route add default via 10.6.255.254
sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
ip address add 2001:db8:6::11/64 dev eth0 nodad
`

func newNode(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	bpffs := filepath.Join(dir, "bpf")
	must(t, errors.Join(os.Mkdir(bpffs, 0o755), unix.Mount("bpf", bpffs, "bpf", 0, "")))
	t.Cleanup(func() { _ = unix.Unmount(bpffs, unix.MNT_DETACH) })
	n := &node{T: t, host: netns.New(t), pod: netns.New(t), cfg: Config{
		Path: path.Config{NodeName: "node-1", PinDir: bpffs + "/berth", Idle: time.Minute}, Socket: dir + "/agent.sock", NetNS: dir + "/netns"}}
	must(t, errors.Join(os.Mkdir(n.cfg.NetNS, 0o755), os.Symlink(n.pod.Path(), n.cfg.NetNS+"/cni-1")))
	n.sh(n.host, script+fmt.Sprintf("ip link add net1 link eth0 address 02:00:00:00:00:01 netns /proc/%d/fd/%d type macvlan mode bridge", os.Getpid(), n.pod.FD()))
	n.sh(n.pod, `ip link set net1 up; ip address add 10.6.1.1/16 dev net1; ip route add 169.254.1.1 dev net1 scope link
ip route add 10.96.0.0/16 via 169.254.1.1; ip route add 10.6.0.11 via 169.254.1.1; ip route add 10.97.0.0/16 via 169.254.1.1; ip route add 192.0.2.0/24 via 10.6.0.12`)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	n.path, n.proxy = path.New(n.cfg.Path, log), proxy.New(log)
	n.path.OnLinks(n.proxy.SetLinks)
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	n.host.Do(func() {
		n.path.SetPrefixes(path.Prefixes{Services: cidrs, LocalPods: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}})
		must(t, n.proxy.SetServiceCIDRs(cidrs))
		must(t, n.path.Sync(t.Context(), []path.Endpoint{{Parent: "eth0", Address: netip.MustParseAddr("10.6.1.1"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}))
	})
	t.Cleanup(func() {
		n.host.Do(func() { must(t, errors.Join(n.path.Close(), path.Cleanup(n.cfg.Path, log))) })
	})
	n.state = &state.State{Node: "node-1", Ready: true, Interfaces: []state.Interface{{Namespace: "shop", Pod: "web-0", Name: "net1",
		NetNS: "/var/run/netns/cni-1", Parent: "eth0", MAC: "02:00:00:00:00:01", Network: "lan", Addresses: []netip.Addr{netip.MustParseAddr("10.6.1.1")}}}}
	l, err := net.Listen("unix", n.cfg.Socket)
	must(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n.state.Path != nil {
			n.state.Path = n.path.Wanted()
		}
		_ = json.NewEncoder(w).Encode(n.state)
	})}
	n.state.Path = n.path.Wanted()
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (n *node) sh(ns *netns.NS, script string) {
	n.Helper()
	ns.Do(func() {
		if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
			n.Fatalf("%s: %v: %s", script, err, out)
		}
	})
}

func frontend(s string, p service.Protocol) service.Frontend {
	a := netip.MustParseAddrPort(s)
	return service.Frontend{Address: a.Addr(), Port: a.Port(), Protocol: p}
}

// trace says the steps as "name state: first line", and the end.
func (n *node) trace(pod, to string, endpoints ...netip.AddrPort) (steps []string, t report.Trace) {
	n.Helper()
	n.host.Do(func() {
		all, err := Follow(n.Context(), n.cfg, Request{Namespace: "shop", Pod: pod, To: []service.Frontend{frontend(to, service.TCP)}, Endpoints: endpoints})
		must(n.T, err)
		t = all[0]
	})
	for _, s := range t.Steps {
		steps = append(steps, fmt.Sprintf("%s %s: %s", s.Name, s.State, s.Says[0]))
	}
	return steps, t
}

func TestFollow(t *testing.T) {
	web := service.Service{Name: "shop/web", Ports: []service.Port{
		{Frontends: []service.Frontend{frontend("10.96.0.10:80", service.TCP)}, Backends: []service.Backend{
			{Address: netip.MustParseAddr("10.244.1.7"), Port: 8080}, {Address: netip.MustParseAddr("10.6.0.12"), Port: 8080}}, Affinity: time.Hour},
		{Frontends: []service.Frontend{frontend("10.96.0.10:81", service.TCP)}},
	}}
	serving := func(n *node) { n.host.Do(func() { must(n.T, n.proxy.Sync([]service.Service{web})) }) }
	pass := []string{"interfaces passes: net1: 10.6.1.1", "socket skipped: fast mode is off", "route passes: by net1 via 169.254.1.1 from 10.6.1.1", "vmac passes: V lets it pass (steered_ipv4)"}
	for _, tt := range []struct {
		name, to string
		set      func(*node)
		want     []string // beginnings of the steps
		ends     string   // beginning
		says     []string // somewhere
	}{
		{"own table", "10.96.0.10:80", serving, append(pass[:4:4], "node passes: table inet berth-services translates to one of 2: 10.6.0.12:8080, 10.244.1.7:8080",
			"source ends: 10.6.0.12 sees 10.6.0.11, this node"), "by this node to one of 10.6.0.12:8080", []string{
			"10.244.1.7 sees the pod's own 10.6.1.1: an overlay pod of this node", "again for 1h0m0s", "steered prefix 10.96.0.0/16, of class service"}},
		{"no backend", "10.96.0.10:81", serving, append(pass[:4:4], "node ends: table inet berth-services translates: no backend"), "refused", nil},
		{"no such port", "10.96.0.10:82", serving, append(pass[:4:4], "node ends: table inet berth-services knows the address"), "refused", nil},
		{"no such Service", "10.96.0.11:80", serving, append(pass[:4:4], "node ends: table inet berth-services has no Service"), "dropped", nil},
		{"nobody translates", "10.96.0.10:80", func(*node) {}, append(pass[:4:4], "node ends: there are neither"), "lost: nobody", nil},
		{"the node itself", "10.6.0.11:22", func(*node) {}, append(pass[:4:4], "node passes: no Service", "source ends: 10.6.0.11 sees the pod's own 10.6.1.1"), "by this node to 10.6.0.11:22", nil},
		{"kube-proxy", "10.96.0.10:80", func(n *node) { n.sh(n.host, "nft add table ip kube-proxy; nft add chain ip kube-proxy services") },
			append(pass[:4:4], "node passes: kube-proxy in nftables mode translates", "source ends: 10.244.1.8 sees the pod's own"), "by this node to 10.244.1.8:90", []string{"by the API: 10.244.1.8:90"}},
		{"not steered for the pod", "192.0.2.1:80", serving, append(pass[:2:2], "route ends: by net1 via 10.6.0.12"), "past this node's vmac", nil},
		{"no route", "203.0.113.1:80", serving, append(pass[:2:2], "route ends: the pod has no route"), "the pod has no route", nil},
		{"not steered any more", "10.97.0.1:80", serving, append(pass[:3:3], "vmac ends: 10.97.0.1 is in no steered prefix, so it is dropped and counted as drop_not_steered"), "lost at the vmac", nil},
		{"another MAC", "10.96.0.10:80", func(n *node) { n.sh(n.pod, "ip link set net1 address 02:00:00:00:00:09") },
			append(pass[:3:3], "vmac ends: 10.6.1.1 is that of MAC 02:00:00:00:00:01, and the pod has 02:00:00:00:00:09"), "lost at the vmac", []string{"drop_spoofed_mac"}},
		{"vmac down", "10.96.0.10:80", func(*node) {}, append(pass[:3:3], "vmac ends: V is down"), "lost at the vmac", nil},
		{"table flushed", "10.96.0.10:80", func(n *node) { serving(n); n.sh(n.host, "nft flush table inet berth") },
			append(pass[:4:4], "node passes", "source ends: 10.6.0.12: not known: table inet berth is not as the agent wants it"), "by this node", nil},
		{"namespace not known", "10.96.0.10:80", func(n *node) { serving(n); n.state.Interfaces[0].NetNS = "" },
			append(pass[:2:2], "route unknown: the pod's network namespace is not known", "vmac passes", "node passes", "source ends"), "by this node", nil},
		{"vmac cannot be read", "10.96.0.10:80", func(n *node) { must(n.T, os.RemoveAll(n.cfg.Path.PinDir)) },
			append(pass[:3:3], "vmac unknown", "node ends: there are neither"), "lost: nobody", nil},
		{"MAC not known", "10.96.0.10:80", func(n *node) { n.state.Interfaces[0].NetNS, n.state.Interfaces[0].MAC = "", "" },
			append(pass[:2:2], "route unknown", "vmac unknown: the MAC of net1 is not known", "node ends: there are neither"), "lost: nobody", nil},
		{"another pod", "10.96.0.10:80", func(n *node) { n.state.Interfaces = nil }, []string{"interfaces ends: the pod has no interface"}, "Berth has nothing", nil},
		{"without service path", "10.96.0.10:80", func(n *node) { n.state.Path = nil }, []string{"interfaces ends: net1"}, "not by Berth", nil},
		{"IPv6", "[2001:db8:96::10]:80", func(*node) {}, append(pass[:2:2], "route ends"), "the pod has no route", []string{"none has an IPv6 address"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			vmac := n.path.Wanted().Links[0]
			tt.set(&node{T: t, host: n.host, pod: n.pod, cfg: n.cfg, path: n.path, proxy: n.proxy, state: n.state})
			if tt.name == "vmac down" {
				n.sh(n.host, "ip link set "+vmac+" down")
			}
			got, tr := n.trace("web-0", tt.to, netip.MustParseAddrPort("10.244.1.8:90"), netip.MustParseAddrPort("[2001:db8::1]:90"))
			same := len(got) == len(tt.want)
			for i := range min(len(got), len(tt.want)) {
				same = same && strings.HasPrefix(got[i], strings.ReplaceAll(tt.want[i], "V", vmac))
			}
			if !same || !strings.HasPrefix(tr.Ends, tt.ends) {
				t.Errorf("got  %q, %q\nwant %q, %q", got, tr.Ends, tt.want, tt.ends)
			}
			for _, part := range tt.says {
				if !strings.Contains(fmt.Sprint(tr), part) {
					t.Errorf("%+v does not say %q", tr, part)
				}
			}
		})
	}
}

func TestNoAgent(t *testing.T) {
	if _, err := Follow(t.Context(), Config{Socket: t.TempDir() + "/none"}, Request{}); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
}

// TestAnswered: what fast mode says, by answers as bpf/sock gives them.
func TestAnswered(t *testing.T) {
	native := sock.Choice{Backend: netip.MustParseAddrPort("10.6.1.2:80"), Native: true}
	overlay := sock.Choice{Backend: netip.MustParseAddrPort("10.244.1.7:80")}
	all := sock.Answer{Pod: true, Service: true}
	with := func(set func(*sock.Answer)) sock.Answer { a := all; set(&a); return a }
	for _, tt := range []struct {
		name  string
		a     sock.Answer
		state report.State
		says  string
		on    bool
	}{
		{"no pod", sock.Answer{}, report.Skipped, "not for this pod", true},
		{"no Service", sock.Answer{Pod: true}, report.Skipped, "no Service at this address", true},
		{"steered", with(func(a *sock.Answer) { a.Steered = true }), report.Skipped, "left to the node", true},
		{"refused", all, report.Ends, "no backend", false},
		{"native", with(func(a *sock.Answer) { a.Backends = []sock.Choice{native} }), report.Ends, "directly, past the node: [10.6.1.2:80]", false},
		{"mixed", with(func(a *sock.Answer) { a.Backends = []sock.Choice{native, overlay} }), report.Passes, "left to the node, which chooses again: [10.244.1.7:80]", true},
		{"mixed, kept at the native one", with(func(a *sock.Answer) {
			a.Backends, a.Affinity, a.Kept = []sock.Choice{native, overlay}, time.Hour, &sock.Kept{Backend: native.Backend, For: time.Minute}
		}), report.Ends, "by ClientIP affinity, for 1m0s more: 10.6.1.2:80", false},
		{"mixed, kept at the node", with(func(a *sock.Answer) {
			a.Backends, a.Affinity, a.Kept = []sock.Choice{native, overlay}, time.Hour, &sock.Kept{For: time.Minute}
		}), report.Passes, "for 1m0s more: left to the node", true},
		{"native by now, kept at the node", with(func(a *sock.Answer) {
			a.Backends, a.Affinity, a.Kept = []sock.Choice{native}, time.Hour, &sock.Kept{For: time.Minute}
		}), report.Passes, "for 1m0s more: left to the node", true},
	} {
		w := &walk{}
		on := w.answered(tt.a)
		if got := w.Steps[0]; on != tt.on || got.State != tt.state || !strings.Contains(strings.Join(got.Says, "; "), tt.says) {
			t.Errorf("%s: %v, %+v", tt.name, on, got)
		}
	}
}
