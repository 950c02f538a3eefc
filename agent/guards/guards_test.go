//go:build linux

package guards

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/tests/netns"
)

func TestGuards(t *testing.T) {
	eachMode(t, func(s *sandbox) {
		s.want(false)
		s.must(s.Attach(s.Interface))
		s.want(true)
		if s.pins() != 0 {
			s.Error("Attach waits for tcx")
		}
		s.must(s.look(false))
		s.want(true)
		if want := map[bool]int{false: 1, true: 0}[s.cfg.Clsact]; s.pins() != want {
			s.Errorf("%d links, want %d", s.pins(), want)
		}
		located := s.Interfaces()
		s.pod.Do(func() {
			at, err := locate("eth0")
			s.must(err)
			if diff := cmp.Diff([]Located{{s.Interface, at.Cookie, at.Index}}, located, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				s.Errorf("(-want +got):\n%s", diff)
			}
		})
		s.states("guarded", 1)

		more := s.Interface
		more.Allowed = []netip.Prefix{netip.MustParsePrefix("10.1.0.12/32")}
		s.must(s.Attach(more))
		s.want(false)
		s.must(s.Attach(s.Interface))
		s.want(true)

		s.detach()
		s.must(s.Detach("c1", "eth0"))
		s.pod.Do(func() { s.must(netlink.LinkDel(s.link())) })
		s.must(s.look(true))
		s.clean()
		s.must(s.Detach("c1", "eth0"))
	})
}

// A look that began before an interface gave up an address does not give it back.
func TestGuardsLookAtWhatWas(t *testing.T) {
	eachMode(t, func(s *sandbox) {
		s.Sync([]Interface{s.Interface})
		before := s.known[key{"c1", "eth0"}]
		less := s.Interface
		less.Addresses = []netip.Addr{netip.MustParseAddr("10.1.0.12")}
		s.must(s.Attach(less))
		err := s.in(s.NetNS, func() error {
			_, err := s.prepare(s.guard, before)
			return err
		})
		if !errors.Is(err, errReplaced) {
			s.Errorf("an earlier look goes on: %v", err)
		}
		s.must(s.look(true))
		if s.passes("10.1.0.11") || !s.passes("10.1.0.12") {
			s.Error("the interface sends with what it has given up")
		}
	})
}

// The guard is on the pod's interface: it is the same whatever is below.
func TestGuardsOnOtherParents(t *testing.T) {
	for name, kind := range map[string]struct {
		need   func(testing.TB)
		parent func(t *testing.T, nic netlink.Link) netlink.Link
	}{
		"bond": {netns.NeedBond, func(t *testing.T, nic netlink.Link) netlink.Link {
			bond := netlink.NewLinkBond(netlink.LinkAttrs{Name: "bond"})
			bond.Mode = netlink.BOND_MODE_ACTIVE_BACKUP
			if err := errors.Join(netlink.LinkAdd(bond), netlink.LinkSetMaster(nic, bond), netlink.LinkSetUp(nic)); err != nil {
				t.Fatal(err)
			}
			return bond
		}},
		"VLAN": {netns.NeedVLAN, func(t *testing.T, nic netlink.Link) netlink.Link {
			vlan := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "vlan", ParentIndex: nic.Attrs().Index}, VlanId: 7}
			if err := errors.Join(netlink.LinkAdd(vlan), netlink.LinkSetUp(nic)); err != nil {
				t.Fatal(err)
			}
			return vlan
		}},
	} {
		for _, clsact := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, clsact asked for: %v", name, clsact), func(t *testing.T) {
				kind.need(t)
				s := newSandboxOn(t, clsact, func(nic netlink.Link) netlink.Link { return kind.parent(t, nic) })
				s.want(false)
				s.must(s.Attach(s.Interface))
				s.want(true)
				s.must(s.look(true))
				s.want(true)
				s.must(s.Detach("c1", "eth0"))
				if s.passes("10.1.0.11") {
					s.Error("an interface that gave up its address sends with it")
				}
			})
		}
	}
}

