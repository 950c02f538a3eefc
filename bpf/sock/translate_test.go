package sock

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/service"
)

var netipCmp = cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{})

// of says which of two addresses is of the style's family.
func (st style) of(v4, v6 netip.Addr) netip.Addr {
	if st.vip.Is4() {
		return v4
	}
	return v6
}

// seen is what the application should see when who answers it at the address.
func (st style) seen(who netip.Addr, at netip.AddrPort) answer {
	a := answer{Who: who.String()}
	if st.connected {
		a.Peer = at
	}
	if st.datagrams {
		a.From = at
	}
	return a
}

// counter of a translation.
func (st style) counter() string {
	if st.datagrams {
		return "translated_udp"
	}
	return "translated_tcp"
}

func TestTranslate(t *testing.T) {
	l := newLab(t)
	l.serve(port81, pods4[0], pods6[0])
	l.serve(port80, vip4, vip6)
	l.set(web(pods4[0], pods6[0]))

	for _, st := range styles {
		t.Run(st.name, func(t *testing.T) {
			l := &lab{TB: t, pod: l.pod, p: l.p}
			to := netip.AddrPortFrom(st.vip, port80)
			l.wantCounted(map[string]uint64{st.counter(): 1}, func() {
				got, err := l.ask(st, to)
				l.must(err)
				if diff := cmp.Diff(st.seen(st.of(pods4[0], pods6[0]), to), got, netipCmp); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// Who does not pass through the programs, or is not for them, comes to who answers at the VIP itself.
func TestLeft(t *testing.T) {
	l := newLab(t)
	stranger := newPod(t)
	l.serve(port81, pods4[0], pods6[0], overlay4, overlay6)
	l.serve(port80, vip4, vip6)
	serveIn(t, stranger, port80, vip4, vip6)
	native := web(pods4[0], pods6[0])

	for name, tc := range map[string]struct {
		set      service.Service
		pod      Pod
		stranger bool
		count    string
	}{
		"another namespace": {set: native, pod: Pod{defaultWays}, stranger: true},
		"no way":            {set: native, count: "node_not_native"},
		"another network":   {set: native, pod: Pod{[]Way{{"zone-b", netip.MustParsePrefix("::/0")}, {"zone-b", netip.MustParsePrefix("0.0.0.0/0")}}}, count: "node_not_native"},
		"another prefix":    {set: native, pod: Pod{[]Way{{inNet, netip.MustParsePrefix("10.1.1.0/24")}, {inNet, netip.MustParsePrefix("fd01:0:0:1::/64")}}}, count: "node_not_native"},
		"overlay":           {set: with(web(pods4[0], pods6[0]), func(p *service.Port) { p.Backends = overlay(p) }), pod: Pod{defaultWays}, count: "node_not_native"},
		"this node or an overlay pod, on the underlay": {
			set: with(web(pods4[0], pods6[0]), func(p *service.Port) { p.Backends[0].Network = "" }),
			pod: Pod{[]Way{{"", netip.MustParsePrefix("10.1.0.0/24")}, {"", netip.MustParsePrefix("fd01::/64")}}}, count: "node_not_native",
		},
		"steered": {set: with(web(pods4[0], pods6[0]), func(p *service.Port) { p.Steered = "someone's wish" }), pod: Pod{defaultWays}, count: "node_steered"},
		"sources": {set: with(web(pods4[0], pods6[0]), func(p *service.Port) { p.Sources = []netip.Prefix{underlay} }), pod: Pod{defaultWays}, count: "node_steered"},
		"drop":    {set: with(web(), func(p *service.Port) { p.Drop = true }), pod: Pod{defaultWays}, count: "node_steered"},
		"other port": {
			set: with(web(pods4[0], pods6[0]), func(p *service.Port) { p.Frontends[0].Port++ }), pod: Pod{defaultWays},
		},
		"SCTP": {
			set: with(web(pods4[0], pods6[0]), func(p *service.Port) { p.Frontends[0].Protocol = service.SCTP }), pod: Pod{defaultWays},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := &lab{TB: t, pod: l.pod, p: l.p, cookie: l.cookie}
			l.must(l.p.SetPod(l.cookie, tc.pod))
			l.set(tc.set)
			if tc.stranger {
				l.pod = stranger
			}
			for _, st := range styles {
				to := netip.AddrPortFrom(st.vip, port80)
				want := map[string]uint64{}
				if tc.count != "" {
					want[tc.count] = 1
				}
				l.wantCounted(want, func() {
					got, err := l.ask(st, to)
					l.must(err)
					if diff := cmp.Diff(st.seen(st.vip, to), got, netipCmp); diff != "" {
						t.Errorf("%s (-want +got):\n%s", st.name, diff)
					}
				})
			}
		})
	}
}

func overlay(p *service.Port) []service.Backend {
	a := overlay6
	if p.Frontends[0].Address.Is4() {
		a = overlay4
	}
	return []service.Backend{{Address: a, Port: port81}}
}

func TestRefuse(t *testing.T) {
	l := newLab(t)
	l.serve(port80, vip4, vip6)
	l.set(web())
	for _, st := range styles {
		l.wantCounted(map[string]uint64{"refused": 1}, func() {
			if a, err := l.ask(st, netip.AddrPortFrom(st.vip, port80)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: %v, %v; want ECONNREFUSED", st.name, a, err)
			}
		})
	}
	// The socket is not spoilt.
	l.serve(port81, pods4[0])
	s := styles[6].socket(l, l.pod)
	defer s.close()
	to := netip.AddrPortFrom(vip4, port80)
	if _, err := styles[6].ask(s, to); !errors.Is(err, unix.ECONNREFUSED) {
		t.Error(err)
	}
	l.set(web(pods4[0]))
	if a, err := styles[6].ask(s, to); err != nil || a.Who != pods4[0].String() {
		t.Errorf("%v, %v", a, err)
	}
}

func TestNodePort(t *testing.T) {
	l := newLab(t)
	l.serve(port81, pods4[0], pods6[0])
	l.serve(30080, node4, node6, overlay4, overlay6)
	s := with(web(pods4[0], pods6[0]), func(p *service.Port) {
		f := p.Frontends[0]
		f.Address, f.Port = netip.IPv6Unspecified(), 30080
		if p.Frontends[0].Address.Is4() {
			f.Address = netip.IPv4Unspecified()
		}
		p.Frontends = append(p.Frontends, f)
	})
	l.set(s)
	ask := func(st style, a netip.Addr, who netip.Addr) {
		t.Helper()
		to := netip.AddrPortFrom(a, 30080)
		got, err := l.ask(st, to)
		l.must(err)
		if diff := cmp.Diff(st.seen(who, to), got, netipCmp); diff != "" {
			t.Errorf("%s to %s (-want +got):\n%s", st.name, to, diff)
		}
	}
	for _, st := range styles {
		ask(st, st.of(node4, node6), st.of(node4, node6)) // no node's address yet
	}
	l.must(l.p.SetNodes([]netip.Addr{node4, node6, addr("192.168.1.6")}))
	for _, st := range styles {
		ask(st, st.of(node4, node6), st.of(pods4[0], pods6[0]))
		ask(st, st.of(overlay4, overlay6), st.of(overlay4, overlay6))
	}
	// The unspecified address means the pod itself, not a frontend of that address.
	for _, st := range styles[:2] {
		if got, err := l.ask(st, netip.AddrPortFrom(st.of(netip.IPv4Unspecified(), netip.IPv6Unspecified()), 30080)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, %v; want nobody", st.name, got, err)
		}
	}
	l.must(l.p.SetNodes(nil))
	for _, st := range styles {
		ask(st, st.of(node4, node6), st.of(node4, node6))
	}
}

// A backend of another node itself is native by the underlay, and chance leaves to the node what the pod does not reach.
func TestChoice(t *testing.T) {
	l := newLab(t)
	l.serve(port81, pods4[0], node4, overlay4)
	l.serve(port80, vip4)
	s := web(pods4[0])
	for i := range s.Ports {
		if len(s.Ports[i].Backends) > 0 {
			s.Ports[i].Backends = append(s.Ports[i].Backends, service.Backend{Address: node4, Port: port81, Node: true}, service.Backend{Address: overlay4, Port: port81})
		}
	}
	l.set(s)
	got := map[string]bool{}
	for _, st := range []style{styles[0], styles[3], styles[5], styles[6]} {
		for range 100 {
			got[st.name+" "+l.who(st)] = true
		}
	}
	want := map[string]bool{}
	for _, st := range []style{styles[0], styles[3], styles[5], styles[6]} {
		for _, a := range []netip.Addr{pods4[0], node4, vip4} {
			want[st.name+" "+a.String()] = true
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A connected socket hears of its peer only, so what it sends to its frontend by address goes there, too.
func TestConnectedAndNamed(t *testing.T) {
	l := newLab(t)
	l.serve(port81, slices.Concat(pods4, pods6)...)
	l.set(web(slices.Concat(pods4, pods6)...))
	for _, st := range styles[3:6] {
		to := netip.AddrPortFrom(st.vip, port80)
		s := st.socket(l, l.pod)
		defer s.close()
		first, err := st.ask(s, to)
		l.must(err)
		for range 20 {
			l.must(s.send(to))
			who, from, err := s.receive()
			l.must(err)
			if who != first.Who || from != to {
				t.Errorf("%s: %s answers as %s, want %s as %s", st.name, who, from, first.Who, to)
			}
		}
	}
}
