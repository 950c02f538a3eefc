package services

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"pgregory.net/rapid"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// failer is a test of either kind.
type failer interface {
	Helper()
	Fatal(...any)
}

func must(t failer, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pool(t failer, network, cidr string) *ipam.Pool {
	p, err := ipam.Compile(&v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: network},
		Spec: v1alpha1.IPPoolSpec{Network: network, Subnets: []v1alpha1.PoolSubnet{{CIDR: cidr}}}})
	must(t, err)
	return p
}

// TestOnlyWhatChanged: an event costs calls for the Services that come out otherwise, and for no other.
func TestOnlyWhatChanged(t *testing.T) {
	sink := newFakeSink()
	s := newRig(sink)
	start(t, s)
	specs, ends, nodes := s.state.specs(), s.state.slices(), s.state.nodes()
	a, b := newService("a", "10.96.0.1"), newService("b", "10.96.0.2")
	slice := newSlice("a-1", "a", "10.6.0.1", "10.6.0.2")
	steps := []struct {
		name  string
		do    func()
		calls int
		a     string // backends
	}{
		{"a Service", func() { must(t, specs.Add(a)) }, 1, ""},
		{"another", func() { must(t, specs.Add(b)) }, 1, ""},
		{"a slice", func() { must(t, ends.Add(slice)) }, 1, "10.6.0.1:8080 10.6.0.2:8080 "},
		{"the same slice again", func() { must(t, ends.Update(slice)) }, 0, "10.6.0.1:8080 10.6.0.2:8080 "},
		{"a relist", func() { must(t, specs.Replace([]any{a, b}, "")); must(t, ends.Replace([]any{slice}, "")) }, 0, "10.6.0.1:8080 10.6.0.2:8080 "},
		{"a slice of a Service that is not there", func() { must(t, ends.Add(newSlice("c-1", "c", "10.6.0.9"))) }, 0, "10.6.0.1:8080 10.6.0.2:8080 "},
		{"a pool elsewhere", func() { s.SetPools([]*ipam.Pool{pool(t, "blue", "10.7.0.0/24")}) }, 0, "10.6.0.1:8080 10.6.0.2:8080 "},
		{"the pool is edited", func() { s.SetPools([]*ipam.Pool{pool(t, "blue", "10.6.0.0/24")}) }, 1, "10.6.0.1:8080blue 10.6.0.2:8080blue "},
		{"a node elsewhere", func() { must(t, nodes.Add(newNode("node-b", "10.0.0.2"))) }, 0, "10.6.0.1:8080blue 10.6.0.2:8080blue "},
		{"a node that is an endpoint", func() { must(t, nodes.Add(newNode("node-c", "10.6.0.1"))) }, 1, "10.6.0.1:8080 10.6.0.2:8080blue "},
		{"a heartbeat", func() { must(t, nodes.Update(newNode("node-c", "10.6.0.1"))) }, 0, "10.6.0.1:8080 10.6.0.2:8080blue "},
		{"the node goes", func() { must(t, nodes.Delete(newNode("node-c"))) }, 1, "10.6.0.1:8080blue 10.6.0.2:8080blue "},
		{"a slice more, and edited at once", func() {
			must(t, ends.Add(newSlice("a-2", "a", "10.8.0.1")))
			must(t, ends.Update(newSlice("a-2", "a", "10.8.0.2")))
		}, 1, "10.6.0.1:8080blue 10.6.0.2:8080blue 10.8.0.2:8080 "},
		{"a slice moves to another Service", func() { must(t, ends.Update(newSlice("a-2", "b", "10.8.0.2"))) }, 2, "10.6.0.1:8080blue 10.6.0.2:8080blue "},
		{"an external IP of one is the cluster IP of the other", func() {
			thief := newService("b", "10.96.0.2")
			thief.Spec.ExternalIPs = []string{"10.96.0.1"}
			must(t, specs.Update(thief))
		}, 0, "10.6.0.1:8080blue 10.6.0.2:8080blue "},
		{"and freed when that goes", func() { must(t, specs.Delete(a)) }, 2, ""},
		{"and taken back", func() { must(t, specs.Add(a)) }, 2, "10.6.0.1:8080blue 10.6.0.2:8080blue "},
		{"headless now", func() {
			h := newService("a", "None")
			must(t, specs.Update(h))
		}, 2, ""},
		{"all goes in a relist", func() { must(t, specs.Replace(nil, "")); must(t, ends.Replace(nil, "")) }, 1, ""},
	}
	for _, step := range steps {
		sink.calls = 0
		step.do()
		settle(t, s)
		if got := sink.backends("default/a"); got != step.a || sink.calls != step.calls {
			t.Errorf("%s: %d calls, backends %q; want %d, %q", step.name, sink.calls, got, step.calls, step.a)
		}
	}
	if n, m := s.state.counts(); n+m+len(s.state.services)+len(s.state.bySlice)+len(s.state.told)+len(s.sinks[0].since) != 0 {
		t.Errorf("left behind: %d Services, %d endpoints, %v", n, m, s.state.services)
	}
}

