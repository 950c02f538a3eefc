package delegate_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthdev/berth/delegate"
)

// binaries is where build puts what it builds, once for all tests of a run.
var binaries string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "berth-delegate-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var buildMu sync.Mutex

// build compiles one package, static, and returns the path of the binary. Module is the directory of its go.mod.
func build(t testing.TB, module, pkg string) string {
	t.Helper()
	buildMu.Lock()
	defer buildMu.Unlock()
	out := filepath.Join(binaries, filepath.Base(pkg))
	if _, err := os.Stat(out); err == nil {
		return out
	}
	cmd := exec.Command("go", "build", "-C", module, "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, msg)
	}
	return out
}

func buildBerth(t testing.TB) string { return build(t, "..", "github.com/berthdev/berth/cmd/berth") }

// agent is a berth-agent that answers what a test tells it to.
type agent struct {
	socket string

	mu    sync.Mutex
	calls []call
}

type call struct {
	path string
	delegate.Request
}

// newAgent serves on a socket of its own until the test ends. Answer gives the HTTP status and the body; a result of version 1.1.0 is
// given in the version asked for.
func newAgent(t testing.TB, answer func(path string, req delegate.Request) (int, string)) *agent {
	return newRawAgent(t, func(path string, req delegate.Request) (int, string) {
		status, body := answer(path, req)
		if path != delegate.PathAdd || status != 200 {
			return status, body
		}
		r, err := types100.NewResult([]byte(body))
		if err != nil {
			t.Errorf("the fake agent's result: %v", err)
			return status, body
		}
		versioned, err := delegate.InVersionOf(req.Config, r.(*types100.Result))
		if err != nil {
			t.Errorf("the fake agent's result: %v", err)
		}
		out, err := json.Marshal(versioned)
		if err != nil {
			t.Errorf("the fake agent's result: %v", err)
		}
		return status, string(out)
	})
}

func newRawAgent(t testing.TB, answer func(path string, req delegate.Request) (int, string)) *agent {
	t.Helper()
	// Not t.TempDir, whose names may exceed the 107 bytes of a socket's path.
	dir, err := os.MkdirTemp("", "berth-agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	a := &agent{socket: filepath.Join(dir, "agent.sock")}
	listener, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req delegate.Request
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil || r.Method != http.MethodPost {
			http.Error(w, fmt.Sprint(r.Method, err), http.StatusTeapot)
			return
		}
		a.mu.Lock()
		a.calls = append(a.calls, call{r.URL.Path, req})
		a.mu.Unlock()
		status, body := answer(r.URL.Path, req)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return a
}

// last is the latest request.
func (a *agent) last(t testing.TB) call {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.calls) == 0 {
		t.Fatal("the agent was not asked")
	}
	return a.calls[len(a.calls)-1]
}

// paths of the requests so far.
func (a *agent) paths() (paths []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.calls {
		paths = append(paths, c.path)
	}
	return paths
}
