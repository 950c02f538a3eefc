package bpf

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/tests/netns"
)

var modes = []string{modeTCX, modeClsact}

// eachMode runs a test in the two modes, as far as the kernel has them.
func eachMode(t *testing.T, test func(l *lab)) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			if mode == modeTCX {
				netns.NeedTCX(t)
			}
			l := newLab(t)
			l.cfg.Clsact = mode == modeClsact
			test(l)
		})
	}
}

// attached counts what is at the hooks of a link, by mode, with clsact itself.
func (l *lab) attached(ifindex int) map[string]int {
	l.Helper()
	out := map[string]int{"tcx": 0, "clsact": 0}
	l.node.Do(func() {
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			if !netns.TCX(l) {
				break
			}
			result, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: at})
			l.must(err)
			out["tcx"] += len(result.Programs)
		}
		device := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			filters, err := netlink.FilterList(device, parent)
			l.must(err)
			out["filters"] += len(filters)
		}
		qdiscs, err := netlink.QdiscList(device)
		l.must(err)
		for _, q := range qdiscs {
			if q.Type() == "clsact" {
				out["clsact"]++
			}
		}
	})
	return out
}

func (l *lab) wantAttached(mode string) {
	l.Helper()
	want := map[string]int{"tcx": 0, "filters": 0, "clsact": 0}
	switch mode {
	case modeTCX:
		want["tcx"] = 1
	case modeClsact:
		want["filters"], want["clsact"] = 1, 1
	}
	for _, ifindex := range []int{l.cfg.VMAC, l.cfg.Parent} {
		if diff := cmp.Diff(want, l.attached(ifindex)); diff != "" {
			l.Errorf("at link %d (-want +got):\n%s", ifindex, diff)
		}
	}
}

// wantPins checks the pins below PinDir, but for those of watch, which are the node's.
func (l *lab) wantPins(want ...string) {
	l.Helper()
	var got []string
	l.must(filepath.WalkDir(l.cfg.PinDir, func(path string, d fs.DirEntry, err error) error {
		if path == watchDir(l.cfg.PinDir) {
			return fs.SkipDir
		}
		if err == nil && !d.IsDir() || strings.HasSuffix(path, "~") {
			got = append(got, strings.TrimPrefix(path, l.cfg.PinDir+"/"))
		}
		return err
	}))
	if diff := cmp.Diff(want, got); diff != "" {
		l.Errorf("pins (-want +got):\n%s", diff)
	}
}

var (
	mapPins = []string{"vmac7/counters", "vmac7/endpoints", "vmac7/macs", "vmac7/prefixes", "vmac7/seats"}
	tcxPins = []string{"vmac7/counters", "vmac7/endpoints", "vmac7/guard", "vmac7/macs", "vmac7/prefixes", "vmac7/seats", "vmac7/steer"}
)

func (l *lab) wantMode(s *Steer, mode string) {
	l.Helper()
	if s.Mode() != mode {
		l.Errorf("mode %q, want %q", s.Mode(), mode)
	}
	l.wantAttached(mode)
	if mode == modeTCX {
		l.wantPins(tcxPins...)
	} else {
		l.wantPins(mapPins...)
	}
}

// The whole of it: the pod's kernel asks, believes the answer, and reaches the node. Nothing leaks.
func TestPodReachesNode(t *testing.T) {
	eachMode(t, func(l *lab) {
		wire := l.capture(l.wire, "peer")
		s := l.attach()
		l.wantMode(s, map[bool]string{false: modeTCX, true: modeClsact}[l.cfg.Clsact])

		for _, at := range []netip.Addr{node4, node6} {
			if err := roundTrip(l.echo(at)); err != nil {
				got, _ := s.Counters()
				l.Fatalf("pod to %s: %v (%v)", at, err, got)
			}
		}
		l.counted(s, "steered_ipv4", 1)
		l.counted(s, "steered_ipv6", 1)
		l.counted(s, "arp_answered", 1)
		l.counted(s, "nd_answered", 1)
		l.counted(s, "guard_arp", 1)
		l.counted(s, "guard_nd", 1)
		l.pod.Do(func() {
			for _, gateway := range []netip.Addr{Gateway4, Gateway6} {
				if got := l.neighbour(gateway); got != net.HardwareAddr(vmac[:]).String() {
					l.Errorf("the pod believes %s to be at %q, want the vmac", gateway, got)
				}
			}
		})

		// What is not about the gateway does get to the wire.
		l.send(l.pod, "eth0", whoHas(pod1, "10.1.0.11", "10.1.0.99"))
		time.Sleep(50 * time.Millisecond)
		other := 0
		for _, frame := range wire() {
			if bytes.Contains(frame, Gateway4.AsSlice()) || bytes.Contains(frame, Gateway6.AsSlice()) {
				l.Errorf("leaked to the wire: %x", frame)
			}
			if bytes.HasSuffix(frame, addr("10.1.0.99").AsSlice()) {
				other++
			}
		}
		if other != 1 {
			l.Errorf("another question got to the wire %d times, want once", other)
		}
	})
}

