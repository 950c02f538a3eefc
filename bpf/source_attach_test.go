package bpf

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// guarded is a lab whose pod is guarded, and what it sends to the wire.
type guarded struct {
	*lab
	*SourceGuard
	at   Place
	seen func() [][]byte
}

func newGuarded(l *lab) *guarded {
	l.Helper()
	g, err := OpenSourceGuard(l.cfg.PinDir, l.cfg.Clsact)
	l.must(err)
	l.Cleanup(func() { g.Close() })
	out := &guarded{l, g, Place{}, l.capture(l.wire, "peer")}
	l.pod.Do(func() { out.at = Place{cookie(l), l.link("eth0").Attrs().Index} })
	l.must(g.Put(out.at, Source{MAC: pod1, Addresses: []netip.Addr{pod4, pod6}}))
	return out
}

func cookie(l *lab) uint64 {
	l.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	l.must(err)
	defer unix.Close(fd)
	c, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	l.must(err)
	return c
}

// sends says whether what the pod sends comes out of the wire, and a second frame, which always does.
func (g *guarded) sends(frame []byte) bool {
	g.Helper()
	g.seen()
	end := ipv4(alien, pod1, pod4.String(), "192.0.2.77", []byte(time.Now().String())...)
	g.send(g.pod, "eth0", frame, end)
	passed := false
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, f := range g.seen() {
			passed = passed || bytes.HasPrefix(f, frame)
			if bytes.HasPrefix(f, end) {
				return passed
			}
		}
	}
	g.Fatal("the wire is silent")
	return false
}

func (g *guarded) wantGuarded(want bool) {
	g.Helper()
	for name, frame := range map[string][]byte{
		"IPv4":          ipv4(alien, pod1, "10.1.0.99", "8.8.8.8"),
		"MAC":           ipv4(alien, alien, pod4.String(), "8.8.8.8"),
		"ARP":           whoHas(pod1, "10.1.0.99", "10.1.0.99"),
		"advertisement": icmpv6(mac{0x33, 0x33, 5: 1}, pod1, "fe80::11", "ff02::1", nd(136, 0x20, "2001:db8:1::99", targetOption(pod1))...),
	} {
		if passed := g.sends(frame); passed == want {
			g.Errorf("forged %s passes: %v", name, passed)
		}
	}
	if !g.sends(whoHas(pod1, pod4.String(), "10.1.0.1")) {
		g.Error("the pod's own ARP does not pass")
	}
}

func (g *guarded) settled(wantDone bool) {
	g.Helper()
	g.pod.Do(func() {
		done, mode, err := g.Settle(g.at)
		if want := map[bool]string{false: modeTCX, true: modeClsact}[g.cfg.Clsact]; done != wantDone || mode != want || err != nil {
			g.Errorf("settle: %v, %s, %v; want %v, %s", done, mode, err, wantDone, want)
		}
	})
}

func TestSourceGuardOnLink(t *testing.T) {
	eachMode(t, func(l *lab) {
		g := newGuarded(l)
		g.wantGuarded(false)
		l.pod.Do(func() { l.must(g.Guard(g.at)) })
		g.wantGuarded(true)
		g.settled(!l.cfg.Clsact)
		g.wantGuarded(true)
		g.settled(false)
		l.pod.Do(func() { l.must(g.Guard(g.at)) }) // an ADD tried again
		g.settled(false)
		want := map[string]int{"tcx": 1, "filters": 0, "clsact": 0}
		if l.cfg.Clsact {
			want = map[string]int{"tcx": 0, "filters": 1, "clsact": 1}
		}
		node := l.node
		l.node = l.pod
		for what, n := range l.attached(g.at.Index) {
			if n != want[what] {
				l.Errorf("%d %s, want %d", n, what, want[what])
			}
		}
		l.node = node
		l.pod.Do(func() { l.must(g.Release(g.at)) })
		g.wantGuarded(false)
		l.pod.Do(func() { l.must(g.Release(g.at)) })
	})
}

