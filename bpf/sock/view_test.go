package sock

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthdev/berth/service"
)

func TestLookup(t *testing.T) {
	l := newLab(t)
	l.serve(port81, pods4...)
	l.serve(port80, vip4)
	mixed := affine(web(pods4[0]), time.Hour)
	mixed.Ports[0].Backends = append(mixed.Ports[0].Backends, service.Backend{Address: overlay4, Port: 1}, service.Backend{Address: node4, Port: 2, Node: true})
	mixed.Ports[0].Frontends = append(mixed.Ports[0].Frontends, frontends(netip.IPv4Unspecified(), 30080, service.TCP)...)
	mixed.Ports[1].Steered = "someone's wish"
	l.set(mixed)
	l.must(l.p.SetNodes([]netip.Addr{node4}))
	view, err := Open(l.cfg.PinDir)
	l.must(err)
	defer view.Close()

	choices := []Choice{
		{netip.AddrPortFrom(pods4[0], port81), true},
		{netip.AddrPortFrom(overlay4, 1), false},
		{netip.AddrPortFrom(node4, 2), true},
	}
	notNative := slices.Clone(choices)
	notNative[0].Native, notNative[2].Native = false, false
	look := func(cookie uint64, a netip.Addr, port uint16, protocol service.Protocol) Answer {
		t.Helper()
		got, err := view.Lookup(cookie, service.Frontend{Address: a, Port: port, Protocol: protocol})
		l.must(err)
		return got
	}
	for name, tc := range map[string]struct{ got, want Answer }{
		"tcp":          {look(l.cookie, vip4, 80, service.TCP), Answer{Pod: true, Service: true, Backends: choices, Affinity: time.Hour}},
		"NodePort":     {look(l.cookie, node4, 30080, service.TCP), Answer{Pod: true, Service: true, Backends: choices, Affinity: time.Hour}},
		"no node":      {look(l.cookie, overlay4, 30080, service.TCP), Answer{Pod: true}},
		"no such port": {look(l.cookie, vip4, 81, service.TCP), Answer{Pod: true}},
		"no such pod":  {look(1<<60, vip4, 80, service.TCP), Answer{Service: true, Backends: notNative, Affinity: time.Hour}},
		"steered":      {look(l.cookie, vip4, 80, service.UDP), Answer{Pod: true, Service: true, Steered: true}},
		"refused":      {look(l.cookie, vip6, 80, service.TCP), Answer{Pod: true, Service: true, Affinity: time.Hour}},
	} {
		byBackend := cmpopts.SortSlices(func(a, b Choice) bool { return a.Backend.Compare(b.Backend) < 0 })
		if diff := cmp.Diff(tc.want, tc.got, netipCmp, byBackend); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}

	// What affinity keeps.
	l.set(affine(web(pods4...), time.Hour))
	who := l.who(styles[0])
	if k := look(l.cookie, vip4, 80, service.TCP).Kept; k == nil || k.Backend.Addr().String() != who || k.For > time.Hour || k.For < time.Hour-time.Minute {
		t.Errorf("kept %+v, want %s for an hour", k, who)
	}
	l.set(with(affine(web(), time.Hour), func(p *service.Port) { p.Backends = overlay(p) }))
	l.who(styles[0])
	if k := look(l.cookie, vip4, 80, service.TCP).Kept; k == nil || k.Backend.IsValid() {
		t.Errorf("kept %+v, want left to the node", k)
	}
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("no error where nothing is pinned")
	}
}

func TestPods(t *testing.T) {
	l := newLab(t)
	ways := slices.Repeat([]Way{{"other", netip.MustParsePrefix("10.9.0.0/16")}}, maxWays)
	if err := l.p.SetPod(7, Pod{append(ways, ways[0])}); !errors.Is(err, ErrTooManyWays) {
		t.Errorf("9 ways: %v", err)
	}
	if err := l.p.SetPod(7, Pod{[]Way{{}}}); err == nil {
		t.Error("no error for no prefix")
	}
	l.serve(port81, pods4[0], pods6[0])
	l.serve(port80, vip4, vip6)
	l.set(web(pods4[0], pods6[0]))
	want := func(what string, translated bool) {
		t.Helper()
		for _, st := range styles {
			who := st.vip
			if translated {
				who = st.of(pods4[0], pods6[0])
			}
			if got := l.who(st); got != who.String() {
				t.Errorf("%s: %s: %s answers, want %s", what, st.name, got, who)
			}
		}
	}
	// The eighth counts, and both families are apart.
	l.must(l.p.SetPod(l.cookie, Pod{append(ways[:6:6], defaultWays[:2]...)}))
	want("the last ways", true)
	l.must(l.p.SetPod(l.cookie, Pod{[]Way{{inNet, netip.MustParsePrefix("::/0")}, {inNet, netip.MustParsePrefix("0.0.0.0/0")}}}))
	want("all", true)
	// All of one family is nothing of the other.
	l.must(l.p.SetPod(l.cookie, Pod{[]Way{{inNet, netip.MustParsePrefix("::/0")}}}))
	for _, st := range styles {
		if got, want := l.who(st), st.of(vip4, pods6[0]).String(); got != want {
			t.Errorf("IPv6 only: %s: %s answers, want %s", st.name, got, want)
		}
	}
	l.must(l.p.SyncPods(map[uint64]Pod{7: {defaultWays}}))
	want("others", false)
	l.must(l.p.SyncPods(map[uint64]Pod{7: {defaultWays}, l.cookie: {defaultWays}}))
	want("synced", true)
	if err := l.p.SyncPods(map[uint64]Pod{7: {defaultWays}, l.cookie: {append(ways, ways...)}}); !errors.Is(err, ErrTooManyWays) {
		t.Errorf("16 ways: %v", err)
	}
	want("wrong", false)
	l.must(l.p.SetPod(l.cookie, Pod{defaultWays}))
	l.restart(web(pods4[0], pods6[0]))
	want("after a restart", true)
	l.must(l.p.DeletePods(l.cookie))
	l.must(l.p.DeletePods(l.cookie))
	want("deleted", false)
}

