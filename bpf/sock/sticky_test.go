package sock

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/service"
)

func affine(s service.Service, d time.Duration) service.Service {
	return with(s, func(p *service.Port) { p.Affinity = d })
}

// whos are who answer n new connections, in order, each once.
func (l *lab) whos(st style, n int) []string {
	l.Helper()
	var all []string
	for range n {
		if who := l.who(st); !slices.Contains(all, who) {
			all = append(all, who)
		}
	}
	return all
}

func TestAffinity(t *testing.T) {
	l := newLab(t)
	other := newPod(t)
	all := slices.Concat(pods4, pods6)
	l.serve(port81, all...)
	serveIn(t, other, port81, all...)
	l.must(l.p.SetPod(cookieOf(t, other), Pod{defaultWays}))
	for _, st := range []style{styles[0], styles[1], styles[2], styles[3], styles[6]} {
		t.Run(st.name, func(t *testing.T) {
			l := &lab{TB: t, pod: l.pod, p: l.p, cookie: l.cookie, cfg: l.cfg}
			l.sync()
			l.set(affine(web(all...), time.Hour))
			var first string
			l.wantCounted(map[string]uint64{st.counter(): 30, "affinity_hit": 29}, func() {
				got := l.whos(st, 30)
				if first = got[0]; len(got) != 1 {
					t.Errorf("with affinity: answers of %v", got)
				}
			})
			// Another pod is another client: of 30 one has another backend at last.
			alone := &lab{TB: t, pod: other, p: l.p}
			for i := 0; alone.who(st) == first; i++ {
				l.set(service.Service{Name: "default/web"})
				l.set(affine(web(all...), time.Hour))
				if i == 30 {
					t.Fatal("another pod has the same backend always")
				}
			}

			// Gone: chosen anew, and kept.
			l.sync()
			l.set(affine(web(all...), time.Hour))
			first = l.who(st)
			rest := slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return a.String() == first })
			l.set(affine(web(rest...), time.Hour))
			l.wantCounted(map[string]uint64{st.counter(): 30, "affinity_hit": 29, "reselected": 1}, func() {
				if got := l.whos(st, 30); len(got) != 1 || got[0] == first {
					t.Errorf("with %s removed: answers of %v", first, got)
				}
			})
		})
	}
}

// Affinity is a number of seconds since the last use.
func TestAffinityEnds(t *testing.T) {
	l := newLab(t)
	l.serve(port81, pods4...)
	st := styles[0]
	l.set(affine(web(pods4...), time.Second))
	l.who(st)
	ends := func() *Kept {
		a, err := l.p.Lookup(l.cookie, service.Frontend{Address: vip4, Port: port80, Protocol: service.TCP})
		l.must(err)
		return a.Kept
	}
	// Used again and again, for longer than a second, it does not end. A test that was held up for that long has to start over.
	ok := eventually(func() bool {
		first, last := l.who(st), time.Now()
		for start := time.Now(); time.Since(start) < 1500*time.Millisecond; time.Sleep(20 * time.Millisecond) {
			if k := ends(); time.Since(last) > 900*time.Millisecond || k == nil {
				return false
			}
			if who := l.who(st); who != first {
				t.Errorf("%s, then %s, in use", first, who)
			}
			last = time.Now()
		}
		return true
	})
	if !ok {
		t.Error("affinity ends while it is used")
	}
	if !eventually(func() bool { return ends() == nil }) {
		t.Fatal("affinity does not end")
	}
	l.wantCounted(map[string]uint64{st.counter(): 1}, func() { l.who(st) })
}

// Of calls on two CPUs, the one that began later may be the first to note when it was: what the other then finds was used after it began.
func TestAffinityUsedMeanwhile(t *testing.T) {
	l := newLab(t)
	l.serve(port81, pods4...)
	st := styles[0]
	l.set(affine(web(pods4...), time.Hour))
	first := l.who(st)
	key := clientKey{Pod: l.cookie}
	l.must(l.p.maps.Frontends.Lookup(endpointOf(vip4, port80, service.TCP), &key.Service))
	for range 20 {
		var kept choice
		l.must(l.p.maps.Affinities.Lookup(key, &kept))
		kept.Used += uint64(time.Minute)
		l.must(l.p.maps.Affinities.Put(key, kept))
		if who := l.who(st); who != first {
			t.Fatalf("%s, then %s", first, who)
		}
	}
}

