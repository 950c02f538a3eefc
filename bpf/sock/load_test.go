package sock

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/service"
	"github.com/berthdev/berth/tests/churn"
)

// applications ask without end, until stop. During that each gets an answer of someone that may: those of the calls that were backends at any
// time between a question and its answer.
type applications struct {
	l       *lab
	mu      sync.RWMutex
	allowed map[string]bool
	asked   atomic.Int64
	done    chan struct{}
	running sync.WaitGroup
	stop    func()
}

// applications of each style, one that asks by new sockets.
func (l *lab) applications(allowed ...netip.Addr) *applications {
	l.Helper()
	a := &applications{l: l, allowed: map[string]bool{}, done: make(chan struct{})}
	a.stop = sync.OnceFunc(func() { close(a.done); a.running.Wait() })
	l.Cleanup(a.stop)
	a.allow(allowed...)
	for _, st := range styles {
		a.start(st.name, func() (answer, error) { return l.ask(st, netip.AddrPortFrom(st.vip, port80)) })
	}
	return a
}

// keep asking by one socket. It is of datagrams: after its answer TCP has nothing more of the programs.
func (a *applications) keep(st style) {
	s, to := st.socket(a.l, a.l.pod), netip.AddrPortFrom(st.vip, port80)
	a.l.Cleanup(func() { a.stop(); s.close() })
	if st.connected {
		a.l.must(s.connect(to))
		to = netip.AddrPort{}
	}
	a.start(st.name+", kept", func() (got answer, err error) {
		if err = s.send(to); err == nil {
			got.Who, _, err = s.receive()
		}
		return got, err
	})
}

func (a *applications) start(name string, ask func() (answer, error)) {
	a.running.Go(func() {
		for {
			select {
			case <-a.done:
				return
			default:
			}
			a.mu.RLock()
			got, err := ask()
			switch {
			case err != nil:
				a.l.Errorf("%s: %v", name, err)
			case !a.allowed[got.Who]:
				a.l.Errorf("%s: answer of %s, allowed is %v", name, got.Who, a.allowed)
			}
			a.mu.RUnlock()
			a.asked.Add(1)
		}
	})
}

// allow waits for questions under way.
func (a *applications) allow(addresses ...netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.allowed)
	for _, b := range addresses {
		a.allowed[b.String()] = true
	}
}

// more waits for n more questions.
func (a *applications) more(n int64) {
	a.l.Helper()
	until := a.asked.Load() + n
	if !eventually(func() bool { return a.asked.Load() >= until }) {
		a.l.Fatal("applications do not get on")
	}
}

// A Service changes under load: no question fails, and none that begins after a change goes to what that removed.
func TestChangeUnderLoad(t *testing.T) {
	l := newLab(t)
	all := slices.Concat(pods4, pods6)
	l.serve(port81, all...)
	l.set(web(all...))
	a := l.applications(all...)
	for i := range 60 {
		set := []netip.Addr{pods4[i%3], pods6[i%3]}
		if i%2 == 0 {
			set = append(set, pods4[(i+1)%3], pods6[(i+1)%3])
		}
		a.allow(all...)
		l.set(web(set...), service.Service{Name: fmt.Sprint("other", i), Ports: []service.Port{{
			Frontends: frontends(addr("10.96.1.1"), uint16(i+1), service.TCP),
			Backends:  []service.Backend{{Address: overlay4, Port: 1}},
		}}})
		a.allow(set...)
		a.more(30)
	}
	a.stop()
}

