package bpf

import (
	"encoding/binary"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/tests/netns"
)

// newFenced is a lab whose pod is within the fence.
func newFenced(t *testing.T) *guarded {
	t.Helper()
	l := newLab(t)
	l.cfg.Clsact = !netns.TCX(t)
	g := newGuarded(l)
	if g.Unfenced() != nil {
		t.Skip("the kernel takes no fence: ", g.Unfenced())
	}
	l.pod.Do(func() { l.must(g.Guard(g.at)) })
	g.settled(!l.cfg.Clsact)
	return g
}

func (g *guarded) denials(want map[string]uint64) {
	g.Helper()
	got, err := g.Denials()
	g.must(err)
	of, err := g.Denied(g.at.Cookie)
	g.must(err)
	sum := uint64(0)
	for _, name := range Denials() {
		if want[name] == 0 {
			want[name] = 0
		}
		sum += want[name]
	}
	if diff := cmp.Diff(want, got); diff != "" || of != sum {
		g.Errorf("%d of the pod, want %d; denials (-want +got):\n%s", of, sum, diff)
	}
}

// Only who is within is denied, as long as he is.
func TestFence(t *testing.T) {
	g := newFenced(t)
	may := func(ns *netns.NS, link string, want bool) {
		g.Helper()
		ns.Do(func() {
			fd := bypass(g)
			if fd >= 0 {
				g.must(unix.Close(fd))
			}
			xdp := bindXDP(g, g.link(link).Attrs().Index)
			err := netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "round", ParentIndex: g.link(link).Attrs().Index}, Mode: netlink.MACVLAN_MODE_BRIDGE})
			tap := netlink.LinkAdd(&netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "tap", ParentIndex: g.link(link).Attrs().Index}, Mode: netlink.MACVLAN_MODE_BRIDGE}})
			if err == nil {
				g.must(netlink.LinkDel(g.link("round")))
			}
			if tap == nil {
				g.must(netlink.LinkDel(g.link("tap")))
			}
			if got := []bool{fd >= 0, xdp == nil, err == nil, !errors.Is(tap, unix.EPERM)}; !cmp.Equal(got, []bool{want, want, want, want}) {
				g.Errorf("in %s bypass, AF_XDP, macvlan, macvtap may: %v, want %v (%v, %v, %v)", link, got, want, xdp, err, tap)
			}
			for _, err := range []error{xdp, err, tap} {
				if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EOPNOTSUPP) { // there is no macvtap
					g.Error(err)
				}
			}
			// Other links, and changes of them, are the pod's own affair.
			g.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth7"}, PeerName: "veth8"}))
			g.must(netlink.LinkSetMTU(g.link("veth7"), 1400))
			g.must(netlink.LinkDel(g.link("veth7")))
		})
	}
	may(g.pod, "eth0", false)
	may(g.node, "nic", true)
	may(g.wire, "peer", true)
	g.denials(map[string]uint64{"fence_bypass": 1, "fence_xdp": 1, "fence_macvlan": 2})

	again, err := OpenSourceGuard(g.cfg.PinDir, g.cfg.Clsact) // an agent restarts
	g.must(err)
	g.must(g.SourceGuard.Close())
	g.SourceGuard = again
	t.Cleanup(func() { again.Close() })
	may(g.pod, "eth0", false)
	g.denials(map[string]uint64{"fence_bypass": 2, "fence_xdp": 2, "fence_macvlan": 4})
	left, err := filepath.Glob(filepath.Join(g.cfg.PinDir, "guards*", fenceDir, "*~"))
	if len(left) > 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}

	at := Place{g.at.Cookie, 4711} // a second interface of the pod
	g.must(g.Put(at, Source{MAC: pod1}))
	g.must(g.Delete(at))
	may(g.pod, "eth0", false)
	g.pod.Do(func() { g.must(g.Release(g.at)) })
	may(g.pod, "eth0", true)

	g.must(g.Put(g.at, Source{MAC: pod1}))
	may(g.pod, "eth0", false)
	g.must(RemoveSourceGuard(g.cfg.PinDir))
	g.must(g.SourceGuard.Close())
	for end := time.Now().Add(5 * time.Second); g.bypass() < 0; time.Sleep(time.Millisecond) { // links end some time later
		if time.Now().After(end) {
			t.Fatal("still denied")
		}
	}
}

// bindXDP binds an AF_XDP socket as far as the kernel needs it to send.
func bindXDP(g *guarded, ifindex int) error {
	g.Helper()
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW, 0)
	g.must(err)
	defer unix.Close(fd)
	frames, err := unix.Mmap(-1, 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	g.must(err)
	defer func() { g.must(unix.Munmap(frames)) }()
	umem := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&frames[0]))), Len: uint64(len(frames)), Size: 2048}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG, uintptr(unsafe.Pointer(&umem)), unsafe.Sizeof(umem), 0)
	if errno != 0 {
		g.Fatal("register memory: ", errno)
	}
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_TX_RING} {
		g.must(unix.SetsockoptInt(fd, unix.SOL_XDP, ring, 16))
	}
	return unix.Bind(fd, &unix.SockaddrXDP{Flags: unix.XDP_COPY, Ifindex: uint32(ifindex)})
}