// Of two Services with the same frontend the first by name has it; when that goes, the other.
func TestSameFrontend(t *testing.T) {
	l := newLab(t)
	l.serve(port81, pods4...)
	l.serve(port80, vip4)
	of := func(name string, a netip.Addr) service.Service {
		s := web(a)
		s.Name = name
		return s
	}
	want := func(who netip.Addr) {
		t.Helper()
		if got := l.who(styles[0]); got != who.String() {
			t.Errorf("%s answers, want %s", got, who)
		}
	}
	l.set(of("b", pods4[1]))
	want(pods4[1])
	l.set(of("c", pods4[2]))
	want(pods4[1])
	l.set(of("a", pods4[0]))
	want(pods4[0])
	l.restart(of("c", pods4[2]), of("b", pods4[1]), of("a", pods4[0]))
	want(pods4[0])
	_, err := l.p.Delete("a", "nobody")
	l.must(err)
	want(pods4[1])
	l.set(service.Service{Name: "b"})
	want(pods4[2])
	_, err = l.p.Delete("c")
	l.must(err)
	want(vip4)
	l.wantEntries(0, 0, 0, 0)
}

// A Service that is wrong is left to the node, and holds up no other.
func TestWrongService(t *testing.T) {
	l := newLab(t)
	l.serve(port81, pods4[0])
	l.serve(port80, vip4)
	wrong := web(pods4[0])
	l.set(wrong)
	wrong.Ports[0].Backends[0].Address = pods6[0]
	good := with(web(pods4[0]), func(p *service.Port) { p.Frontends[0].Port = 82 })
	good.Name = "default/good"
	if _, err := l.p.Set(wrong, good); err == nil {
		t.Error("no error")
	}
	if got := l.who(styles[0]); got != vip4.String() {
		t.Errorf("%s answers for the wrong one", got)
	}
	if a, err := l.ask(styles[0], netip.AddrPortFrom(vip4, 82)); err != nil || a.Who != pods4[0].String() {
		t.Errorf("the good one: %v, %v", a, err)
	}
}

// When a map is full, what does not fit is left to the node, and what is there stays.
func TestFull(t *testing.T) {
	l := newLab(t)
	l.serve(port81, pods4[0], pods6[0])
	l.serve(82, vip4)
	l.set(web(pods4[0], pods6[0]))
	big := service.Service{Name: "default/big"}
	for i := range 9 {
		p := service.Port{Frontends: frontends(vip4, uint16(82+i), service.TCP)}
		for j := range maxBackends {
			p.Backends = append(p.Backends, service.Backend{Address: overlay4, Port: uint16(1 + j)})
		}
		big.Ports = append(big.Ports, p)
	}
	if _, err := l.p.Set(big); err == nil || !strings.Contains(err.Error(), "is full, with 262144 entries") {
		t.Errorf("too many: %v", err)
	}
	for _, st := range styles {
		if got, want := l.who(st), st.of(pods4[0], pods6[0]).String(); got != want {
			t.Errorf("%s: %s answers, want %s", st.name, got, want)
		}
	}
	big.Ports = big.Ports[:1]
	l.wantCounted(map[string]uint64{"node_not_native": 1}, func() {
		l.set(big)
		if a, err := l.ask(styles[0], netip.AddrPortFrom(vip4, 82)); err != nil || a.Who != vip4.String() {
			t.Errorf("%v, %v", a, err)
		}
	})
	big.Ports[0].Backends = append(big.Ports[0].Backends, service.Backend{Address: overlay4, Port: 65535})
	l.wantCounted(map[string]uint64{"node_steered": 1}, func() {
		l.set(big)
		if a, err := l.ask(styles[0], netip.AddrPortFrom(vip4, 82)); err != nil || a.Who != vip4.String() {
			t.Errorf("%v, %v", a, err)
		}
	})
	l.wantEntries(5, 5, 4, 4)
}
