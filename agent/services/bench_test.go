package services

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/service"
)

// The size that the service path is made for, as the other benchmarks of it have it.
const (
	manyServices = 10_000
	ofEach       = 5 // endpoints
)

// nothing is a sink that takes no time.
type nothing struct{ set chan string }

func (n nothing) Set(all ...service.Service) error {
	for _, s := range all {
		if n.set != nil {
			n.set <- s.Name
		}
	}
	return nil
}
func (nothing) Delete(...string) error       { return nil }
func (nothing) Sync([]service.Service) error { return nil }

func serviceNumber(i int) *corev1.Service {
	s := newService(fmt.Sprintf("service-%05d", i), addressNumber("10.96.0.0", i))
	s.Spec.Ports[0].NodePort = int32(20000 + i)
	return s
}

func addressNumber(from string, i int) string {
	b := netip.MustParseAddr(from).As4()
	b[2], b[3] = byte(i>>8), byte(i)
	b[1] += byte(i >> 16)
	return netip.AddrFrom4(b).String()
}

func sliceNumber(i int) *discoveryv1.EndpointSlice {
	name := fmt.Sprintf("service-%05d", i)
	s := newSlice(name+"-abcde", name)
	for j := range ofEach {
		node := fmt.Sprintf("node-%d", j)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{addressNumber("10.6.0.0", i*ofEach+j)}, NodeName: &node,
			Hints: &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: fmt.Sprintf("zone-%d", j%3)}}}})
	}
	return s
}

// full follower of manyServices; ipam pools of all endpoints' addresses.
func full(b *testing.B, to Sink) *Services {
	s := newRig()
	s.sinks = []*sink{newSink("", to, s.state, 0, s.log)}
	s.state.sinks = s.sinks
	var specs, ends []any
	for i := range manyServices {
		for _, one := range []struct {
			from any
			to   *[]any
			by   func(any) (any, error)
		}{{serviceNumber(i), &specs, s.state.specs().Transformer()}, {sliceNumber(i), &ends, s.state.slices().Transformer()}} {
			small, err := one.by(one.from)
			must(b, err)
			*one.to = append(*one.to, small)
		}
	}
	must(b, s.state.specs().Replace(specs, ""))
	must(b, s.state.slices().Replace(ends, ""))
	must(b, s.state.nodes().Replace(nil, ""))
	s.SetPools([]*ipam.Pool{pool(b, "blue", "10.6.0.0/16")})
	return s
}

// BenchmarkChange is one changed slice among 10,000 Services, from the watch event to the sink, in the caller's goroutine.
func BenchmarkChange(b *testing.B) {
	s := full(b, nothing{})
	must(b, s.sinks[0].sync())
	ends := s.state.slices()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		slice := sliceNumber(i % manyServices)
		ready := i/manyServices%2 == 1
		slice.Endpoints[0].Conditions.Ready = &ready
		must(b, ends.Update(slice))
		name, _ := s.sinks[0].queue.Get()
		s.sinks[0].carryOut(name)
		s.sinks[0].queue.Done(name)
		i++
	}
}

// BenchmarkLatency is that with the goroutines as they run, one event after the other and in bursts of 1,000: milliseconds from each
// event to the sink. The events are made by the same two CPUs.
func BenchmarkLatency(b *testing.B) {
	for _, burst := range []int{1, 1000} {
		b.Run(fmt.Sprint("burst=", burst), func(b *testing.B) {
			set := make(chan string, burst)
			s := full(b, nothing{set})
			run(b, s)
			for !s.Ready() {
				time.Sleep(time.Millisecond)
			}
			ends := s.state.slices()
			var took []time.Duration
			i := 0
			for b.Loop() {
				came := map[string]time.Time{}
				var events []*discoveryv1.EndpointSlice
				for range burst {
					slice := sliceNumber(i % manyServices)
					ready := i/manyServices%2 == 1
					slice.Endpoints[0].Conditions.Ready = &ready
					events = append(events, slice)
					i++
				}
				go func() {
					for _, slice := range events {
						s.state.mu.Lock() // of the map, too
						came["default/"+slice.Labels[discoveryv1.LabelServiceName]] = time.Now()
						s.state.mu.Unlock()
						must(b, ends.Update(slice))
					}
				}()
				for range burst {
					name := <-set
					s.state.mu.Lock()
					took = append(took, time.Since(came[name]))
					s.state.mu.Unlock()
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

// BenchmarkSync builds all 10,000 Services.
func BenchmarkSync(b *testing.B) {
	s := full(b, nothing{})
	b.ReportAllocs()
	for b.Loop() {
		must(b, s.sinks[0].sync())
	}
}

// BenchmarkPools is an edit of a pool that concerns no endpoint, and one that concerns all.
func BenchmarkPools(b *testing.B) {
	s := full(b, nothing{})
	all, other := pool(b, "blue", "10.6.0.0/16"), pool(b, "red", "10.99.0.0/24")
	b.Run("none", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			s.SetPools([]*ipam.Pool{all, other}[:1+i%2])
		}
	})
	b.Run("all", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			s.SetPools([]*ipam.Pool{all}[:i%2])
		}
	})
}

// BenchmarkMemory is what 10,000 Services with 50,000 endpoints keep on the heap.
func BenchmarkMemory(b *testing.B) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := heap()
		s := full(b, nothing{})
		must(b, s.sinks[0].sync())
		b.ReportMetric(float64(heap()-before)/1e6, "MB")
		runtime.KeepAlive(s)
	}
}
