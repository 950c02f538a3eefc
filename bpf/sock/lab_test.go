package sock

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

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
	root, err := FindCgroup()
	if err == nil {
		testCgroup = filepath.Join(root, fmt.Sprintf("berth-sock-test-%d", os.Getpid()))
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

func enter(cgroup string) error {
	return os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
}

// lab is a pod with programs at its sockets. All addresses are on its loopback: those of backends, and those of Services, at which
// answers who stands for the node.
type lab struct {
	testing.TB
	pod    *netns.NS
	cookie uint64
	cfg    Config
	p      *Programs
}

var (
	vip4, vip6     = addr("10.96.0.10"), addr("fd96::10")
	node4, node6   = addr("192.168.1.5"), addr("fd05::5")
	pods4          = []netip.Addr{addr("10.1.0.11"), addr("10.1.0.12"), addr("10.1.0.13")}
	pods6          = []netip.Addr{addr("fd01::11"), addr("fd01::12"), addr("fd01::13")}
	overlay4       = addr("10.244.0.7")
	overlay6       = addr("fd44::7")
	inNet          = "zone-a"
	underlay       = netip.MustParsePrefix("192.168.1.0/24")
	defaultWays    = []Way{{inNet, netip.MustParsePrefix("10.1.0.0/24")}, {inNet, netip.MustParsePrefix("fd01::/64")}, {"", underlay}}
	labAddresses   = append(append([]netip.Addr{vip4, vip6, node4, node6, overlay4, overlay6}, pods4...), pods6...)
	port80, port81 = uint16(80), uint16(8080)
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l := &lab{TB: t, pod: newPod(t)}
	l.cookie = cookieOf(t, l.pod)
	l.cfg = Config{PinDir: filepath.Join(mountBPF(t), "berth"), Cgroup: testCgroup}
	l.attach()
	t.Cleanup(func() {
		l.must(l.p.Close())
		l.must(Remove(l.cfg.PinDir))
	})
	l.sync()
	l.must(l.p.SetPod(l.cookie, Pod{defaultWays}))
	return l
}

func newPod(t testing.TB) *netns.NS {
	t.Helper()
	ns := netns.New(t)
	ns.Do(func() {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range labAddresses {
			full := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
			if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: full, Flags: unix.IFA_F_NODAD}); err != nil {
				t.Fatalf("address %s: %v", a, err)
			}
		}
		for _, a := range labAddresses { // the kernel makes the routes of IPv6 addresses some time later
			if !eventually(func() bool { _, err := netlink.RouteGet(a.AsSlice()); return err == nil }) {
				t.Fatalf("no route to %s", a)
			}
		}
	})
	return ns
}

func cookieOf(t testing.TB, ns *netns.NS) uint64 {
	t.Helper()
	cookie, err := Cookie(ns.Path())
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

func (l *lab) attach() {
	l.Helper()
	var err error
	l.p, err = Attach(l.cfg)
	l.must(err)
}

// restart is what a new agent does.
func (l *lab) restart(services ...service.Service) {
	l.Helper()
	l.must(l.p.Close())
	l.attach()
	l.sync(services...)
}

func (l *lab) sync(services ...service.Service) []Removed {
	l.Helper()
	removed, err := l.p.Sync(services)
	l.must(err)
	return removed
}

func (l *lab) set(services ...service.Service) []Removed {
	l.Helper()
	removed, err := l.p.Set(services...)
	l.must(err)
	return removed
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// counted says what changed of the counters while f ran.
func (l *lab) counted(f func()) map[string]uint64 {
	l.Helper()
	before, err := l.p.Counters()
	l.must(err)
	f()
	after, err := l.p.Counters()
	l.must(err)
	for name, n := range before {
		if after[name] -= n; after[name] == 0 {
			delete(after, name)
		}
	}
	return after
}

func (l *lab) wantCounted(want map[string]uint64, f func()) {
	l.Helper()
	if diff := cmp.Diff(want, l.counted(f)); diff != "" {
		l.Errorf("counters (-want +got):\n%s", diff)
	}
}

func mountBPF(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpf: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount bpf: %v", err)
		}
	})
	return dir
}

// serve answers at the addresses, by TCP and UDP, with the address that was reached.
func (l *lab) serve(port uint16, addresses ...netip.Addr) {
	l.Helper()
	serveIn(l, l.pod, port, addresses...)
}

func serveIn(t testing.TB, ns *netns.NS, port uint16, addresses ...netip.Addr) {
	t.Helper()
	for _, a := range addresses {
		at := netip.AddrPortFrom(a, port)
		ns.Do(func() {
			listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
			if err != nil {
				t.Fatal(err)
			}
			packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { listener.Close(); packets.Close() })
			go func() {
				for {
					c, err := listener.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						_, _ = c.Write([]byte(at.Addr().String()))
					}()
				}
			}()
			go func() {
				buffer := make([]byte, 512)
				for {
					_, from, err := packets.ReadFromUDPAddrPort(buffer)
					if err != nil {
						return
					}
					_, _ = packets.WriteToUDPAddrPort([]byte(at.Addr().String()), from)
				}
			}()
		})
	}
}

// frontends of both protocols at the address.
func frontends(a netip.Addr, port uint16, protocol service.Protocol) []service.Frontend {
	return []service.Frontend{{Address: a, Port: port, Protocol: protocol}}
}

// web is a Service at both VIPs, by TCP and UDP, with these pods of the network as backends.
func web(pods ...netip.Addr) service.Service {
	s := service.Service{Name: "default/web"}
	for _, vip := range []netip.Addr{vip4, vip6} {
		var backends []service.Backend
		for _, a := range pods {
			if a.Is4() == vip.Is4() {
				backends = append(backends, service.Backend{Address: a, Port: port81, Network: inNet})
			}
		}
		for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
			s.Ports = append(s.Ports, service.Port{Frontends: frontends(vip, port80, protocol), Backends: backends})
		}
	}
	return s
}

// with changes each port of a Service.
func with(s service.Service, change func(*service.Port)) service.Service {
	for i := range s.Ports {
		change(&s.Ports[i])
	}
	return s
}

// wait is how long anything may take that has to happen.
const wait = 10 * time.Second
