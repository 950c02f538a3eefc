package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/berthdev/berth/agent/proxy"
	"github.com/berthdev/berth/service"
)

// fakeProxy remembers what it serves.
type fakeProxy struct {
	mu     sync.Mutex
	served map[string]int // backends, by Service
	table  bool
}

func (f *fakeProxy) Set(all ...service.Service) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range all {
		f.table, f.served[s.Name] = true, 0
		for _, p := range s.Ports {
			f.served[s.Name] += len(p.Backends)
		}
	}
	return nil
}

func (f *fakeProxy) Delete(names ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		delete(f.served, name)
	}
	return nil
}

func (f *fakeProxy) Sync(all []service.Service) error {
	f.mu.Lock()
	f.table, f.served = true, map[string]int{}
	f.mu.Unlock()
	return f.Set(all...)
}

func (f *fakeProxy) Remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.table, f.served = false, nil
	return nil
}

func (f *fakeProxy) left() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.table, nil
}

func (f *fakeProxy) state() (table bool, served int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.table, f.served["default/web"]
}

func (f *fakeProxy) SetLinks([]string) error              { return nil }
func (f *fakeProxy) SetServiceCIDRs([]netip.Prefix) error { return nil }
func (f *fakeProxy) Run(ctx context.Context) error        { <-ctx.Done(); return nil }

func web() (*corev1.Service, *discoveryv1.EndpointSlice) {
	ready, port, name := true, int32(8080), "http"
	protocol := corev1.ProtocolTCP
	return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7"},
				IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Name: name, Port: 80, Protocol: protocol}}},
		}, &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.6.1.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
		}
}

// TestServing walks the table of serving: what is found at each look, what the node's condition says then, and whether the proxy
// has a table.
func TestServing(t *testing.T) {
	for _, tt := range []struct {
		name  string
		when  ServiceProxy
		looks string // k: kube-proxy, -: nobody
		left  bool   // a table of an earlier agent
		want  string // reasons, + with a table
	}{
		{"kube-proxy", ProxyAuto, "kk", false, "KubeProxy KubeProxy"},
		{"none", ProxyAuto, "---", false, "undecided OwnProxy+ OwnProxy+"},
		{"none, agent restarted", ProxyAuto, "--", true, "OwnProxy+ OwnProxy+"},
		{"kube-proxy installed", ProxyAuto, "-kkk", true, "OwnProxy+ OwnProxy+ KubeProxy KubeProxy"},
		{"kube-proxy installed while the agent was away", ProxyAuto, "k", true, "KubeProxy"},
		{"kube-proxy removed", ProxyAuto, "k---", false, "KubeProxy undecided undecided OwnProxy+"},
		{"always", ProxyAlways, "k-", false, "OwnProxy+ OwnProxy+"},
		{"never", ProxyNever, "k-", true, "KubeProxy NoProxy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			svc, slice := web()
			client := fake.NewClientset(svc, slice)
			serves := &fakeProxy{table: tt.left}
			s := newServing(Config{ServiceProxy: tt.when, NodeName: "n1"}, client, &pools{}, nil, slog.New(slog.DiscardHandler))
			s.proxy, s.left = serves, serves.left
			s.pools.tell = s.setPools
			ctx, cancel := context.WithCancel(t.Context())
			defer s.end()
			defer cancel()
			var got []string
			for _, look := range tt.looks {
				s.detect = func() (proxy.Found, error) {
					if look == 'k' {
						return proxy.NFTables, nil
					}
					return proxy.Nobody, nil
				}
				by, _, err := s.look(ctx)
				if err != nil {
					t.Fatal(err)
				}
				reason := by.reason
				if reason == "" {
					reason = "undecided"
				}
				if s.running(s.proxied) {
					deadline := time.Now().Add(20 * time.Second)
					for _, n := serves.state(); n != 1; _, n = serves.state() {
						if time.Now().After(deadline) {
							t.Fatal("the Service is not served")
						}
						time.Sleep(time.Millisecond)
					}
				}
				if table, _ := serves.state(); table {
					reason += "+"
				}
				got = append(got, reason)
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if asked := len(client.Actions()) > 0; asked != strings.Contains(tt.want, "OwnProxy") {
				t.Errorf("Services were followed: %t", asked)
			}
		})
	}
}