// An agent that is killed leaves its guards; the next adopts them, guards what is not yet, and collects what has gone meanwhile.
func TestAgentRestarts(t *testing.T) {
	eachMode(t, func(s *sandbox) {
		s.must(s.Attach(s.Interface)) // killed before it is settled
		s.must(s.Guards.Close())
		s.want(true)
		s.start(s.cfg)
		s.Sync([]Interface{s.Interface})
		s.must(s.look(true))
		s.want(true)
		s.states("guarded", 1)

		s.must(s.Guards.Close())
		s.start(s.cfg)
		changed := s.Interface
		changed.Addresses = []netip.Addr{netip.MustParseAddr("10.1.0.12")}
		s.Sync([]Interface{changed})
		s.must(s.look(true))
		if s.passes("10.1.0.11") || !s.passes("10.1.0.12") {
			s.Error("not as the new agent says")
		}

		s.must(s.Guards.Close())
		s.start(s.cfg)
		s.Sync(nil) // its journal was set aside
		s.must(s.look(true))
		if s.passes("10.1.0.11") {
			s.Error("an interface that the agent does not know is guarded no more")
		}
		s.pod.Do(func() { s.must(netlink.LinkDel(s.link())) })
		s.must(os.Remove(filepath.Join(s.cfg.NetNS, "pod")))
		s.must(s.look(true))
		s.clean()
	})
}

// What an interface gives up before a new agent has found it is not its own either.
func TestDetachAfterRestart(t *testing.T) {
	eachMode(t, func(s *sandbox) {
		s.must(s.Attach(s.Interface))
		s.must(s.look(true))
		s.must(s.Guards.Close())
		s.start(s.cfg)
		s.Sync([]Interface{s.Interface})
		s.detach()
		s.pod.Do(func() { s.must(netlink.LinkDel(s.link())) })
		s.must(s.look(true))
		s.clean()

		s.start(s.cfg)
		s.Sync([]Interface{s.Interface})
		s.must(s.Detach("c1", "eth0")) // it is gone
		s.must(s.look(true))
		s.clean()
	})
}

// Twenty agents, one after the other, while the pod sends: what is its own always passes, and what is not never does.
func TestRestartsUnderLoad(t *testing.T) {
	eachMode(t, func(s *sandbox) {
		s.must(s.Attach(s.Interface))
		s.must(s.look(true))
		var frames atomic.Int64
		stop, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if !s.passes("10.1.0.11") {
					s.Error("its own address does not pass")
				}
				if s.passes("10.1.0.12") {
					s.Error("another address passes")
				}
				frames.Add(1)
			}
		}()
		more := func() {
			s.Helper()
			until := frames.Load() + 3
			for end := time.Now().Add(30 * time.Second); frames.Load() < until; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					s.Error("the pod does not get on")
					return
				}
			}
		}
		for range 20 {
			s.must(s.Guards.Close())
			more()
			s.start(s.cfg)
			s.Sync([]Interface{s.Interface})
			s.must(s.look(true))
		}
		more()
		close(stop)
		<-ended
		s.Logf("%d frames of each kind", frames.Load())
	})
}

// One of an earlier version's pods.
func TestNotGuardedYet(t *testing.T) {
	eachMode(t, func(s *sandbox) {
		lost := s.Interface
		lost.ContainerID, lost.NetNS = "c2", ""
		s.Sync([]Interface{s.Interface, lost})
		if err := s.look(true); err == nil || !strings.Contains(err.Error(), `network namespace "" is not in /run/netns`) {
			s.Error(err)
		}
		s.want(true)
		if got := s.States(); got["guarded"] != 1 || got["failed"] != 1 {
			s.Error(got)
		}
	})
}

// What takes a guard off is mended by the next look, and where the pod may do that it is the pod.
func TestMended(t *testing.T) {
	eachMode(t, func(s *sandbox) {
		s.must(s.Attach(s.Interface))
		s.must(s.look(true))
		s.want(true)
		if s.cfg.Clsact {
			s.pod.Do(func() {
				s.must(netlink.QdiscDel(&netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: s.link().Attrs().Index,
					Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}))
			})
		} else {
			l, err := link.LoadPinnedLink(filepath.Join(s.cfg.PinDir, "guards1", fmt.Sprintf("%d-%d", s.Interfaces()[0].Cookie, s.Interfaces()[0].Index)), nil)
			s.must(err)
			s.must(l.Detach())
			s.must(l.Close())
		}
		s.want(false)
		s.must(s.look(true))
		s.want(true)
	})
}

