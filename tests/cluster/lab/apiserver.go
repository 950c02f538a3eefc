package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/berthdev/berth/tests/cluster/controlplane"
	"github.com/berthdev/berth/tests/cluster/proc"
)

// apiserver is a control plane alone on the machine's loopback, beside the lab
// of the same name or without one.
type apiserver struct {
	API, Etcd, Peer int
}

func (l *Lab) apiState() string { return filepath.Join(l.Dir, "run", l.Name+"-apiserver") }
func (l *Lab) apiSpec() string  { return filepath.Join(l.apiState(), "apiserver.json") }

// APIServerKubeconfig is the administrator's of the API server alone.
func (l *Lab) APIServerKubeconfig() string { return filepath.Join(l.apiState(), "kubeconfig") }

func (l *Lab) apiConfig(a apiserver) *controlplane.Config {
	return &controlplane.Config{
		Name: l.Name + "-apiserver", Bin: l.bin(), Dir: l.apiState(),
		Logs:     filepath.Join(l.Dir, "logs", l.Name+"-apiserver"),
		Address:  netip.MustParseAddr("127.0.0.1"),
		APIPort:  a.API,
		EtcdPort: a.Etcd,
		PeerPort: a.Peer,
	}
}

func (l *Lab) apiTable() (*proc.Table, error) {
	return proc.Open(filepath.Join(l.apiState(), "processes.json"))
}

// APIServerUp starts etcd and the API server and returns when it is ready.
func (l *Lab) APIServerUp(ctx context.Context) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	table, err := l.apiTable()
	if err != nil {
		return err
	}
	var a apiserver
	if b, err := os.ReadFile(l.apiSpec()); err == nil {
		if json.Unmarshal(b, &a) == nil && l.apiConfig(a).Healthy(ctx) {
			l.Say("the API server is up already, at %s", l.apiConfig(a).Server())
			return nil
		}
		return fmt.Errorf("the API server in %s does not answer: run `lab apiserver down`, then up", l.apiState())
	}
	start := time.Now()
	if a, err = freePorts(); err != nil {
		return err
	}
	if err := os.MkdirAll(l.apiState(), 0o755); err != nil {
		return err
	}
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.apiSpec(), b, 0o644); err != nil {
		return err
	}
	c := l.apiConfig(a)
	if _, err := c.Certificates(); err != nil {
		return err
	}
	if err := c.StartAPI(table); err != nil {
		return err
	}
	if err := c.WaitReady(ctx, table); err != nil {
		return err
	}
	l.Say("the API server is up after %.1f s, at %s", time.Since(start).Seconds(), c.Server())
	return nil
}

// APIServerKill ends etcd or kube-apiserver with SIGKILL; the other goes on, and the data stays.
func (l *Lab) APIServerKill(part string) error {
	return l.withPart(func(_ *controlplane.Config, t *proc.Table) error { return t.Kill(part) })
}

// APIServerStart starts what APIServerKill has ended, with the same data on the same port. It does not wait until it serves.
func (l *Lab) APIServerStart(part string) error {
	return l.withPart(func(c *controlplane.Config, t *proc.Table) error { return c.StartPart(t, part) })
}

func (l *Lab) withPart(f func(*controlplane.Config, *proc.Table) error) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	var a apiserver
	b, err := os.ReadFile(l.apiSpec())
	if err != nil {
		return fmt.Errorf("%w: run `lab apiserver up` first", err)
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Errorf("%s: %w", l.apiSpec(), err)
	}
	table, err := l.apiTable()
	if err != nil {
		return err
	}
	return f(l.apiConfig(a), table)
}

// APIServerDown stops what APIServerUp started and removes its data.
func (l *Lab) APIServerDown() error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	table, err := l.apiTable()
	if err != nil {
		return err
	}
	if err := table.KillAll(); err != nil {
		return err
	}
	if err := os.RemoveAll(l.apiState()); err != nil {
		return err
	}
	l.Say("the API server is down")
	return nil
}

// freePorts picks ports that nobody listens on now.
func freePorts() (apiserver, error) {
	var ports []int
	var errs error
	for range 3 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		// Kept open until all are picked, so that they differ.
		defer ln.Close()
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	if errs != nil {
		return apiserver{}, errs
	}
	return apiserver{API: ports[0], Etcd: ports[1], Peer: ports[2]}, nil
}
