package sock

import (
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkConnect times connect() of a UDP socket, which does nothing beside routing: what the programs add is not lost in it. Of
// "untouched" the cgroup has programs, but the namespace is no pod's.
func BenchmarkConnect(b *testing.B) {
	l := newLab(b)
	backend := netip.AddrPortFrom(pods4[0], port81)
	vip := netip.AddrPortFrom(vip4, port80)
	connect := func(name string, to netip.AddrPort) {
		b.Run(name, func(b *testing.B) {
			s := l.newSocket(l.pod, unix.AF_INET, unix.SOCK_DGRAM)
			defer s.close()
			address := s.address(to)
			runtime.GC() // of what was made for the maps
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			before := threadTime(b)
			for b.Loop() {
				if err := unix.Connect(s.fd, address); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(threadTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
	connect("no service", backend)
	l.set(web(pods4[0]))
	connect("translated", vip)
	connect("beside", backend)
	l.sync(append(many(10_000), web(pods4[0]))...)
	connect("translated, 10,000 services", vip)
	connect("beside, 10,000 services", backend)
	l.must(l.p.DeletePods(l.cookie))
	connect("untouched", vip)
	l.must(Remove(l.cfg.PinDir))
	connect("no program", vip)
}

// threadTime is what this thread has used of a CPU, in ns: on a machine that does other things, too, it says more than the clock.
func threadTime(b *testing.B) int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		b.Fatal(err)
	}
	return now.Nano()
}

// BenchmarkSet times a change of one Service, and what an agent does when it starts.
func BenchmarkSet(b *testing.B) {
	l := newLab(b)
	services := many(10_000)
	l.sync(services...)
	changes := 0
	b.Run("one of 10,000", func(b *testing.B) {
		var took []time.Duration
		for ; b.Loop(); changes++ {
			s := services[changes%len(services)]
			s.Ports[0].Backends = s.Ports[0].Backends[:4+changes/len(services)%2] // there are 5 at first
			begin := time.Now()
			l.set(s)
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "p99-ms")
	})
	b.Run("grace period", func(b *testing.B) {
		for b.Loop() {
			l.must(l.p.grace.wait())
		}
	})
	b.Run("Sync, nothing new", func(b *testing.B) {
		for b.Loop() {
			l.sync(services...)
		}
	})
	b.Run("Sync, all new", func(b *testing.B) {
		for b.Loop() {
			l.sync()
			l.sync(services...)
		}
	})
}
