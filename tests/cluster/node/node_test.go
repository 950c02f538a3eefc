package node

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthdev/berth/tests/cluster/pki"
	"github.com/berthdev/berth/tests/cluster/topology"
)

func testNode(t *testing.T) *Node {
	t.Helper()
	top, err := topology.New("berth", 255)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := top.Node("node-b")
	return &Node{Node: n, Lab: top, Dir: t.TempDir(), ProxyMode: "iptables"}
}

func TestMountScriptOrder(t *testing.T) {
	s := testNode(t).mountScript()
	// Each must come before the next, or mounts reach the machine, are hidden,
	// or have no place to be made at.
	last := -1
	for _, step := range []string{
		"mount --make-rprivate /",
		"mount -t proc proc /proc",
		"umount -l /run/netns",
		"mount -t tmpfs -o mode=755 tmpfs /run",
		"mount --rbind /sys/fs/cgroup /run/lab/cgroup",
		"mount -t sysfs sysfs /sys",
		"mount -t bpf bpf /sys/fs/bpf",
		" /opt\n",
		"mount --bind /run/lab/node/cni-bin /opt/cni/bin",
		" /proc/sys/kernel/panic;",
		"mount --make-rshared /",
	} {
		i := strings.Index(s, step)
		if i < 0 {
			t.Fatalf("no %q in:\n%s", step, s)
		}
		if i < last {
			t.Errorf("%q comes too early in:\n%s", step, s)
		}
		last = i
	}
}

func TestConfigurations(t *testing.T) {
	n := testNode(t)
	if err := n.writeRuntimeConfig(); err != nil {
		t.Fatal(err)
	}
	if err := n.writeProxyConfig(); err != nil {
		t.Fatal(err)
	}
	if err := n.writeKubeletConfig("/pki/ca.crt", pki.Pair{CertFile: "/pki/k.crt", KeyFile: "/pki/k.key"}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"containerd.toml": "restrict_oom_score_adj = true",
		"kube-proxy.yaml": "mode: iptables",
		"kubelet.yaml":    `clientCAFile: "/pki/ca.crt"`,
	} {
		b, err := os.ReadFile(filepath.Join(n.Dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), want) || strings.Contains(string(b), "<no value>") {
			t.Errorf("%s lacks %q:\n%s", file, want, b)
		}
	}
}

func TestInstallCNI(t *testing.T) {
	n := testNode(t)
	n.Bin = t.TempDir()
	for _, p := range Plugins {
		if err := os.WriteFile(filepath.Join(n.Bin, p), []byte(p), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(n.Dir, "cni-bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.Dir, "multus.kconf"), []byte("kubeconfig"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.installCNI(); err != nil {
		t.Fatal(err)
	}
	var overlay struct {
		Name    string
		Plugins []struct {
			Type string
			IPAM struct{ Ranges [][]struct{ Subnet string } }
		}
	}
	b, err := os.ReadFile(filepath.Join(n.Dir, "cni-conf/multus/net.d/10-overlay.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &overlay); err != nil {
		t.Fatal(err)
	}
	if overlay.Name != "overlay" || overlay.Plugins[0].IPAM.Ranges[0][0].Subnet != "10.244.1.0/24" {
		t.Errorf("%+v", overlay)
	}
	var multus struct{ ClusterNetwork string }
	if b, err = os.ReadFile(filepath.Join(n.Dir, "cni-conf/net.d/00-multus.conf")); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &multus); err != nil {
		t.Fatal(err)
	}
	// Multus loses the ipam section on DEL when this is a file.
	if strings.HasSuffix(multus.ClusterNetwork, "list") {
		t.Errorf("clusterNetwork %s", multus.ClusterNetwork)
	}
}

func TestContainers(t *testing.T) {
	n := testNode(t)
	if got := n.Containers(); len(got) != 0 {
		t.Errorf("without containerd: %v", got)
	}
	for _, d := range []string{"io.containerd.runtime.v2.task/k8s.io/aaa", "io.containerd.grpc.v1.cri/sandboxes/aaa", "io.containerd.grpc.v1.cri/containers/bbb"} {
		if err := os.MkdirAll(filepath.Join(n.Dir, "containerd", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(n.Containers(), " "); got != "aaa bbb" {
		t.Errorf("got %q", got)
	}
}
