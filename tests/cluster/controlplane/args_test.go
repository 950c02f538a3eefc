package controlplane

import (
	"net/netip"
	"slices"
	"testing"
)

func config(addr string) *Config {
	return &Config{Dir: "/lab", Address: netip.MustParseAddr(addr), APIPort: 6443, EtcdPort: 2379, PeerPort: 2380}
}

func TestAPIServerArgs(t *testing.T) {
	none := "--endpoint-reconciler-type=none"
	for addr, loopback := range map[string]bool{"127.0.0.1": true, "172.30.255.2": false} {
		args := config(addr).apiserverArgs()
		if got := slices.Contains(args, none); got != loopback {
			t.Errorf("%s: %s is there: %v", addr, none, got)
		}
		for _, want := range []string{
			"--bind-address=" + addr,
			"--etcd-servers=http://127.0.0.1:2379",
			"--authorization-mode=Node,RBAC",
			"--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
			"--client-ca-file=/lab/pki/ca.crt",
		} {
			if !slices.Contains(args, want) {
				t.Errorf("%s: no %s in %v", addr, want, args)
			}
		}
	}
}

func TestServer(t *testing.T) {
	for addr, want := range map[string]string{"127.0.0.1": "https://127.0.0.1:6443", "fd00::2": "https://[fd00::2]:6443"} {
		if got := config(addr).Server(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestCertificates(t *testing.T) {
	c := config("172.30.255.2")
	c.Dir = t.TempDir()
	if _, err := c.Certificates(); err != nil {
		t.Fatal(err)
	}
	// What the arguments name must be there.
	if _, err := newClient(c.pki("ca.crt"), c.pki("admin.crt"), c.pki("admin.key")); err != nil {
		t.Error(err)
	}
	if _, err := newClient(c.pki("front-proxy-ca.crt"), c.pki("front-proxy.crt"), c.pki("front-proxy.key")); err != nil {
		t.Error(err)
	}
}
