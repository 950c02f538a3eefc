package node

import (
	"embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/berthdev/berth/tests/cluster/pki"
	"github.com/berthdev/berth/tests/cluster/topology"
)

//go:embed config/*
var configs embed.FS

var templates = template.Must(template.ParseFS(configs, "config/*"))

// Plugins are the CNI plugins a node has, under these names in bin.
var Plugins = []string{"multus", "macvlan", "bridge", "host-local", "portmap", "loopback", "ptp", "static", "tuning"}

// render writes template name to file, with the node's values and extra.
func (n *Node) render(name, file string, extra map[string]string) error {
	values := map[string]any{
		"Node": n, "DNS4": topology.DNS4, "Domain": topology.ClusterDomain,
		"PodCIDRs": topology.PodCIDR4 + "," + topology.PodCIDR6,
	}
	for k, v := range extra {
		values[k] = v
	}
	var b strings.Builder
	if err := templates.ExecuteTemplate(&b, name, values); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

func (n *Node) writeRuntimeConfig() error {
	return n.render("containerd.toml", filepath.Join(n.Dir, "containerd.toml"), nil)
}

func (n *Node) writeProxyConfig() error {
	return n.render("kube-proxy.yaml", n.proxyConfig(), nil)
}

func (n *Node) writeKubeletConfig(caFile string, serving pki.Pair) error {
	return n.render("kubelet.yaml", filepath.Join(n.Dir, "kubelet.yaml"), map[string]string{
		"CAFile": caFile, "CertFile": serving.CertFile, "KeyFile": serving.KeyFile,
	})
}

// installCNI gives the node its CNI plugins and their configuration. The
// plugins are copies, so that an installer may replace them.
func (n *Node) installCNI() error {
	for _, p := range Plugins {
		if err := copyFile(filepath.Join(n.Bin, p), filepath.Join(n.Dir, "cni-bin", p), 0o755); err != nil {
			return fmt.Errorf("CNI plugin %s for %s: %w", p, n.Name, err)
		}
	}
	conf := filepath.Join(n.Dir, "cni-conf")
	if err := n.render("overlay.conflist", filepath.Join(conf, "multus", "net.d", "10-overlay.conflist"), nil); err != nil {
		return err
	}
	kc := filepath.Join(conf, "net.d", "multus.d", "multus.kubeconfig")
	if err := os.MkdirAll(filepath.Dir(kc), 0o755); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(n.Dir, "multus.kconf"), kc, 0o600); err != nil {
		return err
	}
	return n.render("multus.conf", filepath.Join(conf, "net.d", "00-multus.conf"), nil)
}

func copyFile(from, to string, mode os.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return err
	}
	return dst.Close()
}
