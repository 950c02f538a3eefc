//go:build linux

package netns

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TCX says whether the kernel has tcx (6.6 and later), by asking it, not by its version.
func TCX(t testing.TB) bool {
	t.Helper()
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress}) // of lo, which each namespace has
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, link.ErrNotSupported) {
		t.Fatalf("ask for tcx: %v", err)
	}
	return err == nil
}

// NeedTCX skips a test where the kernel has no tcx.
func NeedTCX(t testing.TB) {
	t.Helper()
	if !TCX(t) {
		t.Skip("the kernel has no tcx")
	}
}

// NeedBond skips a test where the kernel has no bonds, for instance for want of a module.
func NeedBond(t testing.TB) {
	t.Helper()
	needLink(t, func(int) netlink.Link { return netlink.NewLinkBond(netlink.LinkAttrs{Name: "bond"}) })
}

// NeedVLAN skips a test where the kernel has no VLANs.
func NeedVLAN(t testing.TB) {
	t.Helper()
	needLink(t, func(below int) netlink.Link {
		return &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "vlan", ParentIndex: below}, VlanId: 7}
	})
}

func needLink(t testing.TB, on func(below int) netlink.Link) {
	t.Helper()
	New(t).Do(func() {
		nic := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nic"}, PeerName: "peer"}
		if err := netlink.LinkAdd(nic); err != nil {
			t.Fatalf("add a veth: %v", err)
		}
		l := on(nic.Index)
		switch err := netlink.LinkAdd(l); {
		case errors.Is(err, unix.EOPNOTSUPP):
			t.Skipf("the kernel has no links of kind %s", l.Type())
		case err != nil:
			t.Fatalf("add a %s: %v", l.Type(), err)
		}
	})
}