func (l *lab) neighbour(a netip.Addr) string {
	l.Helper()
	neighbours, err := netlink.NeighList(l.link("eth0").Attrs().Index, netlink.FAMILY_ALL)
	l.must(err)
	for _, n := range neighbours {
		if ip, _ := netip.AddrFromSlice(n.IP); ip.Unmap() == a {
			return n.HardwareAddr.String()
		}
	}
	return ""
}

// What a test run cannot show: tags that the kernel took off, headers outside the linear part, frames below IP's minimum.
func TestFramesOnLink(t *testing.T) {
	eachMode(t, func(l *lab) {
		s := l.attach()
		tagged := slices.Concat(ipv4(vmac, pod1, "10.1.0.11", "192.168.1.5")[:12], []byte{0x81, 0, 0, 10},
			ipv4(vmac, pod1, "10.1.0.11", "192.168.1.5")[12:])
		l.send(l.pod, "eth0", tagged)
		l.counted(s, "drop_vlan", 1)

		jumbo := make([]byte, 8000)
		l.send(l.pod, "eth0", ipv4(vmac, pod1, "10.1.0.11", "192.168.1.5", jumbo...))
		l.counted(s, "steered_ipv4", 1)
		l.send(l.pod, "eth0", ipv6(vmac, pod1, "2001:db8:1::11", "2001:db8:5::5", 17, 64, jumbo...))
		l.counted(s, "steered_ipv6", 1)
		l.send(l.pod, "eth0", append(whoHas(pod1, "10.1.0.11", "169.254.1.1"), jumbo...))
		l.counted(s, "arp_answered", 1)
		l.counted(s, "guard_arp", 1)
		l.send(l.pod, "eth0", append(solicit(pod1, "2001:db8:1::11", "fe80::1"), jumbo...))
		l.counted(s, "nd_answered", 1)
		l.counted(s, "guard_nd", 1)
		got, err := s.Counters()
		l.must(err)
		if got["drop_truncated"] != 0 {
			l.Errorf("taken for truncated: %v", got)
		}

		var short [][]byte
		for n := 15; n < 14+20; n++ { // the kernel sends no bare Ethernet header
			short = append(short, ipv4(vmac, pod1, "10.1.0.11", "192.168.1.5", 1)[:n])
		}
		for n := 15; n < 14+40; n++ {
			short = append(short, ipv6(vmac, pod1, "2001:db8:1::11", "2001:db8:5::5", 17, 64, 1)[:n])
		}
		l.send(l.pod, "eth0", short...)
		l.counted(s, "drop_truncated", uint64(len(short)))
	})
}

// Attach over an earlier one keeps what it finds, and no packet is lost.
func TestAttachAgain(t *testing.T) {
	eachMode(t, func(l *lab) {
		s := l.attach()
		c := l.echo(node4)
		l.must(roundTrip(c))
		endpoints, before := endpointsOf(l.T, s), id(l)

		stop, lost := make(chan struct{}), make(chan error)
		go func() {
			defer close(lost)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := roundTrip(c); err != nil {
					lost <- err
					return
				}
			}
		}()
		for range 10 {
			l.must(s.Close())
			s = l.reattach()
			l.wantMode(s, map[bool]string{false: modeTCX, true: modeClsact}[l.cfg.Clsact])
			sameEndpoints(l.T, s, endpoints...)
			if id(l) != before {
				l.Error("a new link was made")
			}
		}
		close(stop)
		if err := <-lost; err != nil {
			l.Errorf("lost a packet: %v", err)
		}
		got, err := s.Counters()
		l.must(err)
		if drops := got["drop_spoofed_address"] + got["drop_not_steered"]; drops > 0 || got["steered_ipv4"] < 10 {
			l.Errorf("counters: %v", got)
		}
	})
}

