package delegate_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/delegate"
)

// BenchmarkStart compares the plugin with a Go program that does nothing, which is the least a plugin in Go may cost.
// Compare them by -count=10 or so; what remains of the difference is what the kubelet waits for.
func BenchmarkStart(b *testing.B) {
	agent := newAgent(b, func(string, delegate.Request) (int, string) { return 200, addResult })
	benchmarks := []struct {
		name, path, command string
	}{
		{"empty", buildEmpty(b), ""},
		{"VERSION", buildBerth(b), "VERSION"},
		{"ADD", buildBerth(b), "ADD"},
	}
	conf := config("1.0.0", agent.socket)
	for _, bm := range benchmarks {
		b.Run(bm.name, func(b *testing.B) {
			for b.Loop() {
				cmd := exec.Command(bm.path)
				cmd.Env = []string{"CNI_COMMAND=" + bm.command, "CNI_CONTAINERID=c1", "CNI_NETNS=/proc/self/ns/net", "CNI_IFNAME=lo",
					"CNI_PATH=/opt/cni/bin", "CNI_NETNS_OVERRIDE=1"}
				cmd.Stdin = strings.NewReader(conf)
				var out bytes.Buffer
				cmd.Stdout = &out
				if err := cmd.Run(); err != nil {
					b.Fatalf("%v: %s", err, &out)
				}
			}
		})
	}
}

func buildEmpty(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module empty\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return build(t, dir, "empty")
}
