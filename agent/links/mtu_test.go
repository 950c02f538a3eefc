//go:build linux

package links

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/tests/netns"
)

// mtus of the bond, its members and its VLAN.
func (n *node) mtus() (out []string) {
	n.t.Helper()
	for _, name := range []string{"bond0", "nic1", "nic2", "bond0.910"} {
		f := strings.Fields(run(n.t, n.NS, "", "ip", "-o", "link", "show", name))
		out = append(out, f[slices.Index(f, "mtu")+1])
	}
	return out
}

// TestMTU: a bond and its VLANs change their MTU while a pod talks over them, its members with them; what a card does not take is refused
// before anything changes.
func TestMTU(t *testing.T) {
	netns.NeedBond(t)
	netns.NeedVLAN(t)
	w := newWire(t)
	ip(t, w.NS, "link set br0 mtu 9000\n")
	var nodes []*node
	var agents []*agent
	spec := func(mtu int) string {
		return fmt.Sprintf("{bond: {name: bond0, members: [nic1, nic2]}, vlans: [910], mtu: %d}", mtu)
	}
	h := hostNetwork(t, "trunk", spec(1500))
	for i := range 2 {
		n := w.node(i + 1)
		for card := range 3 {
			ip(t, w.NS, "link set %s mtu 9000\n", n.port(card))
		}
		a := n.start()
		a.set(h)
		nodes, agents = append(nodes, n), append(agents, a)
	}
	var pods []*netns.NS
	for i, n := range nodes {
		agents[i].await(h, v1alpha1.LinksReady, "")
		pods = append(pods, n.pod("bond0.910", fmt.Sprintf("10.6.1.%d/16", i+1)))
	}
	serve(t, pods[1], "10.6.1.2:910")
	eventually(t, 10*time.Second, "VLAN 910", func() error { return reaches(pods[0], "10.6.1.2:910") })
	more := traffic(t, pods[0], "10.6.1.2:910")
	for _, mtu := range []int{3000, 1400, 2000} {
		h = edited(t, h, spec(mtu))
		for i := range nodes {
			agents[i].set(h)
		}
		want := slices.Repeat([]string{fmt.Sprint(mtu)}, 4)
		for i, n := range nodes {
			agents[i].await(h, v1alpha1.LinksReady, "")
			if got := n.mtus(); !slices.Equal(got, want) {
				t.Errorf("bond, members and VLAN have %s, want %s", got, want)
			}
		}
		more(10)
	}
	t.Run("more than a card takes", func(t *testing.T) {
		// A card at the other end of whose wire is a program of XDP takes no frame of more than a page.
		most := nodes[0].limit(2)
		want := nodes[0].picture()
		wrong := edited(t, h, spec(9000))
		agents[0].set(wrong)
		agents[0].await(wrong, v1alpha1.LinksRefused, fmt.Sprintf("mtu 9000 is more than the %d that member nic2 takes; lower mtu, or name another card", most))
		nodes[0].looks(t, 10*time.Second, "as before", want)
		more(10)
		h = edited(t, wrong, spec(most))
		agents[0].set(h)
		agents[0].await(h, v1alpha1.LinksReady, "")
		more(10)
	})
	t.Run("more than a parent has", func(t *testing.T) {
		p := hostNetwork(t, "more", `{parent: bond0, vlans: [930], mtu: 9000}`)
		agents[1].set(h, p)
		agents[1].await(p, v1alpha1.LinksRefused, "mtu 9000 is more than the")
		if got := nodes[1].picture(); strings.Contains(got, "bond0.930") {
			t.Error(got)
		}
	})
}

// limit a card of the node, and say to what.
func (n *node) limit(card int) (most int) {
	n.t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.LoadImm(asm.R0, 2, asm.DWord), asm.Return()}}) // XDP_PASS
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { p.Close() })
	n.w.Do(func() {
		var port netlink.Link
		if port, err = netlink.LinkByName(n.port(card)); err != nil {
			return
		}
		if err = netlink.LinkSetMTU(port, 2000); err != nil {
			return
		}
		var l link.Link
		if l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: port.Attrs().Index, Flags: link.XDPDriverMode}); err == nil {
			n.t.Cleanup(func() { l.Close() })
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
	n.Do(func() {
		var k *kernel
		if k, err = openKernel(n.cfg.NetNS); err != nil {
			return
		}
		defer k.close()
		var now Observed
		if now, err = k.observe(); err == nil {
			most = now[fmt.Sprintf("nic%d", card)].MaxMTU
		}
	})
	if err != nil || most < 2000 || most > 4096 {
		n.t.Fatalf("at most %d (%v)", most, err)
	}
	return most
}