// A node that gets another kernel may change its mode. (Packets may be lost then: adding clsact to a link, and removing it,
// stops the link's queues for a moment, see qdisc_graft.)
func TestAttachInOtherMode(t *testing.T) {
	netns.NeedTCX(t)
	l := newLab(t)
	s := l.attach()
	c, endpoints := l.echo(node4), endpointsOf(t, s)
	for _, clsact := range []bool{true, false, true} {
		l.must(s.Close())
		l.cfg.Clsact = clsact
		s = l.reattach()
		l.wantMode(s, map[bool]string{false: modeTCX, true: modeClsact}[clsact])
		sameEndpoints(t, s, endpoints...)
		l.must(roundTrip(c))
	}
}

// id of the steer link, or 0.
func id(l *lab) link.ID {
	l.Helper()
	pinned, err := link.LoadPinnedLink(filepath.Join(l.cfg.PinDir, l.cfg.Name, "steer"), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	l.must(err)
	defer pinned.Close()
	info, err := pinned.Info()
	l.must(err)
	return info.ID
}

func TestRemove(t *testing.T) {
	for _, byName := range []bool{false, true} {
		eachMode(t, func(l *lab) {
			s := l.attach()
			l.node.Do(func() {
				if byName {
					l.must(Remove(l.cfg.PinDir, l.cfg.Name))
					l.must(Remove(l.cfg.PinDir, l.cfg.Name)) // again
				} else {
					l.must(s.Remove())
				}
			})
			l.wantAttached("")
			l.wantPins()
			l.wantMode(l.attach(), map[bool]string{false: modeTCX, true: modeClsact}[l.cfg.Clsact])
		})
	}
}

// The parent may have programs and filters of others.
func TestRemoveSparesOthers(t *testing.T) {
	eachMode(t, func(l *lab) {
		other, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type:         ebpf.SchedCLS,
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}, // TC_ACT_OK: ends the chain
		})
		l.must(err)
		defer other.Close()
		l.node.Do(func() {
			if l.cfg.Clsact {
				l.must(attachClsact(hook{"steer", other, l.cfg.Parent, 0, netlink.HANDLE_MIN_INGRESS}, "vmac8"))
			} else {
				theirs, err := link.AttachTCX(link.TCXOptions{Interface: l.cfg.Parent, Program: other, Attach: ebpf.AttachTCXEgress})
				l.must(err)
				l.Cleanup(func() { theirs.Close() })
			}
		})
		before := l.attached(l.cfg.Parent)
		s := l.attach()

		// Theirs passes everything. Ours still sees it.
		l.send(l.pod, "eth0", whoHas(pod1, "10.1.0.11", "169.254.1.1"))
		l.counted(s, "guard_arp", 1)

		l.node.Do(func() { l.must(s.Remove()) })
		if diff := cmp.Diff(before, l.attached(l.cfg.Parent)); diff != "" {
			l.Errorf("others' (-before +after):\n%s", diff)
		}
	})
}

func TestDeviceGone(t *testing.T) {
	eachMode(t, func(l *lab) {
		s := l.attach()
		gone := l.cfg.VMAC
		l.node.Do(func() { l.must(netlink.LinkDel(l.link(l.cfg.Name))) })

		// Attach to what is not there fails, and leaves alone what is.
		l.node.Do(func() {
			if _, err := Attach(l.cfg); err == nil {
				l.Error("attached to a link that is gone")
			}
		})
		sameEndpoints(l.T, s, Endpoint{pod4, pod1}, Endpoint{pod6, pod1})
		if _, err := os.Stat(filepath.Join(l.cfg.PinDir, l.cfg.Name+"~")); !errors.Is(err, fs.ErrNotExist) {
			l.Errorf("pins of the attempt: %v", err)
		}

		l.node.Do(func() {
			l.addVMAC()
			l.waitUp(l.cfg.Name)
		})
		if l.cfg.VMAC == gone {
			l.Fatal("the new vmac has the old one's index")
		}
		s = l.reattach()
		l.wantMode(s, map[bool]string{false: modeTCX, true: modeClsact}[l.cfg.Clsact])
		l.must(roundTrip(l.echo(node4)))

		// Gone for good.
		l.node.Do(func() {
			l.must(netlink.LinkDel(l.link(l.cfg.Name)))
			l.must(Remove(l.cfg.PinDir, l.cfg.Name))
		})
		l.wantPins()
		if got := l.attached(l.cfg.Parent); got["tcx"]+got["filters"]+got["clsact"] != 0 {
			l.Errorf("left at the parent: %v", got)
		}
	})
}

