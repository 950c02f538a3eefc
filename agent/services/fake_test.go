package services

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/service"
)

var errSink = errors.New("no")

// fakeSink has what it was given, unless fails says otherwise.
type fakeSink struct {
	mu    sync.Mutex
	has   map[string]service.Service
	calls int
	syncs int
	fails func(name string) bool // "" is Sync
	wake  chan struct{}
}

func newFakeSink() *fakeSink {
	return &fakeSink{has: map[string]service.Service{}, wake: make(chan struct{}, 1)}
}

func (f *fakeSink) do(name string, what func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	select {
	case f.wake <- struct{}{}:
	default:
	}
	if f.fails != nil && f.fails(name) {
		return errSink
	}
	what()
	return nil
}

func (f *fakeSink) Set(all ...service.Service) error {
	var errs []error
	for _, s := range all {
		errs = append(errs, f.do(s.Name, func() { f.has[s.Name] = s }))
	}
	return errors.Join(errs...)
}

func (f *fakeSink) Delete(names ...string) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, f.do(name, func() { delete(f.has, name) }))
	}
	return errors.Join(errs...)
}

func (f *fakeSink) Sync(all []service.Service) error {
	return f.do("", func() {
		f.syncs++
		clear(f.has)
		for _, s := range all {
			f.has[s.Name] = s
		}
	})
}

// text of all that the sink has.
func (f *fakeSink) text() (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(f.has)) {
		out = append(out, fmt.Sprintf("%+v", f.has[name]))
	}
	return out
}

// backends of one Service's ports, as text; "" if the sink does not have it.
func (f *fakeSink) backends(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := ""
	for _, p := range f.has[name].Ports {
		for _, b := range p.Backends {
			out += fmt.Sprintf("%s:%d%s ", b.Address, b.Port, b.Network)
		}
	}
	return out
}

func newService(name, ip string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
		ClusterIP: ip, ClusterIPs: []string{ip}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
		Ports: []corev1.ServicePort{{Name: "p", Port: 80, Protocol: corev1.ProtocolTCP}}}}
}

func newSlice(name, of string, addresses ...string) *discoveryv1.EndpointSlice {
	port, number := "p", int32(8080)
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4,
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: of}},
		Ports:      []discoveryv1.EndpointPort{{Name: &port, Port: &number}}}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return s
}

func newNode(name string, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

// rig is a follower without an API server: a test plays the reflectors.
func newRig(sinks ...*fakeSink) *Services {
	named := map[string]Sink{}
	for i, s := range sinks {
		named[fmt.Sprint(i)] = s
	}
	return New(nil, "node-a", named, slog.New(slog.DiscardHandler))
}

// settle carries out what waits, and what is to be tried again as well, now.
func settle(t failer, s *Services) {
	for range 1000 {
		busy := false
		for _, k := range s.sinks {
			for k.queue.Len() > 0 {
				names := k.waiting()
				k.carryOut(names...)
				for _, name := range names {
					k.queue.Done(name)
				}
				busy = true
			}
			s.state.mu.Lock()
			for name, e := range s.state.services {
				if e.has[k.index] == unsure {
					k.queue.Add(name)
					busy = true
				}
			}
			s.state.mu.Unlock()
		}
		if !busy {
			return
		}
	}
	t.Fatal("does not settle")
}

// start with nothing.
func start(t failer, s *Services) {
	if err := errors.Join(s.state.specs().Replace(nil, ""), s.state.slices().Replace(nil, ""), s.state.nodes().Replace(nil, "")); err != nil {
		t.Fatal(err)
	}
	s.SetPools(nil)
	for _, k := range s.sinks {
		if err := k.sync(); err != nil {
			t.Fatal(err)
		}
	}
}

// run the sinks in the background, until the test ends.
func run(t testing.TB, s *Services) {
	for _, k := range s.sinks {
		go func() { _ = k.run(t.Context(), func() { s.synced.Add(1) }) }() // ends with the test's context
	}
}