// as runs a command in the pod with no rights but NET_ADMIN and NET_RAW.
func (g *guarded) as(command ...string) error {
	g.Helper()
	rights := []string{"--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all,+net_admin,+net_raw"}
	var out []byte
	var err error
	g.pod.Do(func() { out, err = exec.Command("setpriv", append(rights, command...)...).CombinedOutput() })
	g.Logf("%v: %v %s", command, err, out)
	return err
}

// A pod that may change its links does not get rid of it. Where there is no tcx it does, until the agent looks again.
func TestSourceGuardStays(t *testing.T) {
	eachMode(t, func(l *lab) {
		g := newGuarded(l)
		l.pod.Do(func() { l.must(g.Guard(g.at)) })
		g.settled(!l.cfg.Clsact)
		g.wantGuarded(true)

		err := g.as("tc", "qdisc", "delete", "dev", "eth0", "clsact")
		if removed := err == nil; removed != l.cfg.Clsact {
			l.Errorf("clsact deleted: %v", removed)
		}
		g.wantGuarded(!l.cfg.Clsact)
		g.settled(l.cfg.Clsact)
		g.wantGuarded(true)

		// A filter of its own that lets all pass comes later than tcx. Before another filter it would come first.
		if !l.cfg.Clsact {
			l.must(errors.Join(g.as("tc", "qdisc", "add", "dev", "eth0", "clsact"),
				g.as("tc", "filter", "add", "dev", "eth0", "egress", "pref", "1", "bpf", "bytecode", "1,6 0 0 4294967295,", "flowid", "1:1")))
			g.wantGuarded(true)
		}
		l.must(g.as("ip", "link", "set", "eth0", "address", "02:00:00:00:77:77"))
		if g.sends(ipv4(alien, mac{2, 0, 0, 0, 0x77, 0x77}, pod4.String(), "8.8.8.8")) {
			l.Error("with a MAC that it gave itself, the pod sends")
		}
	})
}

// An interface that is gone leaves its pin, which says so, and its entry.
func TestSourceGuardOfGoneLink(t *testing.T) {
	eachMode(t, func(l *lab) {
		g := newGuarded(l)
		l.pod.Do(func() {
			l.must(g.Guard(g.at))
			_, _, err := g.Settle(g.at)
			l.must(err)
			l.must(netlink.LinkDel(l.link("eth0")))
		})
		if attached, severed, err := g.Link(g.at); attached || severed == l.cfg.Clsact || err != nil {
			l.Errorf("of a link that is gone: attached %v, severed %v, %v", attached, severed, err)
		}
		l.must(g.Forget(g.at))
		if places, err := g.Places(); len(places) > 0 || err != nil {
			l.Errorf("left: %v, %v", places, err)
		}
	})
}

// After the pins have been removed nothing is left in tcx mode, and in clsact mode what is left lets pass.
func TestRemoveSourceGuard(t *testing.T) {
	eachMode(t, func(l *lab) {
		g := newGuarded(l)
		l.pod.Do(func() {
			l.must(g.Guard(g.at))
			_, _, err := g.Settle(g.at)
			l.must(err)
		})
		g.wantGuarded(true)
		l.must(RemoveSourceGuard(l.cfg.PinDir))
		l.must(g.SourceGuard.Close())
		for end := time.Now().Add(3 * time.Second); !g.sends(ipv4(alien, pod1, "10.1.0.99", "8.8.8.8")); time.Sleep(time.Millisecond) {
			if time.Now().After(end) { // the map of the program is cleared some time later
				l.Fatal("still guarded")
			}
		}
		l.must(RemoveSourceGuard(l.cfg.PinDir))
	})
}