// Pins that cannot be used, or are half of something, are replaced one by one.
func TestForeignPins(t *testing.T) {
	pinMap := func(path string, spec *ebpf.MapSpec) error {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return err
		}
		defer m.Close()
		return m.Pin(path)
	}
	spec, err := loadProgram()
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(dir string) error{
		"other size": func(dir string) error {
			m := spec.Maps[programMapEndpoints].Copy()
			m.Name, m.ValueSize, m.Value = "endpoints_1", 16, nil
			return pinMap(filepath.Join(dir, "endpoints"), m)
		},
		"other layout": func(dir string) error {
			m := spec.Maps[programMapEndpoints].Copy()
			m.Name = "endpoints_0"
			return pinMap(filepath.Join(dir, "endpoints"), m)
		},
		"missing": func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.must(l.attach().Close())
			dir := filepath.Join(l.cfg.PinDir, l.cfg.Name)
			l.must(os.Remove(filepath.Join(dir, "endpoints")))
			l.must(spoil(dir))
			l.must(os.Mkdir(dir+"~", 0o700)) // an Attach was killed

			s := l.reattach()
			l.wantMode(s, map[bool]string{false: modeClsact, true: modeTCX}[netns.TCX(t)]) // nobody asked for one
			sameEndpoints(t, s)
			if prefixes, err := s.Prefixes(); err != nil || len(prefixes) != 2 {
				t.Errorf("prefixes were not kept: %v, %v", prefixes, err)
			}
			l.must(s.SyncEndpoints([]Endpoint{{pod4, pod1}}))
			l.must(roundTrip(l.echo(node4)))
		})
	}
}

func TestAttachErrors(t *testing.T) {
	bpffs := mountBPF(t)
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{PinDir: t.TempDir(), Name: "vmac7"}, "mount -t bpf bpf /sys/fs/bpf"},
		{Config{PinDir: "/sys/fs/none/berth", Name: "vmac7"}, "/sys/fs/none/berth/vmac7 is on no BPF file system"},
		{Config{PinDir: bpffs, Name: "vmac.7"}, `name of pins "vmac.7"`},
		{Config{PinDir: bpffs, Name: ""}, `name of pins ""`},
		{Config{PinDir: bpffs, Name: "../other"}, `name of pins "../other"`},
		{Config{PinDir: bpffs, Name: "vmac7", VMAC: 1 << 20, Parent: 1 << 20}, "to link 1048576"},
		{Config{PinDir: bpffs, Name: "vmac7", VMAC: 1 << 20, Parent: 1 << 20, Clsact: true}, "add clsact to link 1048576"},
	} {
		_, err := Attach(tt.cfg)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Attach(%+v): %v, want it to say %q", tt.cfg, err, tt.want)
		}
	}
	killed := filepath.Join(bpffs, "vmac9~")
	if err := os.Mkdir(killed, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Remove(bpffs, "vmac9~"); err != nil {
		t.Errorf("Remove of what a killed Attach left: %v", err)
	}
	if err := Remove(bpffs, ".."); err == nil {
		t.Error("Remove of ..: no error")
	}
	if err := Remove(bpffs, "vmac9"); err != nil {
		t.Errorf("Remove of what never was: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(bpffs, "vmac*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// An agent is root by capabilities, and its limit on locked memory is that of any container.
func TestMemlockLimit(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, nil, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 0, Max: old.Max}, nil); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &old, nil); err != nil {
			t.Error(err)
		}
	}()
	newBench(t, knownEndpoints, knownPrefixes)
}