// TestZone: hints mean something else once this node's zone is another.
func TestZone(t *testing.T) {
	sink := newFakeSink()
	s := newRig(sink)
	start(t, s)
	slice := newSlice("a-1", "a", "10.6.0.1", "10.6.0.2")
	for i, zone := range []string{"x", "y"} {
		slice.Endpoints[i].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}}
	}
	must(t, s.state.specs().Add(newService("a", "10.96.0.1")))
	must(t, s.state.slices().Add(slice))
	for _, tt := range []struct{ node, zone, want string }{
		{"node-a", "x", "10.6.0.1:8080 "},
		{"node-b", "y", "10.6.0.1:8080 "},
		{"node-a", "y", "10.6.0.2:8080 "},
		{"node-a", "", "10.6.0.1:8080 10.6.0.2:8080 "},
	} {
		n := newNode(tt.node)
		n.Labels = map[string]string{corev1.LabelTopologyZone: tt.zone}
		must(t, s.state.nodes().Update(n))
		settle(t, s)
		if got := sink.backends("default/a"); got != tt.want {
			t.Errorf("%s in zone %q: got %q, want %q", tt.node, tt.zone, got, tt.want)
		}
	}
}

// TestIncremental: whatever happens in whatever order, and however sinks fail, in the end each has what one that starts then is given.
func TestIncremental(t *testing.T) {
	pools := []*ipam.Pool{pool(t, "blue", "10.6.0.0/30"), pool(t, "red", "10.6.0.4/30")}
	rapid.Check(t, func(t *rapid.T) {
		failing := newFakeSink()
		failing.fails = func(name string) bool { return name != "" && rapid.IntRange(0, 4).Draw(t, "fails") == 0 }
		sinks := []*fakeSink{newFakeSink(), failing}
		s := newRig(sinks...)
		defer func() {
			for _, k := range s.sinks {
				k.queue.ShutDown()
			}
		}()
		start(t, s)
		specs, ends, nodes := s.state.specs(), s.state.slices(), s.state.nodes()
		objects := map[string]any{}
		put := func(kind, name string, o any, to cache.ReflectorStore) {
			key := kind + name
			switch old := objects[key]; {
			case o == nil && old == nil:
			case o == nil:
				must(t, to.Delete(old))
				delete(objects, key)
			default:
				must(t, to.Update(o))
				objects[key] = o
			}
		}
		list := func(kind string) (out []any) {
			for key, o := range objects {
				if strings.HasPrefix(key, kind) {
					out = append(out, o)
				}
			}
			return out
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
			gone := rapid.IntRange(0, 3).Draw(t, "gone") == 0
			switch rapid.SampledFrom([]string{"service", "slice", "node", "pools", "relist", "settle"}).Draw(t, "what") {
			case "service":
				var o any
				if !gone {
					o = drawService(t, name)
				}
				put("service", name, o, specs)
			case "slice":
				var o any
				if !gone {
					o = drawSlice(t, name)
				}
				put("slice", name, o, ends)
			case "node":
				var o any
				if !gone {
					n := newNode("node-"+name, fmt.Sprintf("10.6.0.%d", rapid.IntRange(1, 7).Draw(t, "address")))
					n.Labels = map[string]string{corev1.LabelTopologyZone: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "zone")}
					o = n
				}
				put("node", name, o, nodes)
			case "pools":
				s.SetPools(pools[:rapid.IntRange(0, 2).Draw(t, "pools")])
			case "relist": // after a watch that missed what happened
				for _, kind := range []string{"service", "slice", "node"} {
					if gone {
						delete(objects, kind+name)
					}
				}
				must(t, specs.Replace(list("service"), ""))
				must(t, ends.Replace(list("slice"), ""))
				must(t, nodes.Replace(list("node"), ""))
			case "settle":
				settle(t, s)
			}
		}
		failing.fails = nil
		settle(t, s)

		want := newFakeSink()
		fresh := newRig(want)
		defer fresh.sinks[0].queue.ShutDown()
		must(t, fresh.state.nodes().Replace(list("node"), ""))
		must(t, fresh.state.slices().Replace(list("slice"), ""))
		must(t, fresh.state.specs().Replace(list("service"), ""))
		fresh.SetPools(s.state.pools)
		must(t, fresh.sinks[0].sync())
		for i, sink := range sinks {
			if d := cmp.Diff(want.text(), sink.text()); d != "" {
				t.Fatalf("sink %d: from scratch -, step by step +\n%s", i, d)
			}
		}
		if n, m := s.state.counts(); true {
			if wn, wm := fresh.state.counts(); n != wn || m != wm {
				t.Fatalf("%d Services and %d endpoints, want %d and %d", n, m, wn, wm)
			}
		}
	})
}