// TestRemovedUnderLoad: under load more than 100 changes of endpoints a second reach the maps, and no call that begins after a backend's removal is
// there goes to it. Changes that come while others are written are written together, as the agent does it.
func TestRemovedUnderLoad(t *testing.T) {
	l := newLab(t)
	l.serve(port81, slices.Concat(pods4, pods6)...)
	const services, changes, rate = 8, 400, 125 // a second
	to := func(i int, pods ...int) (s service.Service, names []string) {
		var of []netip.Addr
		for _, n := range pods {
			of = append(of, pods4[n%3], pods6[n%3])
			names = append(names, pods4[n%3].String(), pods6[n%3].String())
		}
		s = with(web(of...), func(p *service.Port) { p.Frontends[0].Port = port80 + uint16(i) })
		s.Name = fmt.Sprintf("default/web%d", i)
		return s, names
	}
	var histories [services]churn.History
	var have [services][]string
	for i := range services {
		s, names := to(i, 0, 1, 2)
		l.set(s)
		histories[i].Now(names...)
		have[i] = names
	}
	var asked atomic.Int64
	var clients sync.WaitGroup
	done := make(chan struct{})
	stop := sync.OnceFunc(func() { close(done); clients.Wait() })
	defer stop()
	for _, st := range styles {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				h := &histories[n%services]
				since := h.At()
				got, err := l.ask(st, netip.AddrPortFrom(st.vip, port80+uint16(n%services)))
				if err != nil {
					l.Errorf("%s: %v", st.name, err)
				} else if !h.Ever(got.Who, since) {
					l.Errorf("%s: answer of %s, which had been removed before the call began", st.name, got.Who)
				}
				asked.Add(1)
				time.Sleep(time.Millisecond) // the two CPUs of a test machine have to make changes, too
			}
		})
	}
	begin, writes := time.Now(), 0
	for made := 0; made < changes; writes++ {
		due := made
		for ; due == made; due = min(int(time.Since(begin).Seconds()*rate), changes) {
			time.Sleep(time.Millisecond)
		}
		next, set := map[int][]string{}, []service.Service{}
		for ; made < due && len(set) < services; made++ {
			i, pods := made%services, []int{made}
			if made/services%2 == 0 {
				pods = append(pods, made+1)
			}
			s, names := to(i, pods...)
			histories[i].Now(slices.Concat(have[i], names)...) // before it is told: either
			next[i], set = names, append(set, s)
		}
		l.set(set...)
		for i, names := range next {
			histories[i].Now(names...) // it is in the maps
			have[i] = names
		}
	}
	took := time.Since(begin)
	stop()
	t.Logf("%d changes, %.0f a second, in %d writes; %d calls", changes, changes/took.Seconds(), writes, asked.Load())
}

// Before the grace period nothing that programs may be looking at is deleted, and after it nothing more is to be awaited: what leads to
// it has gone by then. That programs do look at it meanwhile is too rare to be met by a test.
func TestGracePeriods(t *testing.T) {
	l := newLab(t)
	one := web(pods4[0])
	one.Ports = one.Ports[:1]
	two := web(pods4[:2]...)
	two.Ports = two.Ports[:1]
	moved := with(web(pods4[0]), func(p *service.Port) { p.Frontends[0].Port++ })
	moved.Ports = moved.Ports[:1]
	for _, tc := range []struct {
		name string
		set  service.Service
		want [][4]int // frontends, services, slots, members, at each grace period; then afterwards
	}{
		{"new", one, [][4]int{{1, 1, 1, 1}}},
		{"the same", one, [][4]int{{1, 1, 1, 1}}},
		{"backend more", two, [][4]int{{1, 1, 3, 2}, {1, 1, 2, 2}}},
		{"backend less", one, [][4]int{{1, 1, 3, 1}, {1, 1, 1, 1}}},
		{"frontend moved", moved, [][4]int{{0, 1, 2, 2}, {1, 2, 2, 1}, {1, 1, 1, 1}}},
		{"gone", service.Service{Name: moved.Name}, [][4]int{{0, 1, 1, 0}, {0, 0, 0, 0}}},
	} {
		var got [][4]int
		l.p.wait = func() error { got = append(got, l.entries()); return nil }
		l.set(tc.set)
		if got = append(got, l.entries()); !slices.Equal(got, tc.want) {
			t.Errorf("%s: entries %v, want %v", tc.name, got, tc.want)
		}
	}
}

// An agent restarts, and is upgraded, twenty times under load: no call is without program, by new sockets nor by kept ones.
func TestRestartUnderLoad(t *testing.T) {
	l := newLab(t)
	all := slices.Concat(pods4, pods6)
	l.serve(port81, all...)
	l.set(web(all...))
	a := l.applications(all...)
	for _, st := range styles[3:] {
		a.keep(st)
	}
	a.more(50)
	for range 20 {
		before := l.tableOf()
		l.restart(web(all...))
		if after := l.tableOf(); !equalTables(before, after) {
			t.Errorf("a restart changed the maps from %v to %v", before, after)
		}
		a.more(20)
	}
	a.stop()
	t.Logf("20 agents, %d calls", a.asked.Load())
}

