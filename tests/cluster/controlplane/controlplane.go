// Package controlplane runs etcd and the Kubernetes control plane, either in a
// namespace of the lab or, etcd and API server alone, on the machine's loopback.
package controlplane

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/berthdev/berth/tests/cluster/pki"
	"github.com/berthdev/berth/tests/cluster/proc"
	"github.com/berthdev/berth/tests/cluster/topology"
)

// Config says where a control plane runs and with which certificates.
type Config struct {
	Name     string // kubeconfig context
	Bin      string // directory of the binaries
	Dir      string // state, certificates, kubeconfigs
	Logs     string
	Wrap     []string // command that enters the control plane's namespace; empty for the root
	Address  netip.Addr
	APIPort  int
	EtcdPort int
	PeerPort int
	Names    []string     // further names the API server serves under
	Addrs    []netip.Addr // and addresses
}

// Server is the API server's URL.
func (c *Config) Server() string {
	return "https://" + netip.AddrPortFrom(c.Address, uint16(c.APIPort)).String()
}

// Kubeconfig is the administrator's.
func (c *Config) Kubeconfig() string { return filepath.Join(c.Dir, "kubeconfig") }

func (c *Config) etcd() string { return fmt.Sprintf("http://127.0.0.1:%d", c.EtcdPort) }

func (c *Config) pki(name string) string { return filepath.Join(c.Dir, "pki", name) }

// Admin is the cluster administrator, whom RBAC lets do all.
var Admin = pki.Subject{User: "admin", Groups: []string{"system:masters"}}

// Certificates makes the authority and all certificates and kubeconfigs of
// the control plane.
func (c *Config) Certificates() (*pki.Authority, error) {
	dir := filepath.Join(c.Dir, "pki")
	ca, err := pki.NewAuthority(dir, "ca")
	if err != nil {
		return nil, err
	}
	// The front proxy's authority is apart: who holds a certificate of it may
	// speak for anybody.
	front, err := pki.NewAuthority(dir, "front-proxy-ca")
	if err != nil {
		return nil, err
	}
	if _, err := front.Issue("front-proxy", pki.Subject{User: "front-proxy"}); err != nil {
		return nil, err
	}
	server := pki.Subject{
		User: "kube-apiserver",
		Names: append([]string{"localhost", "kubernetes", "kubernetes.default",
			"kubernetes.default.svc", "kubernetes.default.svc." + topology.ClusterDomain}, c.Names...),
		Addrs: append([]netip.Addr{c.Address, netip.MustParseAddr("127.0.0.1"),
			netip.MustParseAddr(topology.APIService4)}, c.Addrs...),
	}
	for name, s := range map[string]pki.Subject{
		"apiserver":         server,
		"apiserver-kubelet": {User: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}},
		"service-accounts":  {User: "service-accounts"},
		"admin":             Admin,
	} {
		if _, err := ca.Issue(name, s); err != nil {
			return nil, err
		}
	}
	for name, s := range map[string]pki.Subject{
		"kubeconfig":                    Admin,
		"kube-controller-manager.kconf": {User: "system:kube-controller-manager"},
		"kube-scheduler.kconf":          {User: "system:kube-scheduler"},
	} {
		if err := ca.Kubeconfig(filepath.Join(c.Dir, name), c.Name, c.Server(), s); err != nil {
			return nil, err
		}
	}
	return ca, nil
}

// The parts of the API, by the names of their binaries.
const (
	Etcd      = "etcd"
	APIServer = "kube-apiserver"
)

// StartAPI starts etcd and the API server.
func (c *Config) StartAPI(t *proc.Table) error {
	if err := os.MkdirAll(filepath.Join(c.Dir, "etcd"), 0o700); err != nil {
		return err
	}
	if err := c.StartPart(t, Etcd); err != nil {
		return err
	}
	return c.StartPart(t, APIServer)
}

// StartPart starts etcd or the API server, with the data that it had.
func (c *Config) StartPart(t *proc.Table, part string) error {
	if p, ok := t.Lookup(part); ok && p.Alive() {
		return fmt.Errorf("%s runs already, as process %d", part, p.PID)
	}
	switch part {
	case Etcd:
		return c.start(t, part, c.etcdArgs())
	case APIServer:
		return c.start(t, part, c.apiserverArgs())
	}
	return fmt.Errorf("no part %q: it is %s or %s", part, Etcd, APIServer)
}

// StartControllers starts what works through the API: controllers, scheduler.
func (c *Config) StartControllers(t *proc.Table) error {
	if err := c.start(t, "kube-controller-manager", c.controllerArgs()); err != nil {
		return err
	}
	return c.start(t, "kube-scheduler", c.schedulerArgs())
}

func (c *Config) start(t *proc.Table, name string, args []string) error {
	argv := append([]string{}, c.Wrap...)
	argv = append(argv, filepath.Join(c.Bin, name))
	_, err := t.Start(name, filepath.Join(c.Logs, name+".log"), append(argv, args...), nil)
	return err
}

// WaitReady waits until the API server calls itself ready.
func (c *Config) WaitReady(ctx context.Context, t *proc.Table) error {
	client, err := newClient(c.pki("ca.crt"), c.pki("admin.crt"), c.pki("admin.key"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var last error
	for {
		if last = client.get(ctx, c.Server()+"/readyz"); last == nil {
			return nil
		}
		for _, name := range []string{Etcd, APIServer} {
			if p, ok := t.Lookup(name); ok && !p.Alive() {
				return fmt.Errorf("%s ended; the last lines of %s:\n%s", name, p.Log, proc.Tail(p.Log, 15))
			}
		}
		select {
		case <-ctx.Done():
			log := filepath.Join(c.Logs, "kube-apiserver.log")
			return fmt.Errorf("kube-apiserver not ready after a minute: %w; the last lines of %s:\n%s",
				last, log, proc.Tail(log, 15))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Healthy reports whether the API server answers at once.
func (c *Config) Healthy(ctx context.Context) bool {
	client, err := newClient(c.pki("ca.crt"), c.pki("admin.crt"), c.pki("admin.key"))
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return client.get(ctx, c.Server()+"/readyz") == nil
}

func flag(name string, value any) string {
	switch v := value.(type) {
	case int:
		return "--" + name + "=" + strconv.Itoa(v)
	case bool:
		return "--" + name + "=" + strconv.FormatBool(v)
	default:
		return fmt.Sprintf("--%s=%v", name, v)
	}
}