func drawService(t *rapid.T, name string) *corev1.Service {
	s := newService(name, rapid.SampledFrom([]string{"10.96.0.1", "10.96.0.2", "10.96.0.3", "None"}).Draw(t, "cluster IP"))
	s.CreationTimestamp = metav1.Unix(int64(rapid.IntRange(0, 1).Draw(t, "created")), 0)
	s.Spec.ExternalIPs = rapid.SliceOfN(rapid.SampledFrom([]string{"10.96.0.1", "192.0.2.1", "x"}), 0, 2).Draw(t, "external IPs")
	if rapid.Bool().Draw(t, "local") {
		local := corev1.ServiceInternalTrafficPolicyLocal
		s.Spec.InternalTrafficPolicy = &local
	}
	return s
}

func drawSlice(t *rapid.T, name string) *discoveryv1.EndpointSlice {
	of := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "of")
	s := newSlice("slice-"+name, of, rapid.SliceOfN(rapid.SampledFrom([]string{"10.6.0.1", "10.6.0.2", "10.6.0.5", "127.0.0.1"}), 0, 3).Draw(t, "addresses")...)
	for i := range s.Endpoints {
		node := rapid.SampledFrom([]string{"node-a", "node-b"}).Draw(t, "node")
		s.Endpoints[i].NodeName = &node
		if rapid.IntRange(0, 3).Draw(t, "hinted") > 0 {
			s.Endpoints[i].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "hint")}}}
		}
	}
	return s
}

// TestSinkFails: one that fails is tried again, with what is true by then, and the other does not wait for it.
func TestSinkFails(t *testing.T) {
	bad, good := newFakeSink(), newFakeSink()
	fails := true
	bad.fails = func(string) bool { return fails }
	s := newRig(bad, good)
	must(t, s.state.specs().Replace([]any{newService("a", "10.96.0.1")}, ""))
	must(t, s.state.slices().Replace(nil, ""))
	must(t, s.state.nodes().Replace(nil, ""))
	run(t, s)
	if s.Ready() {
		t.Fatal("ready before pools are known")
	}
	s.SetPools(nil)
	until(t, good, func() bool { return good.syncs == 1 && len(good.has) == 1 })
	must(t, s.state.slices().Add(newSlice("a-1", "a", "10.6.0.1")))
	until(t, good, func() bool { return len(good.has["default/a"].Ports[0].Backends) == 1 })
	if s.Ready() {
		t.Error("ready while a sink is not")
	}
	bad.mu.Lock()
	fails = false
	bad.mu.Unlock()
	until(t, bad, func() bool { return bad.syncs == 1 && len(bad.has["default/a"].Ports[0].Backends) == 1 })
	bad.mu.Lock()
	fails = true
	bad.mu.Unlock()
	must(t, s.state.slices().Update(newSlice("a-1", "a", "10.6.0.2")))
	must(t, s.state.specs().Add(newService("b", "10.96.0.2")))
	until(t, good, func() bool { return len(good.has) == 2 })
	until(t, bad, func() bool { return bad.calls > 4 })
	must(t, s.state.specs().Delete(newService("a", "")))
	until(t, good, func() bool { return len(good.has) == 1 })
	bad.mu.Lock()
	fails = false
	bad.mu.Unlock()
	until(t, bad, func() bool { _, a := bad.has["default/a"]; _, b := bad.has["default/b"]; return !a && b })
	until(t, bad, s.Ready)
}

// until a state is reached that the sink's calls lead to.
func until(t *testing.T, f *fakeSink, reached func() bool) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		f.mu.Lock()
		ok := reached()
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-f.wake:
		case <-time.After(20 * time.Millisecond):
		case <-limit:
			t.Fatalf("not reached; the sink has %v", slices.Collect(slices.Values(f.text())))
		}
	}
}