// A pod hides its link under another name. Where that is all that the agent knows it by, it stays guarded.
func TestRenamed(t *testing.T) {
	eachMode(t, func(s *sandbox) {
		s.must(s.Attach(s.Interface))
		s.must(s.look(true))
		rename := func(from, to string) {
			s.pod.Do(func() {
				l, err := netlink.LinkByName(from)
				s.must(err)
				s.must(errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, to)))
			})
		}
		rename("eth0", "hidden")
		for range 2 {
			if err := s.look(true); (err != nil) != s.cfg.Clsact {
				s.Errorf("look: %v", err)
			}
		}
		rename("hidden", "eth0")
		s.want(true)
	})
}

func TestUnguarded(t *testing.T) {
	eachMode(t, func(s *sandbox) {
		s.must(s.Attach(s.Interface)) // a first try of the ADD
		s.must(s.look(true))
		s.Guarded = false
		s.must(s.Attach(s.Interface))
		s.want(false)
		s.states("unguarded", 1)
		if s.pins() > 0 || len(s.Interfaces()) != 1 {
			s.Errorf("%d links, located %v", s.pins(), s.Interfaces())
		}
		s.must(os.Remove(filepath.Join(s.cfg.NetNS, "pod")))
		s.must(s.look(true))
		s.clean()
	})
}

func TestRefusedIsTold(t *testing.T) {
	s := newSandbox(t, false)
	s.must(s.Attach(s.Interface))
	s.must(s.look(true))
	for range 3 {
		s.passes("10.1.0.12")
	}
	s.must(s.look(true))
	s.passes("10.1.0.12")
	s.must(s.look(true)) // too soon
	if diff := cmp.Diff([]Refused{{Frames: 3}}, s.refused); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	s.known[key{"c1", "eth0"}].told = s.known[key{"c1", "eth0"}].told.Add(-tellEvery)
	s.must(s.look(true))
	if diff := cmp.Diff([]Refused{{Frames: 3}, {Frames: 1}}, s.refused); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	counters, err := s.Counters()
	if err != nil || counters["source_ipv4"] < 4 {
		t.Error(counters, err)
	}
}

// Calls that would go around the guard are told of, too; where the kernel takes no fence they succeed.
func TestBypassIsTold(t *testing.T) {
	s := newSandbox(t, false)
	s.must(s.Attach(s.Interface))
	s.must(s.look(true))
	bypass := func() (err error) {
		s.pod.Do(func() {
			fd, e := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
			s.must(e)
			defer unix.Close(fd)
			err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
		})
		return err
	}
	why, known := s.Unfenced()
	t.Logf("no fence: %v", why)
	if why != nil || !known {
		if denied, err := s.Denials(); bypass() != nil || denied != nil || err != nil || !known {
			t.Errorf("without a fence: %v, %v, known: %v", denied, err, known)
		}
		return
	}
	for range 2 {
		if err := bypass(); !errors.Is(err, unix.EPERM) {
			t.Errorf("PACKET_QDISC_BYPASS: %v", err)
		}
	}
	s.must(s.look(true))
	if diff := cmp.Diff([]Refused{{Calls: 2}}, s.refused); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if denied, err := s.Denials(); err != nil || denied["fence_bypass"] != 2 {
		t.Error(denied, err)
	}
	s.must(s.Guards.Close()) // an agent that is killed leaves the fence
	if err := bypass(); !errors.Is(err, unix.EPERM) {
		t.Errorf("after the agent: %v", err)
	}
	s.start(s.cfg)
	changed := s.Interface
	changed.Guarded = false
	s.must(s.Attach(changed))
	s.must(bypass())
	s.must(Cleanup(s.cfg))
}

func TestAttachFails(t *testing.T) {
	s := newSandbox(t, false)
	for netNS, want := range map[string]string{
		"/proc/1/ns/net":     "not in /run/netns",
		"/run/netns/":        "not in /run/netns",
		"/run/netns/another": "is gone",
		"/run/netns/pod":     "interface net7 is gone",
	} {
		i := s.Interface
		i.NetNS, i.Name = netNS, "net7"
		if err := s.Attach(i); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", netNS, err, want)
		}
	}
	s.states("failed", 1)
}
