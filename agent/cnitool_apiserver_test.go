//go:build apiserver

package agent

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berthdev/berth/tests/netns"
	"github.com/berthdev/berth/tests/plugins"
)

// cnitool runs a command on the node. Its cache is below /var/lib, for which it sees another directory.
func (r *cniNode) cnitool(varLib, confDir, command string, p *corev1.Pod, ns *netns.NS) (string, error) {
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount --bind "$0" /var/lib && exec "$@"`, varLib,
		filepath.Join(plugins.Build(r, "cnitool"), "cnitool"), command, r.name, ns.Path(), "--ifname", "net1")
	// It makes the container's ID itself, and wants no empty argument.
	cmd.Env = append(os.Environ(), "NETCONFPATH="+confDir, "CNI_PATH="+r.bin, "CNI_ARGS="+request(p, "unknown", "net1", "").Args)
	var out []byte
	var err error
	r.node.Do(func() { out, err = cmd.CombinedOutput() })
	return string(out), err
}

// A pod's life by the commands of cnitool.
func TestCnitool(t *testing.T) {
	for main := range mainPlugins {
		t.Run(main, func(t *testing.T) {
			r := newCNINode(t, main, "10.6.0.7")
			varLib, confDir, pod := t.TempDir(), t.TempDir(), netns.New(t)
			if err := os.WriteFile(filepath.Join(confDir, "net.conflist"), []byte(r.network("1.1.0")), 0o600); err != nil {
				t.Fatal(err)
			}
			p := r.pod("web", "berth.dev/ippool=$a")
			does := func(command string) string {
				t.Helper()
				out, err := r.cnitool(varLib, confDir, command, p, pod)
				if err != nil {
					t.Fatalf("cnitool %s: %v\n%s", command, err, out)
				}
				return out
			}
			fails := func(command, want string) {
				t.Helper()
				if out, err := r.cnitool(varLib, confDir, command, p, pod); err == nil || !strings.Contains(out, want) {
					t.Errorf("cnitool %s: %v, want %q\n%s", command, err, want, out)
				}
			}
			var res struct{ IPs []struct{ Address string } }
			if err := json.Unmarshal([]byte(does("add")), &res); err != nil || len(res.IPs) != 1 || res.IPs[0].Address != "10.6.0.7/24" {
				t.Fatalf("%+v, %v", res, err)
			}
			does("check")
			does("status")
			r.dropAddress(pod, "10.6.0.7/24")
			fails("check", "10.6.0.7")
			does("del")
			does("del")
			r.wantBound()
			r.noLink(pod)

			does("add")
			sandbox := strings.SplitN(r.bound()[0], "/", 3)[2]
			r.dropLease("10.6.0.7", sandbox)
			fails("check", "no lease is bound to interface net1 of sandbox "+sandbox)
			does("del")
			does("add")
			does("gc") // gives no list, and has DEL run for all that it knows of
			r.wantBound()
			r.noLink(pod)
			r.stop()
			fails("status", "berth-agent does not answer")
		})
	}
}