// What was left half done, and what happened to the Services meanwhile, an agent makes right when it starts.
func TestRestartAfterChange(t *testing.T) {
	l := newLab(t)
	l.serve(port81, slices.Concat(pods4, pods6)...)
	l.serve(port80, vip4, vip6)
	l.set(web(pods4[0], pods6[0]))
	l.must(l.p.Close())
	l.attach()
	if _, err := l.p.Set(web(pods4[1], pods6[1])); !errors.Is(err, ErrNotSynced) {
		t.Errorf("Set before Sync: %v", err)
	}
	if _, err := l.p.Delete("default/web"); !errors.Is(err, ErrNotSynced) {
		t.Errorf("Delete before Sync: %v", err)
	}
	for _, st := range styles {
		if who := l.who(st); who != st.of(pods4[0], pods6[0]).String() {
			t.Errorf("%s: %s answers before Sync", st.name, who)
		}
	}
	// Killed between slots and service; and between service and members.
	for id, r := range l.tableOf() {
		l.must(l.p.maps.Slots.Put(slotKey{id, r.generation + 1, 7}, endpoint{}))
		l.must(l.p.maps.Members.Put(memberKey{id, endpointOf(pods4[2], 1, service.UDP)}, uint64(0)))
	}
	l.must(l.p.maps.Slots.Put(slotKey{Service: 1}, endpoint{}))
	l.must(l.p.maps.Services.Put(uint32(1), serviceValue{Count: 1}))
	l.must(l.p.maps.Frontends.Put(endpoint{}, uint32(2)))

	removed := l.sync(web(pods4[1], pods6[1]))
	for _, a := range []netip.Addr{pods4[0], pods6[0]} {
		for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
			if want := (Removed{netip.AddrPortFrom(a, port81), protocol}); !slices.Contains(removed, want) {
				t.Errorf("removed %v, without %v", removed, want)
			}
		}
	}
	for _, st := range styles {
		if who := l.who(st); who != st.of(pods4[1], pods6[1]).String() {
			t.Errorf("%s: %s answers after Sync", st.name, who)
		}
	}
	l.wantEntries(4, 4, 4, 4)
	l.sync()
	l.wantEntries(0, 0, 0, 0)
	for _, st := range styles {
		if who := l.who(st); who != st.vip.String() {
			t.Errorf("%s: %s answers without Services", st.name, who)
		}
	}
}

// tableOf is what the maps have.
func (l *lab) tableOf() table {
	l.Helper()
	rows, err := l.p.load()
	l.must(err)
	return rows
}

func (l *lab) wantEntries(frontends, services, slots, members int) {
	l.Helper()
	if got, want := l.entries(), [4]int{frontends, services, slots, members}; got != want {
		l.Errorf("frontends, services, slots, members: %v, want %v", got, want)
	}
}

func (l *lab) entries() [4]int {
	l.Helper()
	f, s, sl, m := map[endpoint]uint32{}, map[uint32]serviceValue{}, map[slotKey]endpoint{}, map[memberKey]uint64{}
	l.must(errors.Join(contents(l.p.maps.Frontends, f), contents(l.p.maps.Services, s), contents(l.p.maps.Slots, sl), contents(l.p.maps.Members, m)))
	return [4]int{len(f), len(s), len(sl), len(m)}
}

