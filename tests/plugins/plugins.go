// Package plugins builds CNI plugins and tools for tests, from this repository and from the modules that tests/cluster pins.
package plugins

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

const reference = "github.com/containernetworking/plugins/plugins/"

// known binaries: the package, and the directory of the module that pins its version.
var known = map[string][2]string{
	"berth":      {"github.com/berthdev/berth/cmd/berth", "."},
	"cnitool":    {"github.com/containernetworking/cni/cnitool", "."},
	"bridge":     {reference + "main/bridge", "tests/cluster/components/plugins"},
	"macvlan":    {reference + "main/macvlan", "tests/cluster/components/plugins"},
	"ptp":        {reference + "main/ptp", "tests/cluster/components/plugins"},
	"dhcp":       {reference + "ipam/dhcp", "tests/cluster/components/plugins"},
	"host-local": {reference + "ipam/host-local", "tests/cluster/components/plugins"},
	"static":     {reference + "ipam/static", "tests/cluster/components/plugins"},
}

var (
	mu  sync.Mutex
	dir string
)

// Build the binaries, static, once for all tests of a run, and return their directory.
func Build(t testing.TB, names ...string) string {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "berth-plugins-"); err != nil {
			t.Fatal(err)
		}
	}
	_, here, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(here), "../..")
	for _, name := range names {
		out := filepath.Join(dir, name)
		if _, err := os.Stat(out); err == nil {
			continue
		}
		what, ok := known[name]
		if !ok {
			t.Fatalf("no plugin %q is known here", name)
		}
		cmd := exec.Command("go", "build", "-C", filepath.Join(root, what[1]), "-trimpath", "-ldflags=-s -w", "-o", out, what[0])
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, msg)
		}
	}
	return dir
}

// Remove what was built; for TestMain.
func Remove() {
	mu.Lock()
	defer mu.Unlock()
	if dir != "" {
		os.RemoveAll(dir)
		dir = ""
	}
}
