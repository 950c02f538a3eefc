package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

// A pod sends as its lease, and as nobody else unless it opts out, whatever addresses it gives itself.
func TestSourceGuard(t *testing.T) {
	s := newSpace(t)
	pool := s.pool("pool", s.ranges("a", 1, 20))
	required := s.pool("required", s.ranges("a", 21, 30), func(p *v1alpha1.IPPoolSpec) { p.SourceGuard = v1alpha1.SourceGuardRequired })
	s.underlay("underlay", nil)
	peer := s.start("peer", onNode(nodeA), secondOf(pool)) // zones are segments of their own
	lease := func(p *corev1.Pod) netip.Addr {
		addrs, _ := s.boundTo(p, "net1")
		for _, a := range addrs {
			if a.Is4() {
				return a
			}
		}
		t.Fatalf("%s has no IPv4 address", p.Name)
		return netip.Addr{}
	}
	to := lease(peer)
	for name, tt := range map[string]struct {
		notes []podOption
		forge bool // may send as another
	}{
		"guarded":  {[]podOption{secondOf(pool)}, false},
		"required": {[]podOption{secondOf(required)}, false},
		"allowed":  {[]podOption{secondOf(pool), note("berth.dev/allowed-addresses", fmt.Sprintf("10.6.%d.0/24", s.third))}, true},
		"free":     {[]podOption{secondOf(pool), note("berth.dev/source-guard", "Disabled")}, true},
	} {
		p := s.start(name, append(tt.notes, onNode(nodeA))...)
		own := lease(p)
		other := s.addr4("a", 200+len(name))
		asked := func(from netip.Addr) error {
			nodeA.sendAs(t, "net1", own, from, to)
			_, err := s.exec(p, "testapp", "udp", netip.AddrPortFrom(to, 8081).String())
			return err
		}
		eventually(t, patience, name+" reaches its peer", func(context.Context) error { return asked(own) })
		if err := asked(other); (err == nil) != tt.forge {
			t.Errorf("%s as another: %v", name, err)
		}
	}
	refused := s.pod("refused", onNode(nodeA), secondOf(required), note("berth.dev/source-guard", "Disabled"))
	s.event(refused, "AddressNotAssigned", "berth.dev/source-guard is Disabled", required, "sourceGuard Required")
}

// sendAs has the pod of the node whose interface has an address send from another.
func (n node) sendAs(t testing.TB, ifName string, own, from, to netip.Addr) {
	t.Helper()
	n.run(t, "sh", "-c", fmt.Sprintf(`for ns in /run/netns/cni-*; do
		nsenter --net=$ns ip -o address show dev %[1]s 2>/dev/null | grep -q ' %[2]s/' || continue
		nsenter --net=$ns ip address replace %[3]s/16 dev %[1]s
		nsenter --net=$ns ip route replace %[4]s dev %[1]s src %[3]s
		exit
	done; exit 9`, ifName, own, from, to))
}
