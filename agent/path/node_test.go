//go:build linux

package path

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/berthdev/berth/agent/proxy"
	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/service"
	"github.com/berthdev/berth/tests/netns"
	"golang.org/x/sys/unix"
)

// A node's agent is a process of its own, as in life: the goroutines of a process are in its namespace whichever thread they
// are on, and an agent can be killed. It is this test binary, started again in the node's namespace.
const agentEnv = "BERTH_PATH_TEST_AGENT"

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

type request struct {
	Op        string
	Endpoints []Endpoint
	Prefixes  Prefixes
	Addresses []netip.Addr
	Watched   map[string]Watched
	Services  []service.Service
	Tenants   Tenants
	Others    []OtherNode
}

type response struct {
	Apart    map[string]uint64
	Err      string
	Steered  []netip.Prefix
	Counters map[string]map[string]uint64
	Sighted  []Sighting
	Found    []report.Finding
	Source   Source
	Took     time.Duration
}

func agentMain(config string) error {
	var cfg Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p := New(cfg, log)
	seen := make(chan Sighting, 1000)
	p.OnSighting(func(s Sighting) { seen <- s })
	serving := proxy.New(log)
	p.OnLinks(serving.SetLinks)
	running := sync.WaitGroup{}
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for {
		var req request
		if err := in.Decode(&req); err != nil {
			cancel()
			running.Wait()
			return p.Close()
		}
		var res response
		var err error
		start := time.Now()
		switch req.Op {
		case "prefixes":
			p.SetPrefixes(req.Prefixes)
		case "multihomed":
			p.SetMultihomed(req.Addresses)
			_, err = p.turn(false)
		case "others":
			p.SetOthers(req.Others)
			_, err = p.turn(false)
		case "tenants":
			p.SetTenants(req.Tenants)
			_, err = p.turn(false)
		case "kept apart":
			res.Apart, err = p.KeptApart()
		case "run":
			running.Go(func() {
				if err := p.Run(ctx); err != nil {
					log.Error("run", "err", err)
				}
			})
		case "attach":
			err = p.Attach(ctx, req.Endpoints...)
		case "attach each":
			var all sync.WaitGroup
			errs := make([]error, len(req.Endpoints))
			for i, ep := range req.Endpoints {
				all.Go(func() { errs[i] = p.Attach(ctx, ep) })
			}
			all.Wait()
			err = errors.Join(errs...)
		case "detach":
			err = p.Detach(ctx, req.Endpoints...)
		case "sync":
			err = p.Sync(ctx, req.Endpoints)
		case "mend":
			_, err = p.turn(true)
		case "steered":
			res.Steered = p.Steered()
		case "watch":
			p.SetWatched(req.Watched)
			_, err = p.turn(false)
		case "sighted": // since the last time
			for len(seen) > 0 {
				res.Sighted = append(res.Sighted, <-seen)
			}
		case "serve":
			if err = serving.SetServiceCIDRs(req.Prefixes.Services); err == nil {
				err = serving.Sync(req.Services)
			}
			running.Go(func() { _ = serving.Run(ctx) })
		case "service":
			for _, s := range req.Services {
				err = errors.Join(err, serving.Set(s))
			}
		case "examine":
			res.Found, err = Examine(cfg, p.Wanted())
		case "examine alone":
			res.Found, err = Examine(cfg, nil)
		case "seen as":
			res.Source, err = SeenAs(cfg, p.Wanted(), req.Addresses[0], req.Addresses[1], true)
		case "sightings":
			res.Counters, err = p.Sightings()
		case "counters":
			res.Counters, err = p.Counters()
		case "cleanup":
			err = Cleanup(cfg, log)
		default:
			err = fmt.Errorf("no operation %q", req.Op)
		}
		res.Took = time.Since(start)
		if err != nil {
			res.Err = err.Error()
		}
		if err := out.Encode(res); err != nil {
			return err
		}
	}
}

// agent is a running one.
type agent struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   *json.Encoder
	stop func() error
	out  *json.Decoder
	log  *lockedBuffer
}

func startAgent(t testing.TB, ns *netns.NS, cfg Config) *agent {
	t.Helper()
	config, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, cmd: exec.Command("/proc/self/exe", "-test.run=^$"), log: &lockedBuffer{}}
	a.cmd.Env = append(os.Environ(), agentEnv+"="+string(config))
	a.cmd.Stderr = a.log
	stdin, err := a.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.in, a.out, a.stop = json.NewEncoder(stdin), json.NewDecoder(stdout), stdin.Close
	ns.Do(func() { err = a.cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.kill()
		if t.Failed() {
			t.Logf("agent %s:\n%s", cfg.NodeName, a.log)
		}
	})
	return a
}

// kill ends the agent as the kernel's out-of-memory killer would.
func (a *agent) kill() {
	_ = a.cmd.Process.Kill() // it may be dead already
	_ = a.cmd.Wait()
}

// quit ends it as a rolling update would.
func (a *agent) quit() {
	a.t.Helper()
	if err := errors.Join(a.stop(), a.cmd.Wait()); err != nil {
		a.t.Errorf("agent: %v", err)
	}
}

func (a *agent) call(req request) (response, error) {
	a.t.Helper()
	if err := a.in.Encode(req); err != nil {
		a.t.Fatalf("agent: %v\n%s", err, a.log)
	}
	var res response
	if err := a.out.Decode(&res); err != nil {
		a.t.Fatalf("agent: %v\n%s", err, a.log)
	}
	if res.Err != "" {
		return res, errors.New(res.Err)
	}
	return res, nil
}

func (a *agent) must(op string, eps ...Endpoint) response {
	a.t.Helper()
	res, err := a.call(request{Op: op, Endpoints: eps})
	if err != nil {
		a.t.Fatalf("%s: %v", op, err)
	}
	return res
}

func (a *agent) prefixes(p Prefixes) {
	a.t.Helper()
	if _, err := a.call(request{Op: "prefixes", Prefixes: p}); err != nil {
		a.t.Fatal(err)
	}
}

// bpffs is a file system for pins that nothing else uses.
func bpffs(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpffs (are you root?): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
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

// cleanup removes all of Berth's from the node, and ends the agent.
func (a *agent) cleanup() error {
	_, err := a.call(request{Op: "cleanup"})
	a.kill()
	return err
}