// What was left to the node stays with it: the node has chosen, and keeps to that by its own affinity.
func TestAffinityOfNode(t *testing.T) {
	l := newLab(t)
	l.serve(port81, pods4[0])
	l.serve(port80, vip4)
	with1 := with(affine(web(pods4[0]), time.Hour), func(p *service.Port) {
		if p.Frontends[0].Address.Is4() {
			p.Backends = append(p.Backends, service.Backend{Address: overlay4, Port: port81})
		}
	})
	for _, st := range []style{styles[0], styles[3], styles[6]} {
		ok := eventually(func() bool {
			l.sync()
			l.set(with1)
			return l.who(st) == vip4.String()
		})
		if !ok {
			t.Fatalf("%s: never left to the node", st.name)
		}
		l.wantCounted(map[string]uint64{"node_not_native": 20, "affinity_hit": 20}, func() {
			if diff := cmp.Diff([]string{vip4.String()}, l.whos(st, 20)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", st.name, diff)
			}
		})
	}
}

// A socket that is not connected stays with its backend, as conntrack would have it, until that is gone.
func TestFlow(t *testing.T) {
	l := newLab(t)
	all := slices.Concat(pods4, pods6)
	l.serve(port81, all...)
	for _, st := range styles[6:] {
		l.set(web(all...))
		to := netip.AddrPortFrom(st.vip, port80)
		s := st.socket(l, l.pod)
		defer s.close()
		first, err := st.ask(s, to)
		l.must(err)
		stays := func(want string, n int) {
			t.Helper()
			for range n {
				got, err := st.ask(s, to)
				l.must(err)
				if got.Who != want || got.From != to {
					t.Fatalf("%s: %s as %s, want %s as %s", st.name, got.Who, got.From, want, to)
				}
			}
		}
		stays(first.Who, 20)
		l.restart(web(all...))
		stays(first.Who, 20)

		rest := slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return a.String() == first.Who })
		l.set(web(rest...))
		var second answer
		l.wantCounted(map[string]uint64{"translated_udp": 1, "reselected": 1}, func() {
			second, err = st.ask(s, to)
			l.must(err)
		})
		if second.Who == first.Who {
			t.Errorf("%s: still %s, which was removed", st.name, first.Who)
		}
		l.set(web(all...))
		stays(second.Who, 20)
	}
}

// draining is web, one of whose pods serves on but gets nothing new.
func draining(ends string, all ...netip.Addr) service.Service {
	return with(web(all...), func(p *service.Port) {
		p.Backends = slices.Clone(p.Backends)
		for i, b := range p.Backends {
			if b.Address.String() == ends {
				p.Backends, p.Staying = slices.Delete(p.Backends, i, i+1), []service.Backend{b}
				return
			}
		}
	})
}

// Flows, and connected sockets, stay with a backend that serves on, though it gets nothing new; and go when it does.
func TestStays(t *testing.T) {
	l := newLab(t)
	all := slices.Concat(pods4, pods6)
	l.serve(port81, all...)
	for _, st := range styles[3:] {
		l.set(web(all...))
		to := netip.AddrPortFrom(st.vip, port80)
		s := st.socket(l, l.pod)
		defer s.close()
		named := netip.AddrPort{}
		if st.connected {
			l.must(s.connect(to))
		} else {
			named = to
		}
		ask := func(s *socket, named netip.AddrPort) string {
			t.Helper()
			l.must(s.send(named))
			who, from, err := s.receive()
			l.must(err)
			if from != to {
				t.Errorf("%s: %s answers as %s", st.name, who, from)
			}
			return who
		}
		first := ask(s, named)
		stays := func(when string, removed []Removed) {
			t.Helper()
			if n, err := l.p.DestroyUDP(l.pod.Path(), removed); n != 0 || err != nil {
				t.Errorf("%s, %s: %d ended, %v", st.name, when, n, err)
			}
			for range 10 {
				if who := ask(s, named); who != first {
					t.Fatalf("%s, %s: from %s to %s", st.name, when, first, who)
				}
			}
		}
		ends := draining(first, all...)
		stays("it ends", l.set(ends))
		l.restart(ends)
		stays("restarted", nil)
		for range 20 {
			if l.who(st) == first {
				t.Fatalf("%s: a new flow to %s", st.name, first)
			}
		}
		stays("back", l.set(web(all...)))
		stays("it ends again", l.set(ends))
		removed := l.set(web(slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return a.String() == first })...))
		n, err := l.p.DestroyUDP(l.pod.Path(), removed)
		l.must(err)
		if st.connected && n != 1 {
			t.Errorf("%s: %d ended, want 1", st.name, n)
		}
		if !st.connected && ask(s, named) == first {
			t.Errorf("%s: still %s", st.name, first)
		}
	}
}

