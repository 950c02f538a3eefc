package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// berth runs kubectl-berth as a person would, and says what it prints, which it also does where something is wrong.
func berth(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	return output(exec.CommandContext(ctx, filepath.Join(on.lab.root, "bin", "kubectl-berth"), append(args, "--kubeconfig", on.lab.kubeconfig())...))
}

type finding struct{ Check, Severity, What, Remedy string }

// failures that the doctor finds on the node.
func (n node) failures(ctx context.Context) (out []finding, err error) {
	text, failed := berth(ctx, "doctor", string(n), "-o", "json")
	var nodes []struct {
		Error    string
		Findings []finding
	}
	if err := json.Unmarshal([]byte(text), &nodes); err != nil || len(nodes) != 1 || nodes[0].Error != "" {
		return nil, fmt.Errorf("%q: %w, %w", text, err, failed)
	}
	for _, f := range nodes[0].Findings {
		if f.Severity == "fail" {
			out = append(out, f)
		}
	}
	if (failed != nil) != (len(out) > 0) {
		return nil, fmt.Errorf("exit code: %w, and %d failures", failed, len(out))
	}
	return out, nil
}

// TestDoctor: nothing is wrong with nodes that work, and what is broken is named, with its remedy.
func TestDoctor(t *testing.T) {
	s := newOwnSpace(t)
	s.underlay("underlay", nil)
	p := s.start("client", onNode(nodeA), s.firstOf(s.pool("pool", s.ranges("a", 1, 9))))
	addrs, _ := s.boundTo(p, "eth0")
	for _, n := range nodes {
		eventually(t, patience, "nothing is wrong with "+string(n), func(ctx context.Context) error {
			found, err := n.failures(ctx)
			if err == nil && len(found) > 0 {
				err = fmt.Errorf("%v", found)
			}
			return err
		})
	}
	vmac := nodeA.vmacs(t)[0].Name
	for _, tt := range []struct{ check, what, command string }{
		{"routes", addrs[0].String() + "/32", fmt.Sprintf("ip route del %s dev %s", addrs[0], vmac)},
		{"neighbours", addrs[0].String(), fmt.Sprintf("ip neigh replace %s lladdr 02:00:00:00:00:09 nud permanent dev %s", addrs[0], vmac)},
		{"sysctls", "arp_ignore", fmt.Sprintf("sysctl -qw net.ipv4.conf.%s.arp_ignore=0", vmac)},
		{"table", "postrouting", "nft flush table inet berth"},
	} {
		// The agent mends it, perhaps before the doctor has looked.
		eventually(t, patience, "the doctor names "+tt.check, func(ctx context.Context) error {
			if out, err := nodeA.try("sh", "-c", tt.command+" || true"); err != nil {
				return fmt.Errorf("%s: %w", out, err)
			}
			found, err := nodeA.failures(ctx)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(found, func(f finding) bool {
				return f.Check == tt.check && strings.Contains(f.What, tt.what) && f.Remedy != ""
			}) {
				return fmt.Errorf("%v", found)
			}
			return nil
		})
	}
	if out, err := berth(t.Context(), "doctor", "node-z"); err == nil || !strings.Contains(out, "has no pod of berth-agent") {
		t.Errorf("a node that is not: %q, %v", out, err)
	}
}

// TestTrace: what is said of a pod's way is what its server sees.
func TestTrace(t *testing.T) {
	s := newOwnSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("pool", s.ranges("a", 1, 9))
	p := s.start("client", onNode(nodeA), s.firstOf(pool))
	server := s.start("server", onNode(nodeA), s.firstOf(pool))
	s.service("web", server)
	backends, _ := s.boundTo(server, "eth0")
	s.reach(p, "get -4 -timeout 3s http://web")

	eventually(t, patience, "the way by the vmac", func(ctx context.Context) error {
		text, err := berth(ctx, "trace", "-n", s.name, "pod/"+p.Name, "web:http", "-o", "json")
		if err != nil {
			return err
		}
		var traces []struct {
			Ends  string
			Steps []struct {
				Name, State string
				Says        []string
			}
		}
		if err := json.Unmarshal([]byte(text), &traces); err != nil || len(traces) != 2 {
			return fmt.Errorf("%q: %w", text, err)
		}
		for _, tr := range traces { // one of each family
			steps := map[string]string{}
			for _, s := range tr.Steps {
				steps[s.Name] = s.State + ": " + strings.Join(s.Says, "; ")
			}
			if strings.HasPrefix(steps["socket"], "ends: ") { // in fast mode the socket goes to the backend itself
				if i := slices.IndexFunc(backends, func(a netip.Addr) bool { return strings.Contains(steps["socket"], a.String()) }); i < 0 {
					return fmt.Errorf("step socket is %q, want one of %v in it", steps["socket"], backends)
				}
				continue
			}
			for name, part := range map[string]string{"route": "passes: ", "vmac": "class service", "node": "kube-proxy", "source": " sees "} {
				if !strings.Contains(steps[name], part) {
					return fmt.Errorf("step %s is %q, want %q in it", name, steps[name], part)
				}
			}
		}
		return nil
	})
	if out, err := berth(t.Context(), "trace", "-n", s.name, "pod/"+p.Name, "web:ftp"); err == nil || !strings.Contains(err.Error(), "it has http (80/tcp), udp (8081/udp)") {
		t.Errorf("a port that is not: %q, %v", out, err)
	}
}
