//go:build linux

package guards

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/tests/netns"
)

var podMAC = net.HardwareAddr{2, 0, 0, 0, 1, 1}

// sandbox is a pod on a node of its own, and the guards there, whose Run is played by look.
type sandbox struct {
	testing.TB
	*Guards
	node, pod *netns.NS
	refused   []Refused // as told
	parent    string
	Interface
}

func newSandbox(t testing.TB, clsact bool) *sandbox {
	t.Helper()
	return newSandboxOn(t, clsact, func(nic netlink.Link) netlink.Link { return nic })
}

// newSandboxOn has its parent made upon a NIC.
func newSandboxOn(t testing.TB, clsact bool, parent func(nic netlink.Link) netlink.Link) *sandbox {
	t.Helper()
	s := &sandbox{TB: t, node: netns.New(t), pod: netns.New(t)}
	pins := t.TempDir()
	s.must(unix.Mount("bpf", pins, "bpf", 0, ""))
	t.Cleanup(func() { s.must(unix.Unmount(pins, unix.MNT_DETACH)) })
	s.node.Do(func() {
		nic := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nic"}, PeerName: "peer"}
		s.must(netlink.LinkAdd(nic))
		s.parent = parent(nic).Attrs().Name
	})
	s.plug()
	cfg := Config{PinDir: filepath.Join(pins, "berth"), NetNS: t.TempDir(), Clsact: clsact}
	s.must(os.Symlink(s.pod.Path(), filepath.Join(cfg.NetNS, "pod")))
	s.Interface = Interface{ContainerID: "c1", Name: "eth0", NetNS: "/var/run/netns/pod", Parent: s.parent, Network: "n", MAC: podMAC,
		Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.11")}, Guarded: true}
	s.start(cfg)
	return s
}

func (s *sandbox) start(cfg Config) {
	s.Guards = New(cfg, func(_ Interface, n Refused) { s.refused = append(s.refused, n) }, slog.New(slog.DiscardHandler))
	s.Cleanup(func() { s.Guards.Close() })
}

// plug the interface in, down as CNI plugins leave it.
func (s *sandbox) plug() {
	s.Helper()
	s.node.Do(func() {
		nic, err := netlink.LinkByName(s.parent)
		s.must(err)
		s.must(netlink.LinkAdd(&netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE, LinkAttrs: netlink.LinkAttrs{Name: "eth0",
			ParentIndex: nic.Attrs().Index, HardwareAddr: podMAC, Namespace: netlink.NsFd(s.pod.FD())}}))
		s.must(netlink.LinkSetUp(nic))
	})
}

func (s *sandbox) link() netlink.Link {
	s.Helper()
	l, err := netlink.LinkByName("eth0")
	s.must(err)
	return l
}

func (s *sandbox) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// passes says whether the pod can send from an address. The sender of a frame that is dropped is told.
func (s *sandbox) passes(from string) (passed bool) {
	s.Helper()
	s.pod.Do(func() {
		l := s.link()
		s.must(netlink.LinkSetUp(l))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		s.must(err)
		defer unix.Close(fd)
		frame := slices.Concat([]byte{2, 0, 0, 0, 9, 9}, podMAC, []byte{8, 0, 0x45, 0, 0, 20, 0, 1, 0, 0, 64, 17, 0, 0},
			netip.MustParseAddr(from).AsSlice(), []byte{8, 8, 8, 8})
		err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index})
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			s.Fatal(err)
		}
		passed = err == nil
	})
	return passed
}

func (s *sandbox) want(guarded bool) {
	s.Helper()
	if !s.passes("10.1.0.11") {
		s.Error("its own address does not pass")
	}
	if s.passes("10.1.0.12") == guarded {
		s.Errorf("another address passes: %v", guarded)
	}
}

// pins but those of maps.
func (s *sandbox) pins() int {
	s.Helper()
	links, err := filepath.Glob(filepath.Join(s.cfg.PinDir, "guards*", "*-*"))
	s.must(err)
	return len(links)
}

func eachMode(t *testing.T, test func(s *sandbox)) {
	for name, clsact := range map[string]bool{"tcx": false, "clsact": true} {
		t.Run(name, func(t *testing.T) {
			if !clsact {
				netns.NeedTCX(t)
			}
			test(newSandbox(t, clsact))
		})
	}
}

// detach the pod's interface, which is silent from then on.
func (s *sandbox) detach() {
	s.Helper()
	s.must(s.Detach("c1", "eth0"))
	if s.passes("10.1.0.11") {
		s.Error("it sends with what it gave up")
	}
	s.must(s.look(true))
	if s.passes("10.1.0.11") {
		s.Error("after a look it does")
	}
}

// clean: nothing is left of the interface.
func (s *sandbox) clean() {
	s.Helper()
	places, err := s.guard.Places()
	if err != nil || len(places) > 0 || s.pins() > 0 || len(s.known) > 0 {
		s.Errorf("left: %v, %d links, %v (%v)", places, s.pins(), s.known, err)
	}
}

func (s *sandbox) states(state string, n int) {
	s.Helper()
	want := map[string]int{"guarded": 0, "unguarded": 0, "failed": 0}
	want[state] = n
	if diff := cmp.Diff(want, s.States()); diff != "" {
		s.Errorf("states (-want +got):\n%s", diff)
	}
}
