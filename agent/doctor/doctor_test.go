//go:build linux

package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/agent/state"
	"github.com/berthdev/berth/tests/netns"
)

// fixture is a node without pods, where all is well.
type fixture struct {
	*testing.T
	ns    *netns.NS
	cfg   Config
	state *state.State // nil: the agent does not answer
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dir := t.TempDir()
	bpffs := filepath.Join(dir, "bpf")
	must(t, errors.Join(os.Mkdir(bpffs, 0o755), unix.Mount("bpf", bpffs, "bpf", 0, "")))
	t.Cleanup(func() { _ = unix.Unmount(bpffs, unix.MNT_DETACH) })
	f := &fixture{T: t, ns: netns.New(t), cfg: Config{
		Path: path.Config{NodeName: "node-1", PinDir: bpffs + "/berth"}, Socket: dir + "/agent.sock",
		Plugin: dir + "/plugin", CNIBinDir: dir + "/cni", NetNS: dir + "/netns",
	}}
	must(t, errors.Join(os.Mkdir(f.cfg.CNIBinDir, 0o755), os.Mkdir(f.cfg.NetNS, 0o755),
		os.WriteFile(f.cfg.Plugin, []byte("plugin"), 0o755), os.WriteFile(f.cfg.CNIBinDir+"/berth", []byte("plugin"), 0o755),
		os.WriteFile(f.cfg.NetNS+"/cni-1", nil, 0o644)))
	f.state = &state.State{Node: "node-1", Ready: true, Path: &path.Wanted{Complete: true, Prefixes: &path.Prefixes{
		Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}},
		Interfaces: []state.Interface{{Namespace: "shop", Pod: "web-0", Name: "net1", NetNS: "/var/run/netns/cni-1"}}}
	l, err := net.Listen("unix", f.cfg.Socket)
	must(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.state == nil || r.URL.Path != "/v1/state" {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(f.state)
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) examine() (found report.Findings) {
	f.Helper()
	f.ns.Do(func() { found = Examine(f.Context(), f.cfg) })
	if found.Error != "" {
		f.Error(found.Error)
	}
	return found
}

func (f *fixture) sh(script string) {
	f.Helper()
	f.ns.Do(func() {
		if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
			f.Fatalf("%s: %v: %s", script, err, out)
		}
	})
}

func TestExamine(t *testing.T) {
	pod := []path.Endpoint{{Parent: "eth9", Address: netip.MustParseAddr("10.6.1.1"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}
	for _, tt := range []struct {
		name    string
		breakIt func(*fixture)
		want    []string // beginnings of what is wrong
	}{
		{"all is well", func(*fixture) {}, nil},
		{"no answer", func(f *fixture) { f.state = nil }, []string{"fail agent: the agent answers 404 Not Found on /v1/state", "fail services: nobody"}},
		{"no agent", func(f *fixture) { f.cfg.Socket += ".none" }, []string{"fail agent: the agent does not answer", "fail services: nobody"}},
		{"not ready", func(f *fixture) { f.state.Ready = false }, []string{"fail agent: the agent is not ready"}},
		{"plugin missing", func(f *fixture) { must(t, os.Remove(f.cfg.CNIBinDir+"/berth")) }, []string{"fail plugin: " + "DIR/cni/berth is not installed"}},
		{"plugin of another image", func(f *fixture) { must(t, os.WriteFile(f.cfg.Plugin, []byte("newer"), 0o755)) }, []string{"fail plugin: DIR/cni/berth is not the plugin"}},
		{"plugin not executable", func(f *fixture) { must(t, os.Chmod(f.cfg.CNIBinDir+"/berth", 0o644)) }, []string{"fail plugin: DIR/cni/berth cannot be executed"}},
		{"nothing to install", func(f *fixture) { f.cfg.Plugin = "" }, nil},
		{"no /run/netns", func(f *fixture) { must(t, os.RemoveAll(f.cfg.NetNS)) }, []string{"fail netns: open DIR/netns"}},
		{"namespace gone", func(f *fixture) { must(t, os.Remove(f.cfg.NetNS+"/cni-1")) }, []string{"warn netns: pod shop/web-0, net1: there is no network namespace"}},
		{"namespace unknown", func(f *fixture) { f.state.Interfaces[0].NetNS = "/proc/7/ns/net" }, []string{"warn netns: pod shop/web-0, net1: its network namespace is not known"}},
		{"no bpffs", func(f *fixture) { f.cfg.Path.PinDir = f.TempDir() }, []string{"fail bpffs: programs and maps cannot be kept"}},
		{"a pod, and no parent, proxy or table", func(f *fixture) { f.state.Path.Endpoints = pod }, []string{
			`fail link: parent link "eth9"`, "fail sysctls: net.ipv4.ip_forward is 0", "fail sysctls: net.ipv4.conf.all.send_redirects is 1", "fail services: nobody translates"}},
		{"kube-proxy", func(f *fixture) {
			f.state = nil
			f.sh("nft add table ip kube-proxy; nft add chain ip kube-proxy services")
		}, []string{"fail agent"}},
		{"a table of Services that is empty", func(f *fixture) {
			f.sh("nft add table inet berth-services; nft add chain inet berth-services refuse")
		}, []string{"fail services: table inet berth-services: its base chains differ"}},
		{"without service path", func(f *fixture) { f.cfg.NoPath, f.state.Path = true, nil }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			dir := filepath.Dir(f.cfg.Socket)
			f.T = t
			tt.breakIt(f)
			var got []string
			found := f.examine()
			for _, one := range found.Findings {
				if one.Severity == report.OK || one.Check == checkFast { // which this machine may not have
					continue
				}
				got = append(got, fmt.Sprintf("%s %s: %s", one.Severity, one.Check, one.What))
				if one.Remedy == "" {
					t.Errorf("no remedy for %q", one.What)
				}
			}
			same := len(got) == len(tt.want)
			for i := range min(len(got), len(tt.want)) {
				same = same && strings.HasPrefix(got[i], strings.ReplaceAll(tt.want[i], "DIR", dir))
			}
			if !same {
				t.Errorf("got %q\nwant %q", got, tt.want)
			}
			if wrong := slices.ContainsFunc(tt.want, func(s string) bool { return strings.HasPrefix(s, "fail") }); found.Wrong() != wrong {
				t.Errorf("wrong: %v", found.Wrong())
			}
		})
	}
}

// TestTwoLooks: what is wrong at one look only is a pod that came or went.
func TestTwoLooks(t *testing.T) {
	f := newFixture(t)
	looks := 0
	f.cfg.Socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", f.cfg.Socket)
	must(t, err)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		looks++
		s := *f.state
		s.Ready = looks > 1
		_ = json.NewEncoder(w).Encode(s)
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	if found := f.examine(); found.Wrong() || looks != 2 {
		t.Errorf("%d looks: %+v", looks, found)
	}
}

// TestFast: what is wanted and is not there is told; what is turned off is no finding.
func TestFast(t *testing.T) {
	f := newFixture(t)
	if found := examineFast(f.cfg); found.Severity != report.Warn || found.Remedy == "" {
		t.Errorf("%+v", found)
	}
	f.cfg.NoFast = true
	if found := examineFast(f.cfg); found.Severity != report.OK {
		t.Errorf("%+v", found)
	}
}
