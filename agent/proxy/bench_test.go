//go:build linux

package proxy

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/berthdev/berth/service"
	"github.com/berthdev/berth/tests/netns"
)

// many Services of one port, with that many backends each.
func many(services, backends int) (all []service.Service) {
	for i := range services {
		all = append(all, oneOfMany(i, backends))
	}
	return all
}

func oneOfMany(i, backends int) service.Service {
	p := service.Port{Name: "http", Frontends: []service.Frontend{
		{Address: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80, Protocol: service.TCP}}}
	for b := range backends {
		n := i*5 + b
		p.Backends = append(p.Backends, service.Backend{Address: netip.AddrFrom4([4]byte{10, 128 | byte(n>>16), byte(n >> 8), byte(n)}), Port: 8080})
	}
	return service.Service{Name: fmt.Sprintf("namespace-%d/service-%d", i%100, i), Ports: []service.Port{p}}
}

// BenchmarkProxy: 10,000 Services with 50,000 endpoints, as made, as found again, and with one endpoint less or more.
func BenchmarkProxy(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		ns := netns.New(b)
		run := func(name string, f func(b *testing.B)) { // in a goroutine of its own, so the namespace is entered there
			b.Run(fmt.Sprintf("services=%d/%s", n, name), func(b *testing.B) { ns.Do(func() { f(b) }) })
		}
		quiet := slog.New(slog.DiscardHandler)
		p := New(quiet)
		all := many(n, 5)
		_ = p.SetLinks([]string{"vmac3"})
		run("first", func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for b.Loop() {
				b.StopTimer()
				if err := p.Remove(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := p.Sync(all); err != nil {
					b.Fatal(err)
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB-held")
		})
		run("again", func(b *testing.B) {
			for b.Loop() {
				if err := New(quiet).adopt(p.base.links, all); err != nil {
					b.Fatal(err)
				}
			}
		})
		run("endpoint", func(b *testing.B) {
			must(b, p.Sync(all)) // also if this runs alone
			var took []time.Duration
			i := 0
			b.ResetTimer()
			for b.Loop() {
				start := time.Now()
				if err := p.Set(oneOfMany(i%n, 4+i/n%2)); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
				i++
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
		})
	}
}

func (p *Proxy) adopt(links []string, all []service.Service) error {
	if err := p.SetLinks(links); err != nil {
		return err
	}
	return p.Sync(all)
}