// What a pod's kernel sends by itself passes: ARP, neighbour discovery, listener reports, router solicitations, duplicate address
// detection, TCP and UDP. Nothing at all is refused.
func TestGuardedPodReachesNode(t *testing.T) {
	eachMode(t, func(l *lab) {
		g := newGuarded(l)
		s := l.attach()
		l.pod.Do(func() {
			l.must(g.Guard(g.at))
			_, _, err := g.Settle(g.at)
			l.must(err)
			link := l.link("eth0") // begins anew under the guard, with duplicate address detection
			l.must(netlink.LinkSetDown(link))
			for key, value := range map[string]string{"all/accept_dad": "1", "eth0/accept_dad": "1", "eth0/disable_ipv6": "1"} {
				l.must(os.WriteFile("/proc/sys/net/ipv6/conf/"+key, []byte(value), 0))
			}
			l.must(os.WriteFile("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", []byte("0"), 0))
			l.must(netlink.LinkSetUp(link))
			l.addAddress("eth0", pod6)
			l.addRoute("eth0", Gateway4, netip.Addr{})
			l.addRoute("eth0", node4, Gateway4)
			for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
				l.must(err)
				tentative := len(addrs) < 2
				for _, a := range addrs {
					tentative = tentative || a.Flags&unix.IFA_F_TENTATIVE != 0
				}
				if !tentative {
					break
				}
				if time.Now().After(end) {
					l.Fatalf("addresses are not usable: %v", addrs)
				}
			}
			l.addRoute("eth0", node6, Gateway6)
		})
		for _, at := range []netip.Addr{node4, node6} {
			if err := roundTrip(l.echo(at)); err != nil {
				got, _ := s.Counters()
				l.Errorf("pod to %s: %v (%v)", at, err, got)
			}
		}
		refused, err := g.SourceGuard.Counters()
		l.must(err)
		for reason, n := range refused {
			if n > 0 {
				l.Errorf("%d frames refused: %s", n, reason)
			}
		}
	})
}

// TestAroundSourceGuard: the ways around it that docs/operations.md (Security) tells of are closed by the fence; where the kernel takes
// none they are open.
func TestAroundSourceGuard(t *testing.T) {
	eachMode(t, func(l *lab) {
		g := newGuarded(l)
		l.pod.Do(func() { l.must(g.Guard(g.at)) })
		g.settled(!l.cfg.Clsact)
		l.Logf("no fence: %v", g.Unfenced())
		sibling := mac{2, 0, 0, 0, 5, 5}
		l.node.Do(func() { l.addMacvlan("sibling", sibling, nil) })
		for to, seen := range map[mac]func() [][]byte{alien: g.seen, sibling: l.capture(l.node, "sibling"), vmac: l.capture(l.node, l.cfg.Name)} {
			forged := ipv4(to, alien, "10.1.0.99", "192.0.2.1")
			if g.sends(forged) {
				l.Errorf("a forged frame to %x passes the guard", to)
			}
			fd := g.bypass()
			g.open("PACKET_QDISC_BYPASS", fd >= 0)
			if fd >= 0 {
				l.pod.Do(func() { l.must(unix.Sendto(fd, forged, 0, &unix.SockaddrLinklayer{Ifindex: g.at.Index})) })
				l.must(unix.Close(fd))
				g.arrives(seen, forged, "PACKET_QDISC_BYPASS")
			}
			err := g.as("ip", "link", "add", "link", "eth0", "name", "round", "type", "macvlan", "mode", "bridge")
			g.open("a second macvlan link", err == nil)
			if err == nil {
				l.must(g.as("ip", "link", "set", "round", "up"))
				l.pod.Do(func() { l.waitUp("round") })
				l.send(l.pod, "round", forged)
				g.arrives(seen, forged, "a second macvlan link")
				l.must(g.as("ip", "link", "delete", "round"))
			}
		}
	})
}

// open says whether a way should be.
func (g *guarded) open(way string, open bool) {
	g.Helper()
	if want := g.Unfenced() != nil; open != want {
		g.Errorf("%s: open: %v, want %v", way, open, want)
	}
}

// bypass is a packet socket of the pod that sends past all hooks; negative if it may not be.
func (g *guarded) bypass() (fd int) {
	g.Helper()
	g.pod.Do(func() { fd = bypass(g) })
	return fd
}

func bypass(g *guarded) int {
	g.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	g.must(err)
	switch err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); {
	case errors.Is(err, unix.EPERM):
		g.must(unix.Close(fd))
		return -1
	case err != nil:
		g.Fatal(err)
	}
	return fd
}

func (g *guarded) arrives(seen func() [][]byte, frame []byte, how string) {
	g.Helper()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, f := range seen() {
			if bytes.HasPrefix(f, frame) {
				return
			}
		}
	}
	g.Errorf("%s: does not arrive", how)
}
