package pki

import (
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestIssue(t *testing.T) {
	ca, err := NewAuthority(t.TempDir(), "ca")
	if err != nil {
		t.Fatal(err)
	}
	p, err := ca.Issue("node", Subject{
		User: "system:node:node-a", Groups: []string{"system:nodes"},
		Names: []string{"node-a"}, Addrs: []netip.Addr{netip.MustParseAddr("172.30.255.11"), netip.MustParseAddr("fd00::11")},
	})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(p.Cert)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != "system:node:node-a" || cert.Subject.Organization[0] != "system:nodes" {
		t.Errorf("subject %v", cert.Subject)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.Cert)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("usage %v: %v", usage, err)
		}
	}
	for _, host := range []string{"node-a", "172.30.255.11", "fd00::11"} {
		if err := cert.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if s, err := os.Stat(p.KeyFile); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v; want mode 0600", s.Mode(), err)
	}
}

func TestKubeconfig(t *testing.T) {
	dir := t.TempDir()
	ca, err := NewAuthority(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "kubeconfig")
	if err := ca.Kubeconfig(path, "berth", "https://127.0.0.1:6443", Subject{User: "admin"}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"server: https://127.0.0.1:6443", "current-context: berth", "user: admin", "client-key-data: "} {
		if !strings.Contains(string(b), want) {
			t.Errorf("kubeconfig lacks %q", want)
		}
	}
}
