package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// commandTimeout bounds a command on a node or in a pod. It is only met if something hangs.
const commandTimeout = 2 * time.Minute

// lab is the cluster that the tests run on, see tests/cluster.
type lab struct {
	name, dir string
	root      string // of the checkout
}

// node is a node of the lab.
type node string

const (
	nodeA node = "node-a" // zone a, 10.6.0.0/16, fd00:6::/64
	nodeB node = "node-b" // zone b, 10.7.0.0/16, fd00:7::/64
)

var nodes = []node{nodeA, nodeB}

// letter is the zone of the node.
func (n node) letter() string { return strings.TrimPrefix(string(n), "node-") }

func (l *lab) command(ctx context.Context, verb string, args ...string) *exec.Cmd {
	args = append([]string{verb, "--dir", l.dir, "--name", l.name}, args...)
	return exec.CommandContext(ctx, filepath.Join(l.root, "bin", "lab"), args...)
}

func (l *lab) kubeconfig() string { return filepath.Join(l.dir, "run", l.name, "kubeconfig") }

func (l *lab) kubectl(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(l.dir, "bin", "kubectl"), append([]string{"--kubeconfig", l.kubeconfig()}, args...)...)
}

// testapp is the program of the test image, for use on nodes.
func (l *lab) testapp() string { return filepath.Join(l.dir, "bin", "testapp") }

func (l *lab) installState() string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	for _, args := range [][]string{
		{"get", "pods", "-o", "wide"}, {"get", "events"},
		{"logs", "daemonset/" + agentName, "--tail=50"}, {"logs", "deployment/" + controllerName, "--tail=50"},
	} {
		text, _ := l.kubectl(ctx, append([]string{"-n", berthNamespace}, args...)...).CombinedOutput()
		out.Write(text)
	}
	return out.String()
}

// output of a command. The error has what it printed.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(cmd.Path), strings.Join(cmd.Args[1:], " "), err,
			strings.TrimSpace(stderr.String()+" "+stdout.String()))
	}
	return stdout.String(), nil
}

// try a command on the node.
func (n node) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	return output(on.lab.command(ctx, "exec", append([]string{string(n), "--"}, args...)...))
}

// run a command on the node.
func (n node) run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := n.try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// link as ip -j shows it.
type link struct {
	Index int    `json:"ifindex"`
	Name  string `json:"ifname"`
	MAC   string `json:"address"`
	Addrs []struct {
		Family string     `json:"family"`
		Local  netip.Addr `json:"local"`
		Scope  string     `json:"scope"`
	} `json:"addr_info"`
}

// links of the node.
func (n node) links(t testing.TB) []link {
	t.Helper()
	return parseLinks(t, n.run(t, "ip", "-json", "addr", "show"))
}

func parseLinks(t testing.TB, text string) (out []link) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("ip -json: %v in %q", err, text)
	}
	return out
}

// vmacs of the node.
func (n node) vmacs(t testing.TB) (out []link) {
	t.Helper()
	for _, l := range n.links(t) {
		if strings.HasPrefix(l.Name, "vmac") {
			out = append(out, l)
		}
	}
	return out
}

// addresses of the node that others can use.
func (n node) addresses(t testing.TB) (out []netip.Addr) {
	t.Helper()
	for _, l := range n.links(t) {
		for _, a := range l.Addrs {
			if a.Scope == "global" {
				out = append(out, a.Local)
			}
		}
	}
	return out
}

// inPods counts in how many network namespaces of pods of the node each address is.
func (n node) inPods(t testing.TB) map[netip.Addr]int {
	t.Helper()
	out := map[netip.Addr]int{}
	// One that is removed meanwhile is no failure.
	text := n.run(t, "sh", "-c", `for ns in /run/netns/cni-*; do nsenter --net=$ns ip -json addr show scope global && echo; done 2>/dev/null; true`)
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "[") {
			continue
		}
		seen := map[netip.Addr]bool{}
		for _, l := range parseLinks(t, line) {
			for _, a := range l.Addrs {
				if !seen[a.Local] {
					out[a.Local]++
				}
				seen[a.Local] = true
			}
		}
	}
	return out
}

// plugin calls the plugin on the node as a runtime would, and returns what it prints.
func (n node) plugin(verb string, env map[string]string, stdin string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	args := []string{string(n), "--", "env", "CNI_COMMAND=" + verb, "CNI_PATH=/opt/cni/bin"}
	for k, v := range env {
		args = append(args, k+"="+v)
	}
	cmd := on.lab.command(ctx, "exec", append(args, "/opt/cni/bin/berth")...)
	cmd.Stdin = strings.NewReader(stdin)
	return output(cmd)
}
