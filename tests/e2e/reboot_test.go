package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	corev1 "k8s.io/api/core/v1"
)

// TestReboot: a node loses power, and comes back while the API is away. Its pods get their own addresses again, from the journal, and
// nobody else any; when the API is back all is as it was.
func TestReboot(t *testing.T) {
	s := newOwnSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("pool", s.ranges("a", 1, 50))
	first := s.start("first", onNode(nodeA), s.firstOf(pool))
	second := s.start("second", onNode(nodeA), secondOf(pool))
	other := s.start("other", onNode(nodeB), secondOf(pool))
	has := map[*corev1.Pod]string{}
	for p, ifName := range map[*corev1.Pod]string{first: "eth0", second: "net1", other: "net1"} {
		addrs, _ := s.boundTo(p, ifName)
		has[p] = fmt.Sprint(addrs)
	}
	_, leases := s.boundTo(first, "eth0")

	member(t, "kill", "kube-apiserver")
	back := false
	defer func() {
		if !back {
			member(t, "start", "kube-apiserver")
		}
	}()
	member(t, "kill", string(nodeA))
	member(t, "start", string(nodeA))

	// Its kubelet learns of no pod from nobody, so not of the agent either. Here it is a process of the node.
	pid := nodeA.run(t, "sh", "-c", fmt.Sprintf(
		"%s --node-name node-a --kubeconfig %s --plugin= --metrics-address= </dev/null >/run/agent.log 2>&1 & echo $!",
		filepath.Join(on.lab.root, "bin", "berth-agent"), on.lab.kubeconfig()))
	pid = strings.TrimSpace(pid)
	defer func() { _, _ = nodeA.try("kill", "-9", pid) }()
	stdin, env := s.call(first, "eth0", "underlay", strings.Repeat("a", 64))
	var out string
	eventually(t, patience, "the journal serves", func(context.Context) (err error) {
		out, err = nodeA.plugin("ADD", env, stdin)
		return err
	})
	if got := addressesOf(t, out); got != has[first] {
		t.Errorf("a new sandbox of the pod has %s, and the pod had %s", got, has[first])
	}
	env["CNI_CONTAINERID"] = leases[0].Spec.Holder.ContainerID
	if out, err := nodeA.plugin("DEL", env, stdin); err != nil {
		t.Errorf("DEL of the sandbox that the reboot has ended: %v %s", err, out)
	}
	stdin, env = s.call(&corev1.Pod{ObjectMeta: metaOf(s.name, "stranger")}, "eth0", "underlay", strings.Repeat("b", 64))
	if out, err := nodeA.plugin("ADD", env, stdin); err == nil || cniCode(out) != 11 {
		t.Errorf("ADD of a pod that had no address: %v %s, want code 11", err, out)
	}
	nodeA.run(t, "kill", pid)

	member(t, "start", "kube-apiserver")
	back = true
	eventually(t, patience, "the API is back", func(ctx context.Context) error {
		_, err := s.leases(ctx)
		return err
	})
	agentUID(t, nodeA)
	eventually(t, crowd, "every pod has a sandbox again, and its own addresses", func(context.Context) error {
		for p, ifName := range map[*corev1.Pod]string{first: "eth0", second: "net1", other: "net1"} {
			if addrs, _ := s.boundTo(p, ifName); fmt.Sprint(addrs) != has[p] {
				return fmt.Errorf("%s has %v, and had %s", p.Name, addrs, has[p])
			}
		}
		return nil
	})
	s.ready(first)
	s.ready(second)
	s.sameEverywhere(3)
}

// member of the lab is killed or started.
func member(t *testing.T, verb, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	if _, err := output(on.lab.command(ctx, verb, name)); err != nil {
		t.Fatal(err)
	}
}

// addressesOf a CNI result.
func addressesOf(t *testing.T, text string) string {
	t.Helper()
	var r types100.Result
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	var out []netip.Addr
	for _, ip := range r.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		out = append(out, a.Unmap())
	}
	return fmt.Sprint(out)
}