// A namespace that the pod makes is within, too, whatever it takes there or asks for from there, until it is gone.
func TestFenceInherits(t *testing.T) {
	g := newFenced(t)
	// sh runs in a namespace within a namespace of the pod, with a user namespace of its own.
	sh := func(script string) string {
		g.Helper()
		var out []byte
		var err error
		g.pod.Do(func() {
			out, err = exec.Command("unshare", "-n", "unshare", "-U", "-r", "-n", "sh", "-c", "exec 2>&1; "+script).CombinedOutput()
		})
		if err != nil {
			g.Fatalf("%s: %v\n%s", script, err, out)
		}
		return string(out)
	}
	const denied = "Operation not permitted"
	if out := sh("ip link add veth7 type veth peer name veth8; ip link add link veth7 name round type macvlan mode bridge; true"); !strings.Contains(out, denied) {
		t.Errorf("a macvlan link: %s", out)
	}
	g.denials(map[string]uint64{"fence_macvlan": 1})

	// With its interface moved there.
	child := g.pod.Child()
	g.pod.Do(func() { g.must(netlink.LinkSetNsFd(g.link("eth0"), child.FD())) })
	child.Do(func() {
		if bypass(g) >= 0 {
			t.Error("PACKET_QDISC_BYPASS is not denied")
		}
		at := g.link("eth0").Attrs().Index
		if err := bindXDP(g, at); !errors.Is(err, unix.EPERM) {
			t.Errorf("AF_XDP: %v", err)
		}
		g.must(netlink.LinkSetUp(g.link("eth0")))
	})
	if !g.cfg.Clsact { // which does not come along
		g.pod = child
		g.wantGuarded(true)
	}
	g.denials(map[string]uint64{"fence_macvlan": 1, "fence_bypass": 1, "fence_xdp": 1})
}

// A namespace that is gone is within no more.
func TestFenceReleases(t *testing.T) {
	g := newFenced(t)
	g.pod.Do(func() { g.must(exec.Command("unshare", "-n", "true").Run()) })
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		within, err := contents[uint64, fencedNamespace](g.fence.maps.Fenced)
		g.must(err)
		if len(within) == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("still within: %v", within)
		}
	}
}

// More namespaces than can be noted are not made.
func TestFenceFull(t *testing.T) {
	g := newFenced(t)
	for cookie := uint64(1) << 62; ; cookie++ {
		if err := g.fence.maps.Fenced.Put(cookie, fencedNamespace{Pod: g.at.Cookie}); errors.Is(err, unix.E2BIG) {
			break
		} else {
			g.must(err)
		}
	}
	var err error
	g.pod.Do(func() { err = exec.Command("unshare", "-n", "true").Run() })
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("one namespace too many: %v, want that its maker is killed", err)
	}
	g.node.Do(func() { g.must(exec.Command("unshare", "-n", "true").Run()) })
	g.denials(map[string]uint64{"fence_full": 1})
}

// A kernel that lacks a function has no fence, and all else is as it was.
func TestNoFence(t *testing.T) {
	loadFenceSpec = func() (*ebpf.CollectionSpec, error) {
		spec, err := loadFence()
		if err == nil {
			spec.Programs[fenceProgFenceNetlink].AttachTo = "security_of_nothing"
		}
		return spec, err
	}
	t.Cleanup(func() { loadFenceSpec = loadFence })
	l := newLab(t)
	l.cfg.Clsact = !netns.TCX(t)
	g := newGuarded(l)
	if g.Unfenced() == nil {
		t.Fatal("there is a fence")
	}
	l.pod.Do(func() { l.must(g.Guard(g.at)) })
	g.settled(!l.cfg.Clsact)
	g.wantGuarded(true)
	if n, err := g.Denials(); len(n) > 0 || err != nil {
		t.Errorf("denials: %v, %v", n, err)
	}
	l.must(unix.Close(g.bypass()))
	l.must(g.Delete(g.at))
	l.must(RemoveSourceGuard(l.cfg.PinDir))
}

// message of rtnetlink, attribute: as they are sent.
func message(kind, flags uint16, attributes ...[]byte) []byte {
	m := make([]byte, 32, 64)
	for _, a := range attributes {
		m = append(m, a...)
	}
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], kind)
	binary.NativeEndian.PutUint16(m[6:], flags)
	return m
}

