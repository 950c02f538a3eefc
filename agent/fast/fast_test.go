//go:build linux

package fast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/bpf/sock"
	"github.com/berthdev/berth/service"
	"github.com/berthdev/berth/tests/netns"
)

// testCgroup is the test process's own, so that no socket but the tests' passes the programs.
var testCgroup string

func TestMain(m *testing.M) { os.Exit(inCgroup(m.Run)) }

func inCgroup(run func() int) int {
	if os.Getuid() != 0 {
		return run()
	}
	root, err := sock.FindCgroup()
	enter := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err == nil {
		testCgroup = filepath.Join(root, fmt.Sprintf("berth-fast-test-%d", os.Getpid()))
		err = errors.Join(os.Mkdir(testCgroup, 0o755), enter(testCgroup))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := errors.Join(enter(root), os.Remove(testCgroup)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return run()
}

// lab is a pod that has all addresses on its loopback: the Service's, at which answers who stands for the node, and the backends'.
type lab struct {
	testing.TB
	*Fast
	pod  *netns.NS
	self Interface
	link string // by which the node reaches others
}

var (
	vip       = netip.MustParseAddr("10.96.0.10")
	macvlan   = netip.MustParseAddr("10.6.0.11")
	elsewhere = netip.MustParseAddr("10.6.0.2")
	frontend  = service.Frontend{Address: vip, Port: 80, Protocol: service.TCP}
)

func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l := &lab{TB: t, pod: netns.New(t), link: "eth0"}
	l.pod.Do(func() {
		lo, err := netlink.LinkByName("lo")
		l.must(err)
		for _, a := range []netip.Addr{vip, macvlan, elsewhere} {
			l.must(netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}}))
			l.listen(a)
		}
	})
	cookie, err := sock.Cookie(l.pod.Path())
	l.must(err)
	l.self = Interface{ContainerID: "c", Name: "eth0", Cookie: cookie, NetNS: l.pod.Path(), Parent: "eth0",
		Ways: Ways(result([]string{"10.6.0.9/16"}, "10.96.0.0/12", "169.254.1.1", "0.0.0.0/0", "10.6.0.1"), "n", "eth0")}
	pins := t.TempDir()
	l.must(unix.Mount("bpf", pins, "bpf", 0, ""))
	t.Cleanup(func() { l.must(unix.Unmount(pins, unix.MNT_DETACH)) })
	cfg := Config{PinDir: filepath.Join(pins, "berth"), Cgroup: testCgroup}
	l.Fast, err = open(cfg, func(netip.Addr) (string, error) { return l.link, nil }, slog.New(slog.DiscardHandler))
	l.must(err)
	t.Cleanup(func() { l.must(errors.Join(l.Close(), Cleanup(cfg.PinDir))) })
	l.must(l.Sync(nil))
	return l
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// listen says its address to who connects, or sends.
func (l *lab) listen(a netip.Addr) {
	l.Helper()
	at := netip.AddrPortFrom(a, 80).String()
	tcp, err := net.Listen("tcp", at)
	l.must(err)
	l.Cleanup(func() { tcp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, a)
			c.Close()
		}
	}()
	udp, err := net.ListenPacket("udp", at)
	l.must(err)
	l.Cleanup(func() { udp.Close() })
	go func() {
		buf := make([]byte, 16)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo([]byte(a.String()), from)
		}
	}()
}

// answers who is at the Service.
func (l *lab) answers(want netip.Addr) {
	l.Helper()
	if got := l.asks(); got != want.String() {
		l.Errorf("%s answers, want %s", got, want)
	}
}

func (l *lab) asks() (answer string) {
	l.Helper()
	l.pod.Do(func() {
		c, err := net.DialTimeout("tcp", "10.96.0.10:80", 5*time.Second)
		l.must(err)
		defer c.Close()
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		l.must(err)
		answer = string(buf[:n])
	})
	return answer
}

func serviceOf(p service.Protocol, b ...service.Backend) service.Service {
	f := frontend
	f.Protocol = p
	return service.Service{Name: "ns/svc", Ports: []service.Port{{Frontends: []service.Frontend{f}, Backends: b}}}
}