// A socket that is connected to a backend that goes is ended, and no other.
func TestDestroyUDP(t *testing.T) {
	l := newLab(t)
	l.serve(port81, slices.Concat(pods4[:2], pods6[:2])...)
	l.serve(port80, vip4, vip6)
	second := with(web(pods4[0], pods6[0]), func(p *service.Port) { p.Frontends[0].Port = 82 })
	second.Name = "default/second"
	for _, st := range styles[3:6] {
		l.sync(web(pods4[0], pods6[0]), second)
		to := netip.AddrPortFrom(st.vip, port80)
		connected := func(to netip.AddrPort) *socket {
			s := st.socket(l, l.pod)
			t.Cleanup(s.close)
			l.must(s.connect(to))
			l.must(s.send(netip.AddrPort{}))
			_, _, err := s.receive()
			l.must(err)
			return s
		}
		stale, direct := connected(to), connected(netip.AddrPortFrom(st.of(pods4[0], pods6[0]), port81))
		another := connected(netip.AddrPortFrom(st.vip, 82))

		removed := l.set(web(pods4[1], pods6[1]))
		fresh := connected(to)
		n, err := l.p.DestroyUDP(l.pod.Path(), removed)
		if n != 1 || err != nil {
			t.Errorf("%s: %d destroyed, %v; want 1", st.name, n, err)
		}
		if _, _, err := stale.receive(); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("%s: receive says %v, want ECONNABORTED", st.name, err)
		}
		if err := stale.send(netip.AddrPort{}); !errors.Is(err, unix.EDESTADDRREQ) {
			t.Errorf("%s: send says %v, want EDESTADDRREQ", st.name, err)
		}
		if got, err := st.ask(stale, to); err != nil || got.Who != st.of(pods4[1], pods6[1]).String() {
			t.Errorf("%s: connected anew: %v, %v", st.name, got, err)
		}
		for name, s := range map[string]*socket{"direct": direct, "another Service": another, "fresh": fresh} {
			if err := s.send(netip.AddrPort{}); err != nil {
				t.Errorf("%s: %s: %v", st.name, name, err)
			}
		}
		// Without backend, without Service.
		removed, err = l.p.Delete("default/second")
		l.must(err)
		if n, err := l.p.DestroyUDP(l.pod.Path(), removed); n != 1 || err != nil {
			t.Errorf("%s: %d destroyed, %v; want 1", st.name, n, err)
		}
		if n, err := l.p.DestroyUDP(l.pod.Path(), removed); n != 0 || err != nil {
			t.Errorf("%s: %d destroyed again, %v", st.name, n, err)
		}
	}
	if _, err := l.p.DestroyUDP("/nowhere", []Removed{{netip.AddrPortFrom(vip4, 1), service.UDP}}); err == nil {
		t.Error("no error for a namespace that is not there")
	}
}

// TestDestroyUDPOfFrontends: who was connected by a frontend that goes, or becomes another Service's, is ended, though the backend
// serves others as before. So it is if the agent died before it came to that.
func TestDestroyUDPOfFrontends(t *testing.T) {
	l := newLab(t)
	l.serve(port81, slices.Concat(pods4[:2], pods6[:2])...)
	other := func(pods ...netip.Addr) service.Service {
		s := with(web(pods...), func(p *service.Port) { p.Frontends[0].Port = 82 })
		s.Name = "default/other"
		return s
	}
	both := func(s service.Service) service.Service {
		return with(s, func(p *service.Port) {
			f := p.Frontends[0]
			f.Port = 83
			p.Frontends = append(p.Frontends, f)
		})
	}
	first, second := []netip.Addr{pods4[0], pods6[0]}, []netip.Addr{pods4[1], pods6[1]}
	for _, st := range styles[3:6] {
		for name, next := range map[string]service.Service{"another's": both(other(second...)), "nobody's": other(second...)} {
			for _, dies := range []bool{false, true} {
				l.sync(both(web(first...)), other(second...))
				sockets := map[uint16]*socket{}
				for _, port := range []uint16{port80, 83} {
					s := st.socket(l, l.pod)
					defer s.close()
					l.must(s.connect(netip.AddrPortFrom(st.vip, port)))
					sockets[port] = s
				}
				removed := l.set(web(first...), next)
				if dies {
					l.must(l.p.Close())
					l.attach()
					removed = l.sync(web(first...), next)
				}
				if n, err := l.p.DestroyUDP(l.pod.Path(), removed); n != 1 || err != nil {
					t.Errorf("%s, %s, agent dies: %v: %d destroyed, %v; want 1", st.name, name, dies, n, err)
				}
				if err := sockets[port80].send(netip.AddrPort{}); err != nil {
					t.Errorf("%s, %s, agent dies: %v: %v", st.name, name, dies, err)
				}
			}
		}
	}
}