func attribute(kind uint16, values ...[]byte) []byte {
	a := make([]byte, 4, 16)
	for _, v := range values {
		a = append(a, v...)
	}
	binary.NativeEndian.PutUint16(a, uint16(len(a)))
	binary.NativeEndian.PutUint16(a[2:], kind)
	return append(a, make([]byte, -len(a)&3)...)
}

// What is sent to rtnetlink is read as the kernel reads it.
func TestFenceReads(t *testing.T) {
	g := newFenced(t)
	const create = unix.NLM_F_REQUEST | unix.NLM_F_CREATE
	name := func(kind string) []byte { return attribute(unix.IFLA_INFO_KIND, []byte(kind)) }
	link := func(kinds ...string) []byte {
		var all [][]byte
		for _, k := range kinds {
			all = append(all, name(k))
		}
		return attribute(unix.IFLA_LINKINFO, all...)
	}
	many := func(n int, last ...[]byte) (out []byte) {
		noop := message(unix.NLMSG_NOOP, 0)[:16]
		binary.NativeEndian.PutUint32(noop, 16)
		for range n {
			out = append(out, noop...)
		}
		for _, m := range last {
			out = append(out, m...)
		}
		return out
	}
	cut := func(m []byte, to int, of uint32) []byte {
		m = m[:to]
		binary.NativeEndian.PutUint32(m, of)
		return m
	}
	for what, tt := range map[string]struct {
		sent   []byte
		denied string
	}{
		"macvlan":                  {message(unix.RTM_NEWLINK, create, link("macvlan")), "fence_macvlan"},
		"with its end":             {message(unix.RTM_NEWLINK, create, link("macvtap\x00")), "fence_macvlan"},
		"nested flag":              {message(unix.RTM_NEWLINK, create, attribute(unix.IFLA_LINKINFO|unix.NLA_F_NESTED, name("macvlan"))), "fence_macvlan"},
		"after other attributes":   {message(unix.RTM_NEWLINK, create, attribute(unix.IFLA_IFNAME, []byte("x")), attribute(unix.IFLA_LINKINFO, attribute(9, []byte("12345")), name("macvlan"))), "fence_macvlan"},
		"the second kind":          {message(unix.RTM_NEWLINK, create, link("veth", "macvlan")), "fence_macvlan"},
		"the second of two":        {message(unix.RTM_NEWLINK, create, link("veth"), link("macvlan")), "fence_macvlan"},
		"the second message":       {append(message(unix.RTM_GETLINK, unix.NLM_F_REQUEST), message(unix.RTM_NEWLINK, create, link("macvlan"))...), "fence_macvlan"},
		"after a short message":    {append(message(unix.RTM_NEWLINK, create)[:32:32], message(unix.RTM_NEWLINK, create, link("macvlan"))...), "fence_macvlan"},
		"after a broken attribute": {append(message(unix.RTM_NEWLINK, create, []byte{3, 0, 0, 0}), message(unix.RTM_NEWLINK, create, link("macvlan"))...), "fence_macvlan"},
		"last of many":             {many(4000, message(unix.RTM_NEWLINK, create, link("macvlan"))), "fence_macvlan"},
		"too many":                 {many(4100), "fence_unreadable"},
		"a change":                 {message(unix.RTM_NEWLINK, unix.NLM_F_REQUEST, link("macvlan")), ""},
		"another kind":             {message(unix.RTM_NEWLINK, create, link("ipvlan")), ""},
		"a kind too short":         {message(unix.RTM_NEWLINK, create, link("mac")), ""},
		"the name of another":      {message(unix.RTM_NEWLINK, create, attribute(unix.IFLA_IFNAME, []byte("macvlan")), link("veth")), ""},
		"another message":          {message(unix.RTM_SETLINK, create, link("macvlan")), ""},
		"no attribute":             {message(unix.RTM_NEWLINK, create), ""},
		"longer than what is sent": {cut(message(unix.RTM_NEWLINK, create, link("macvlan")), 48, 400), ""},
		"shorter than a header":    {cut(message(unix.RTM_NEWLINK, create, link("macvlan")), 48, 8), ""},
		"half a header":            {message(unix.RTM_NEWLINK, create)[:12], ""},
	} {
		t.Run(what, func(t *testing.T) {
			before, err := g.Denials()
			g.must(err)
			g.pod.Do(func() {
				fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
				g.must(err)
				defer unix.Close(fd)
				g.must(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20))
				err = unix.Sendto(fd, tt.sent, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
				if denied := errors.Is(err, unix.EPERM); denied != (tt.denied != "") || err != nil && !denied {
					t.Errorf("sent: %v; want denied as %q", err, tt.denied)
				}
			})
			after, err := g.Denials()
			g.must(err)
			for name := range after {
				if got := after[name] - before[name]; got != 0 != (name == tt.denied) {
					t.Errorf("%s: %d more", name, got)
				}
			}
		})
	}
}