// Affinity is of what begins anew: it does not lead to a backend that gets nothing new.
func TestAffinityOfDraining(t *testing.T) {
	l := newLab(t)
	all := slices.Concat(pods4, pods6)
	l.serve(port81, all...)
	sticky := func(s service.Service) service.Service {
		return with(s, func(p *service.Port) { p.Affinity = time.Hour })
	}
	for _, st := range styles {
		l.set(sticky(web(all...)))
		first := l.who(st)
		l.set(sticky(draining(first, all...)))
		if l.who(st) == first {
			t.Errorf("%s: a new flow to %s", st.name, first)
		}
	}
}

// Policies split a port of a Service into two, and join them again. A socket is told of the frontend as before.
func TestJoined(t *testing.T) {
	l := newLab(t)
	l.serve(port81, pods4[0], pods6[0])
	second := with(web(pods4[0], pods6[0]), func(p *service.Port) { p.Frontends[0].Port = 83 })
	split := web(pods4[0], pods6[0])
	split.Ports = append(split.Ports, second.Ports...)
	joined := with(web(pods4[0], pods6[0]), func(p *service.Port) {
		p.Frontends = append(p.Frontends, service.Frontend{Address: p.Frontends[0].Address, Port: 83, Protocol: p.Frontends[0].Protocol})
	})
	for _, st := range styles[3:] {
		for _, port := range []uint16{port80, 83} {
			l.sync(split)
			to := netip.AddrPortFrom(st.vip, port)
			s := st.socket(l, l.pod)
			defer s.close()
			_, err := st.ask(s, to)
			l.must(err)
			named := to
			if st.connected {
				named = netip.AddrPort{}
			}
			l.must(s.send(named))
			l.set(joined)
			_, from, err := s.receive()
			l.must(err)
			if from != to {
				t.Errorf("%s to %s: from %s", st.name, to, from)
			}
		}
	}
}

// Nothing that a socket once meant by an address is told of another use of it.
func TestStale(t *testing.T) {
	l := newLab(t)
	l.serve(port81, pods4[0], pods4[1], pods6[0], pods6[1])
	l.serve(port80, vip4, vip6)
	for _, st := range styles {
		to := netip.AddrPortFrom(st.vip, port80)
		backend := netip.AddrPortFrom(st.of(pods4[0], pods6[0]), port81)
		want := func(s *socket, to, as netip.AddrPort) {
			t.Helper()
			got, err := st.ask(s, to)
			l.must(err)
			if diff := cmp.Diff(st.seen(backend.Addr(), as), got, netipCmp); diff != "" {
				t.Errorf("%s to %s (-want +got):\n%s", st.name, to, diff)
			}
		}

		// The socket speaks to the backend itself after it spoke to the Service.
		l.set(web(pods4[0], pods6[0]))
		s := st.socket(l, l.pod)
		defer s.close()
		if st.datagrams {
			want(s, to, to)
			want(s, backend, backend)
			want(s, to, to)
		} else {
			// A stream connects once, unless it fails.
			l.must(s.connect(to))
			l.must(s.disconnect())
			want(s, backend, backend)
		}

		// The address goes to somebody else, who sends to the socket on their own. That is no answer of the Service.
		if st.datagrams && !st.connected {
			want(s, to, to)
			l.must(s.send(to)) // its answer waits while the backend goes
			l.set(web(pods4[1], pods6[1]))
			if _, from, err := s.receive(); err != nil || from != backend {
				t.Errorf("%s: from %s, %v; want %s, which is no backend any more", st.name, from, err, backend)
			}
		}
		// Another socket never heard of it.
		fresh := st.socket(l, l.pod)
		defer fresh.close()
		want(fresh, backend, backend)
	}
}
