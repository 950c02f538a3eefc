//go:build apiserver

package services

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/service"
)

// TestOnAPIServer follows Services as a real API server makes them: with its defaults, its cluster IPs and its selectors.
func TestOnAPIServer(t *testing.T) {
	kube := kubernetes.NewForConfigOrDie(apitest.Connect(t))
	ctx, ns := t.Context(), apitest.Unique("services")
	name := func(n string) string { return ns + "/" + n }
	_, err := kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
	must(t, err)
	services, ends := kube.CoreV1().Services(ns), kube.DiscoveryV1().EndpointSlices(ns)
	create := func(n string, edit func(*corev1.Service)) *corev1.Service {
		t.Helper()
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: n}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "p", Port: 80}}}}
		if edit != nil {
			edit(s)
		}
		s, err := services.Create(ctx, s, metav1.CreateOptions{})
		must(t, err)
		return s
	}
	slice := func(n, of string, addresses ...string) *discoveryv1.EndpointSlice {
		t.Helper()
		s := newSlice(n, of, addresses...)
		s.Namespace = ns
		s, err := ends.Create(ctx, s, metav1.CreateOptions{})
		must(t, err)
		return s
	}
	before := create("before", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
	slice("before-1", "before", "10.6.0.1")

	sink := newFakeSink()
	s := New(kube, "node-a", map[string]Sink{"fake": sink}, slog.New(slog.DiscardHandler))
	s.SetPools(nil)
	runCtx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(runCtx) }()
	defer func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	}()
	port := func(n string) service.Port { // with the sink's lock held
		if p := sink.has[name(n)].Ports; len(p) > 0 {
			return p[0]
		}
		return service.Port{}
	}
	until(t, sink, func() bool { return sink.syncs == 1 })
	sink.mu.Lock()
	got := port("before")
	sink.mu.Unlock()
	if want := (service.Frontend{Address: netip.MustParseAddr(before.Spec.ClusterIP), Port: 80, Protocol: service.TCP}); !slices.Equal(got.Frontends, []service.Frontend{want}) ||
		got.Affinity != service.DefaultAffinity || len(got.Backends) != 1 {
		t.Errorf("at the start: %+v", got)
	}
	until(t, sink, s.Ready)

	create("after", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort })
	create("headless", func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
	create("named", func(s *corev1.Service) {
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.org"}
	})
	slice("after-1", "after", "10.6.0.2", "10.6.0.3")
	until(t, sink, func() bool { p := port("after"); return len(p.Backends) == 2 && len(p.Frontends) == 2 })

	// A slice of a headless Service, by label, and one with another's name: neither is heard of.
	odd := newSlice("after-odd", "after", "10.6.0.66")
	odd.Namespace, odd.Labels[corev1.IsHeadlessService] = ns, ""
	_, err = ends.Create(ctx, odd, metav1.CreateOptions{})
	must(t, err)
	edited := slice("after-2", "after", "10.6.0.4")
	until(t, sink, func() bool { return len(port("after").Backends) == 3 })

	// Edits, by what a selector sees as well.
	edited.Endpoints = nil
	_, err = ends.Update(ctx, edited, metav1.UpdateOptions{})
	must(t, err)
	until(t, sink, func() bool { return len(port("after").Backends) == 2 })
	patch := func(n, p string) {
		t.Helper()
		_, err := services.Patch(ctx, n, types.MergePatchType, []byte(p), metav1.PatchOptions{})
		must(t, err)
	}
	patch("after", `{"metadata":{"labels":{"service.kubernetes.io/service-proxy-name":"other"}}}`)
	until(t, sink, func() bool { _, has := sink.has[name("after")]; return !has })
	patch("after", `{"metadata":{"labels":null}}`)
	until(t, sink, func() bool { return len(port("after").Backends) == 2 })

	// A node that is an endpoint.
	node := apitest.Unique("node")
	_, err = kube.CoreV1().Nodes().Create(ctx, newNode(node), metav1.CreateOptions{})
	must(t, err)
	defer func() {
		must(t, kube.CoreV1().Nodes().Delete(context.WithoutCancel(ctx), node, metav1.DeleteOptions{}))
	}()
	_, err = kube.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(`{"status":{"addresses":[{"type":"InternalIP","address":"10.6.0.3"}]}}`), metav1.PatchOptions{}, "status")
	must(t, err)
	until(t, sink, func() bool { b := port("after").Backends; return len(b) == 2 && !b[0].Node && b[1].Node })

	must(t, services.Delete(ctx, "before", metav1.DeleteOptions{}))
	until(t, sink, func() bool { _, has := sink.has[name("before")]; return !has })
	sink.mu.Lock()
	for _, n := range []string{"headless", "named"} {
		if got, has := sink.has[name(n)]; has {
			t.Errorf("%s: %+v", n, got)
		}
	}
	sink.mu.Unlock()

	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.Collectors()...)
	families, err := registry.Gather()
	must(t, err)
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
		if f.GetName() == "berth_services_change_duration_seconds" && f.Metric[0].Histogram.GetSampleCount() == 0 {
			t.Error("no change was measured")
		}
	}
	if want := []string{"berth_services_change_duration_seconds", "berth_services_endpoints", "berth_services_errors_total", "berth_services_known"}; !slices.Equal(names, want) {
		t.Errorf("metrics %v, want %v", names, want)
	}
}