var (
	atPod  = service.Backend{Address: macvlan, Port: 80, Network: "n"}
	atNode = service.Backend{Address: elsewhere, Port: 80, Node: true}
)

func TestFast(t *testing.T) {
	l := newLab(t)
	l.must(l.Set(serviceOf(service.TCP, atPod)))
	l.answers(vip) // nobody's pod
	l.must(l.Put(l.self))
	l.answers(macvlan)

	second := l.self
	second.Name, second.Ways = "net1", nil
	l.must(l.Put(second))
	l.Drop("c", "eth0")
	l.must(l.takeOut())
	l.answers(vip) // the other interface has no way
	l.must(l.Put(l.self))
	l.Drop("c", "net1")
	l.must(l.takeOut())
	l.answers(macvlan)

	l.must(l.SyncInterfaces(nil))
	l.answers(vip)
	l.must(l.SyncInterfaces([]Interface{l.self}))
	l.answers(macvlan)
	l.must(l.Delete("ns/svc"))
	l.answers(vip)
}

// What is dropped is taken out while the agent runs.
func TestTakenOut(t *testing.T) {
	l := newLab(t)
	l.must(l.Set(serviceOf(service.TCP, atPod)))
	l.must(l.Put(l.self))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	l.answers(macvlan)
	l.Drop("c", "eth0")
	for begin := time.Now(); l.asks() != vip.String(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatal("a pod of which the only interface was dropped a minute ago is still known")
		}
	}
	cancel()
	l.must(<-ended)
}

// Another node is native by the link that this one reaches it by, and by no other.
func TestOtherNodes(t *testing.T) {
	l := newLab(t)
	l.must(l.Put(l.self))
	l.must(l.Set(serviceOf(service.TCP, atNode)))
	l.answers(elsewhere)
	for link, want := range map[string]netip.Addr{"mgmt": vip, "": vip, "eth0": elsewhere} {
		l.link = link
		l.must(l.relocate())
		l.answers(want)
	}
	nodePort := serviceOf(service.TCP, atPod)
	nodePort.Ports[0].Frontends[0].Address = netip.IPv4Unspecified()
	l.must(l.Set(nodePort))
	l.answers(vip)
	l.must(l.SetNodes([]netip.Addr{vip}))
	l.answers(macvlan)
}

// Programs that somebody has detached come back with all that they knew.
func TestMend(t *testing.T) {
	l := newLab(t)
	l.must(l.Put(l.self))
	l.must(l.Set(serviceOf(service.TCP, atPod)))
	l.must(l.SetNodes([]netip.Addr{elsewhere}))
	l.must(Cleanup(l.cfg.PinDir))
	l.answers(vip)
	l.must(l.mend())
	l.answers(macvlan)
	l.must(l.mend()) // nothing to do
	l.answers(macvlan)
	nodePort := serviceOf(service.TCP, atPod)
	nodePort.Ports[0].Frontends[0].Address = netip.IPv4Unspecified()
	l.must(l.Set(nodePort))
	l.pod.Do(func() {
		if a, err := l.programs.Lookup(l.self.Cookie, service.Frontend{Address: elsewhere, Port: 80, Protocol: service.TCP}); err != nil || !a.Service {
			t.Errorf("the nodes are forgotten: %+v, %v", a, err)
		}
	})
}

// A connected UDP socket of a backend that is gone ends.
func TestUDPEnds(t *testing.T) {
	l := newLab(t)
	l.must(l.Put(l.self))
	l.must(l.Set(serviceOf(service.UDP, atPod)))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	defer func() { stop(); l.must(<-done) }()
	var c net.Conn
	l.pod.Do(func() {
		var err error
		c, err = net.Dial("udp", "10.96.0.10:80")
		l.must(err)
	})
	defer c.Close()
	ask := func() (string, error) {
		buf := make([]byte, 64)
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
		l.must(c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)))
		n, err := c.Read(buf)
		return string(buf[:n]), err
	}
	if who, err := ask(); err != nil || who != macvlan.String() {
		t.Fatalf("%q, %v", who, err)
	}
	l.must(l.Set(serviceOf(service.UDP, atNode)))
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if _, err := ask(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatal("it goes on")
		}
	}
}
