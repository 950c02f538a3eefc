//go:build apiserver

package agent

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/agent/guards"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/nad"
	"github.com/berthdev/berth/tests/netns"
)

// sends says whether a pod can send from an IPv4 address by net1.
func (r *cniNode) sends(pod *netns.NS, from ...byte) (passed bool) {
	r.Helper()
	pod.Do(func() {
		l, err := netlink.LinkByName("net1")
		if err != nil {
			r.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			r.Fatal(err)
		}
		defer unix.Close(fd)
		frame := slices.Concat([]byte{2, 0, 0, 0, 9, 9}, l.Attrs().HardwareAddr, []byte{8, 0, 0x45, 0, 0, 20, 0, 1, 0, 0, 64, 17, 0, 0}, from, []byte{8, 8, 8, 8})
		err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index})
		if err != nil && !errors.Is(err, unix.ENOBUFS) { // which is how the sender hears of a drop
			r.Fatal(err)
		}
		passed = err == nil
	})
	return passed
}

// The life of a pod's guard with the real macvlan plugin, by what the pod can send.
func TestSourceGuardOfPods(t *testing.T) {
	r := newCNINode(t, "macvlan", "10.6.0.10-10.6.0.12")
	pins := t.TempDir()
	if err := unix.Mount("bpf", pins, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(pins, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir() // where the agent finds namespaces
	r.stop()
	r.conf.Journal = filepath.Join(t.TempDir(), "journal.db")
	r.rig.guards = func(a *Agent) sourceGuards {
		return guards.New(guards.Config{PinDir: filepath.Join(pins, "berth"), NetNS: dir}, a.refused, slog.New(slog.DiscardHandler))
	}
	r.start()
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		t.Fatal(err)
	}
	list := r.list(r.network("1.1.0"))
	add := func(annotations ...string) (*netns.NS, func() error, error) {
		t.Helper()
		ns, sandbox := netns.New(t), apitest.Unique("s")
		for _, d := range []string{"/run/netns", dir} { // the plugins look there, too
			file := filepath.Join(d, sandbox)
			if err := os.Symlink(ns.Path(), file); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(file) })
		}
		rt := runtimeConf(r.pod(apitest.Unique("p"), append(annotations, nad.PoolAnnotation+"=$a")...), sandbox, ns)
		rt.NetNS = "/run/netns/" + sandbox
		var err error
		r.node.Do(func() { _, err = r.cni.AddNetworkList(t.Context(), list, rt) })
		return ns, func() (err error) {
			r.node.Do(func() { err = r.cni.DelNetworkList(t.Context(), list, rt) })
			return err
		}, err
	}

	pod, del, err := add()
	if err != nil {
		t.Fatal(err)
	}
	asItsLease := func() {
		t.Helper()
		n := 0 // addresses of the pool that it can send as
		for host := range byte(3) {
			if r.sends(pod, 10, 6, 0, 10+host) {
				n++
			}
		}
		if bound := r.store.Bound(); len(bound) != 1 || n != 1 || !r.sends(pod, netip.MustParseAddr(bound[0].Spec.Address).AsSlice()...) {
			t.Errorf("the pod sends as %d addresses, of leases %v", n, bound)
		}
	}
	asItsLease()
	apitest.Eventually(t, "tcx is in the place of clsact", func() error {
		if links, _ := filepath.Glob(filepath.Join(pins, "berth", "guards*", "*-*")); len(links) != 1 {
			return errors.New("not yet")
		}
		return nil
	})
	r.stop() // its journal tells the next agent
	r.start()
	apitest.Eventually(t, "the interface is known again", func() error {
		if n := r.Agent.guards.States()["guarded"]; n != 1 {
			return errors.New("not yet")
		}
		return nil
	})
	asItsLease()
	free, _, err := add(nad.GuardAnnotation + "=Disabled")
	if err != nil || !r.sends(free, 10, 6, 0, 99) {
		t.Errorf("a pod that opts out is guarded, or %v", err)
	}
	vip, _, err := add(nad.AllowedAnnotation + "=10.6.0.99")
	if err != nil || !r.sends(vip, 10, 6, 0, 99) || r.sends(vip, 10, 6, 0, 98) {
		t.Errorf("a pod does not send as it is allowed, or more than that; %v", err)
	}
	if err := del(); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the guard is gone with the pod", func() error {
		if n := r.Agent.guards.States()["guarded"]; n != 1 {
			return errors.New("not yet")
		}
		return nil
	})

	r.edit("a", func(s *v1alpha1.IPPoolSpec) { s.SourceGuard = v1alpha1.SourceGuardRequired })
	for _, annotation := range []string{nad.GuardAnnotation + "=Disabled", nad.AllowedAnnotation + "=10.6.0.99"} {
		if _, _, err := add(annotation); err == nil || !strings.Contains(err.Error(), "has sourceGuard Required") {
			t.Errorf("%s: %v", annotation, err)
		}
	}
	strict, _, err := add()
	if err != nil || r.sends(strict, 10, 6, 0, 99) {
		t.Errorf("of a pool that requires it a pod is not guarded, or %v", err)
	}
}
