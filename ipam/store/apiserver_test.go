//go:build apiserver

package store

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

var discard = slog.New(slog.DiscardHandler)

// world is one network in a real API server.
type world struct {
	*testing.T
	cfg     *rest.Config
	leases  *v1alpha1.LeaseClient // an administrator's
	network string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, cfg: apitest.Config(t), network: apitest.Unique("net")}
	var err error
	if _, w.leases, err = v1alpha1.NewClients(w.cfg); err != nil {
		t.Fatal(err)
	}
	apitest.RemoveLeases(t, w.leases, w.network)
	return w
}

// pool of these ranges of 10.0.0.0/16 and 2001:db8::/64.
func (w *world) pool(name string, ips ...string) *ipam.Pool {
	w.Helper()
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: w.network + "-" + name}}
	p.Spec.Network = w.network
	for _, cidr := range []string{"10.0.0.0/16", "2001:db8::/64"} {
		s := v1alpha1.PoolSubnet{CIDR: cidr}
		for _, ip := range ips {
			if strings.Contains(ip, ":") == strings.Contains(cidr, ":") {
				s.IPs = append(s.IPs, ip)
			}
		}
		if s.IPs != nil {
			p.Spec.Subnets = append(p.Spec.Subnets, s)
		}
	}
	c, err := ipam.Compile(p)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// store of a node that follows the pools.
func (w *world) store(node string, faults *apitest.Faults, pools ...*ipam.Pool) *Store {
	w.Helper()
	cfg := w.cfg
	if faults != nil {
		cfg = faults.Into(cfg)
	}
	_, leases, err := v1alpha1.NewClients(cfg)
	if err != nil {
		w.Fatal(err)
	}
	s := New(leases, node, noHooks, time.Now, discard)
	w.follow(s, pools...)
	return s
}

func (w *world) follow(s *Store, pools ...*ipam.Pool) {
	w.Helper()
	for _, p := range pools {
		s.Follow(w.Context(), p)
		apitest.Eventually(w, "leases of "+p.Name, func() error {
			if !s.Followed(p.Name) {
				return fmt.Errorf("not yet known")
			}
			return nil
		})
	}
}

// label of a lease in the API; the store keeps none.
func (w *world) label(l *v1alpha1.IPLease, key string) string {
	w.Helper()
	now, err := w.leases.Get(w.Context(), l.Name, metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return now.Labels[key]
}

func (w *world) claim(s *Store, p *ipam.Pool, h v1alpha1.LeaseHolder) *v1alpha1.IPLease {
	w.Helper()
	l, err := s.Claim(w.Context(), p, anyIPv4, ipam.Claimant{Holder: h})
	if err != nil {
		w.Fatal(err)
	}
	return l
}

func (w *world) release(s *Store, l *v1alpha1.IPLease) {
	w.Helper()
	if err := s.Release(w.Context(), l); err != nil {
		w.Fatal(err)
	}
}

// list of the network's leases as the API server has them: "address phase pod/sandbox", sorted.
func (w *world) list() (out []string) {
	w.Helper()
	list, err := w.leases.List(w.Context(), metav1.ListOptions{FieldSelector: "spec.network=" + w.network})
	if err != nil {
		w.Fatal(err)
	}
	for _, l := range list.Items {
		s := l.Spec.Address + " " + string(l.Spec.Phase)
		if h := l.Spec.Holder; h != nil {
			s += " " + h.Pod + "/" + h.ContainerID
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

func (w *world) want(leases ...string) {
	w.Helper()
	if got := w.list(); !slices.Equal(got, leases) {
		w.Errorf("leases\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(leases, "\n"))
	}
}

// reserve an address as an operator does, by hand and without labels.
func (w *world) reserve(a string, phase v1alpha1.LeasePhase) *v1alpha1.IPLease {
	w.Helper()
	l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: ipam.LeaseName(w.network, netip.MustParseAddr(a))}}
	l.Spec.Network, l.Spec.Address, l.Spec.Phase = w.network, a, phase
	if phase == v1alpha1.LeaseQuarantined {
		l.Spec.Conflict = &v1alpha1.LeaseConflict{MAC: "02:00:00:00:00:99", SeenAt: metav1.Now()}
	}
	l, err := w.leases.Create(w.Context(), l, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return l
}

// idle: no claim left a mark.
func (w *world) idle(stores ...*Store) {
	w.Helper()
	for _, s := range stores {
		s.index.mu.Lock()
		if len(s.index.inFlight) > 0 {
			w.Errorf("node %s: in flight for ever: %v", s.node, s.index.inFlight)
		}
		s.index.mu.Unlock()
	}
}

// atOnce runs n calls side by side and returns their leases and errors.
func (w *world) atOnce(n int, f func(context.Context, int) (*v1alpha1.IPLease, error)) (leases []*v1alpha1.IPLease, errs []error) {
	leases, errs = make([]*v1alpha1.IPLease, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { leases[i], errs[i] = f(w.Context(), i) })
	}
	wg.Wait()
	return leases, errs
}
