//go:build linux

package path

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/tests/netns"
)

// An ADD does not wait for seats, Run sees to them.
func TestSeated(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.start()
	n.must("sync")
	n.must("run")
	n.attached(1)
	n.attached(2)
	eventually(t, 10*time.Second, "seats", func() error {
		m, err := ebpf.LoadPinnedMap(filepath.Join(n.cfg.PinDir, n.vmac().Name, "seats"), nil)
		if err != nil {
			return err
		}
		defer m.Close()
		var i uint32
		var seat struct { // as in endpoints.h
			Address [16]byte
			MAC     [6]byte
			Flags   uint16
		}
		seated, it := 0, m.Iterate()
		for it.Next(&i, &seat) {
			if seat.Flags&(1<<15) != 0 {
				seated++
			}
		}
		if seated != 4 {
			return fmt.Errorf("%d of 4 addresses are seated", seated)
		}
		return it.Err()
	})
}

// TestMend breaks the path in every way that an event tells of, and some others.
func TestMend(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.start()
	n.must("sync")
	n.must("run")
	p, q := n.attached(1), n.attached(2)
	serve(t, p.NS, p.addrs...)
	serve(t, q.NS, q.addrs...)
	vips := n.service(1, q.addrs)
	name := n.vmac().Name
	works := func() error {
		if err := n.reaches(p); err != nil {
			return err
		}
		for _, vip := range vips {
			if _, err := ask(p.NS, "tcp", vip); err != nil {
				return err
			}
		}
		return nil
	}
	if err := works(); err != nil {
		t.Fatal(err)
	}

	// poke makes an event that says nothing of what was broken, in place of the half minute.
	poke := func() { ip(t, n.NS, "address add 10.77.0.1/24 dev lo\naddress del 10.77.0.1/24 dev lo\n") }
	tests := []struct {
		name, script string
		event        bool // the kernel tells of it by itself
	}{
		{"vmac down", "ip link set " + name + " down", true},
		{"vmac deleted", "ip link del " + name, true},
		{"MAC of the vmac", "ip link set " + name + " address 02:00:00:00:00:77", true},
		{"MTU of the parent", "ip link set eth0 mtu 1400", true},
		{"MTU of the parent, up again", "ip link set eth0 mtu 1500", true},
		{"routes and neighbours flushed", "ip route flush proto 98; ip -6 route flush proto 98; ip neigh flush dev " + name + " nud permanent", false},
		{"routes replaced", "ip route replace 10.6.1.1 dev eth0; ip -6 route del 2001:db8:6:0:1::1", false},
		{"table flushed", "nft flush table inet berth", false},
		{"table deleted", "nft delete table inet berth", false},
		{"set emptied", "nft flush set inet berth vmacs", false},
		{"groups left", "ip maddr del 33:33:ff:00:00:01 dev " + name, false},
		{"sysctl", "sysctl -qw net.ipv4.conf." + name + ".arp_ignore=0", false},
		{"forwarding off", "sysctl -qw net.ipv4.ip_forward=0", false},
		{"redirects on", "sysctl -qw net.ipv4.conf.all.send_redirects=1", false},
		{"ICMPv6 limited", "sysctl -qw net.ipv6.icmp.ratelimit=100", false},
		{"address of the vmac", "ip address add 10.88.0.1/24 dev " + name, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			run(t, n.NS, tt.script, "sh", "-e")
			if !tt.event {
				poke()
			}
			eventually(t, 3*time.Second, "state", func() error {
				n := *n
				probe := &recorder{TB: t}
				n.t = probe
				n.check(n.expect(p, q))
				if v := n.vmac(); probe.said == "" && v != nil {
					if mtu := fmt.Sprintf(" mtu %d ", v.MTU); !strings.Contains(run(t, n.NS, "", "ip", "link", "show", "eth0"), mtu) {
						return fmt.Errorf("not the parent's:%s", mtu)
					}
					for _, s := range slices.Concat(vmacSettings(v.Name), routerSettings4, routerSettings6) {
						got := strings.TrimSpace(run(t, n.NS, "", "cat", sysctlRoot+"/"+s.key))
						if got != s.value {
							return fmt.Errorf("%s is %s", s.key, got)
						}
					}
				}
				if probe.said != "" {
					return fmt.Errorf("%s", probe.said)
				}
				return nil
			})
			eventually(t, 5*time.Second, "path", works)
		})
	}
	eventually(t, 3*time.Second, "vmac without address", func() error {
		if got := run(t, n.NS, "", "ip", "-o", "address", "show", "dev", name); got != "" {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	if t.Failed() {
		t.Log(n.must("counters").Counters)
	}
}

// One round suffices: what a change of the round itself takes away is back at its end.
func TestMendInOneRound(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.start()
	n.must("sync")
	p := n.attached(1)
	serve(t, p.NS, p.addrs...)
	name := n.vmac().Name
	for what, script := range map[string]string{
		"address of the vmac": "ip address add 10.88.0.1/24 dev " + name,
		"MAC of the vmac":     "ip link set " + name + " address 02:00:00:00:00:77",
	} {
		t.Run(what, func(t *testing.T) {
			run(t, n.NS, script, "sh", "-e")
			n.must("mend")
			n.check(n.expect(p))
			if err := n.reaches(p); err != nil {
				t.Error(err)
			}
		})
	}
}

type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Helper()                        {}
func (r *recorder) Errorf(format string, a ...any) { r.said += fmt.Sprintf(format, a...) }

// programs are the IDs of the attached programs.
func (n *node) programs() (ids []ebpf.ProgramID) {
	n.t.Helper()
	if !netns.TCX(n.t) {
		return n.filters()
	}
	for _, name := range []string{"steer", "guard"} {
		l, err := link.LoadPinnedLink(filepath.Join(n.cfg.PinDir, n.vmac().Name, name), nil)
		if err != nil {
			n.t.Fatal(err)
		}
		info, err := l.Info()
		if err != nil {
			n.t.Fatal(err)
		}
		ids = append(ids, info.Program)
		l.Close()
	}
	return ids
}

// filters are the IDs of the programs that clsact has at the vmac and its parent.
func (n *node) filters() (ids []ebpf.ProgramID) {
	n.t.Helper()
	n.Do(func() {
		for name, parent := range map[string]uint32{n.vmac().Name: netlink.HANDLE_MIN_INGRESS, "eth0": netlink.HANDLE_MIN_EGRESS} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				n.t.Fatal(err)
			}
			filters, err := netlink.FilterList(l, parent)
			if err != nil {
				n.t.Fatal(err)
			}
			for _, f := range filters {
				ids = append(ids, ebpf.ProgramID(f.(*netlink.BpfFilter).Id))
			}
		}
	})
	slices.Sort(ids)
	return ids
}

// takeOff detaches programs behind the agent's back.
func (n *node) takeOff(names ...string) {
	n.t.Helper()
	for _, name := range names {
		if !netns.TCX(n.t) {
			at := map[string]string{"steer": n.vmac().Name, "guard": "eth0"}[name]
			run(n.t, n.NS, "", "tc", "qdisc", "delete", "dev", at, "clsact")
			continue
		}
		l, err := link.LoadPinnedLink(filepath.Join(n.cfg.PinDir, n.vmac().Name, name), nil)
		if err != nil {
			n.t.Fatal(err)
		}
		if err := errors.Join(l.Detach(), l.Close()); err != nil {
			n.t.Fatal(err)
		}
	}
}

// TestHealthyProgram: the half minute's round loads nothing where nothing is amiss.
func TestHealthyProgram(t *testing.T) {
	n := newCluster(t, 1).nodes[0]
	n.start()
	n.must("sync", n.pod(1).endpoints()...)
	before := n.programs()
	n.must("mend")
	if now := n.programs(); len(before) != 2 || !slices.Equal(now, before) {
		t.Errorf("programs were %v, are %v", before, now)
	}
}

// TestDetachedProgram takes the programs off, which no event tells: the half minute's round finds it.
func TestDetachedProgram(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.start()
	p := n.attached(1)
	n.must("sync", p.endpoints()...)
	serve(t, n.NS, n.own()...)
	stranger := n.pod(2)
	n.steer(stranger)
	for _, gateway := range []string{"169.254.1.1", "fe80::1"} {
		ip(t, stranger.NS, "neigh replace %s lladdr %s dev net1 nud permanent\n", gateway, n.vmac().HardwareAddr)
	}
	n.takeOff("steer", "guard")
	counts := func() uint64 { return n.counts()["steered_ipv4"] }
	before := counts()
	_, _ = ask(p.NS, "tcp", n.own()[0])
	if counts() != before {
		t.Fatal("the program is not off")
	}
	n.must("mend")
	// The pod may still be waiting for an answer to its last ARP request, and gives up then.
	eventually(t, 10*time.Second, "the way to the node", func() error {
		_, err := ask(p.NS, "tcp", n.own()[0])
		return err
	})
	if counts() == before {
		t.Error("the program is still off")
	}
	if _, err := ask(stranger.NS, "tcp", n.own()[1]); err == nil {
		t.Error("a stranger is let in")
	}
}

// TestParentReturns deletes the parent, and with it all of its macvlan links, pods' included.
func TestParentReturns(t *testing.T) { deleteAndReturn(t, newCluster(t, 1)) }

func deleteAndReturn(t *testing.T, c *cluster) {
	n := c.nodes[0]
	n.start()
	n.must("sync")
	n.must("run")
	p := n.attached(1)
	mac := n.vmac().HardwareAddr.String()

	ip(t, n.NS, "link del eth0\n")
	eventually(t, 3*time.Second, "complaint", func() error {
		if !strings.Contains(n.log.String(), `parent link \"eth0\" does not exist on this node; create it`) {
			return fmt.Errorf("not said")
		}
		return nil
	})
	if _, err := n.call(request{Op: "attach", Endpoints: n.otherEndpoint()}); err == nil || !strings.Contains(err.Error(), `"eth0"`) {
		t.Errorf("attach without the parent: %v", err)
	}
	c.plug(n)
	eventually(t, 3*time.Second, "vmac", func() error {
		if n.vmac() == nil {
			return fmt.Errorf("none")
		}
		return nil
	})
	if got := n.vmac().HardwareAddr.String(); got != mac {
		t.Errorf("MAC was %s, is %s", mac, got)
	}
	again := n.pod(1)
	n.must("attach", again.endpoints()...)
	n.steer(again)
	serve(t, again.NS, again.addrs...)
	eventually(t, 3*time.Second, "path", func() error { return n.reaches(again) })
	n.check(n.expect(again))
	_ = p
}

func (n *node) otherEndpoint() []Endpoint {
	return []Endpoint{{Parent: "eth0", Address: addr("10.6.1.99"), MAC: []byte{2, 0, 0, 0, 0, 99}}}
}

func TestOwnAddressesFollowed(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.start()
	n.must("sync")
	n.must("run")
	ip(t, n.NS, "link add local-dns type bridge\nlink set local-dns up\naddress add 169.254.20.10/32 dev local-dns\n"+
		"address add 2001:db8:20::a/128 dev local-dns nodad\naddress add 10.6.0.200/32 dev eth0\n")
	want := prefixes("10.6.0.11/32", "10.96.0.0/16", "10.244.0.0/16", "169.254.20.10/32", "192.168.99.1/32",
		"2001:db8:6::11/128", "2001:db8:20::a/128", "2001:db8:96::/112", "2001:db8:99::a1/128", "2001:db8:244::/48")
	eventually(t, 3*time.Second, "steered", func() error {
		if got := n.must("steered").Steered; !slices.Equal(got, want) {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
	p := n.attached(1)
	dns := []netip.Addr{addr("169.254.20.10"), addr("2001:db8:20::a"), addr("10.6.0.200")}
	serve(t, n.NS, dns...)
	for _, a := range dns {
		if _, err := ask(p.NS, "udp", a); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	// An address that comes later is answered for on the pod's own subnet.
	ip(t, n.NS, "address add 10.6.0.201/16 dev eth0\naddress add 2001:db8:6::201/64 dev eth0 nodad\n")
	later := []netip.Addr{addr("10.6.0.201"), addr("2001:db8:6::201")}
	serve(t, n.NS, later...)
	for _, a := range later {
		eventually(t, 3*time.Second, a.String(), func() error { _, err := ask(p.NS, "udp", a); return err })
	}
}

func TestForwardingKeepsRouterAdvertisements(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	run(t, n.NS, "", "sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=1")
	value := func(key string) string { return strings.TrimSpace(run(t, n.NS, "", "cat", sysctlRoot+"/"+key)) }
	n.start()
	p := n.pod(1)
	n.must("attach", p.endpoints()[:1]...)
	if got := value("ipv4/ip_forward") + value("ipv6/conf/all/forwarding") + value("ipv6/conf/eth0/accept_ra"); got != "101" {
		t.Errorf("with an IPv4 pod, ip_forward, forwarding and accept_ra are %s", got)
	}
	n.must("attach", p.endpoints()...)
	if got := value("ipv4/ip_forward") + value("ipv6/conf/all/forwarding") + value("ipv6/conf/eth0/accept_ra"); got != "112" {
		t.Errorf("with an IPv6 pod, ip_forward, forwarding and accept_ra are %s", got)
	}
	if got := value("ipv6/conf/" + n.vmac().Name + "/accept_ra"); got != "0" {
		t.Errorf("vmac's accept_ra is %s", got)
	}
}

// TestFailedAttach: an address that had an owner is its again, whether or not the new one's MAC had got to the kernel.
func TestFailedAttach(t *testing.T) {
	n := newCluster(t, 1).nodes[0]
	n.start()
	p := n.attached(1)
	serve(t, p.NS, p.addrs...)
	serve(t, n.NS, n.own()...)
	eps := p.endpoints()
	for i := range eps {
		eps[i].MAC = []byte{2, 0, 0, 0, 0, 99}
	}
	eps = append(eps, n.otherEndpoint()[0], Endpoint{"nic9", addr("10.7.1.1"), eps[0].MAC})
	for range 10 { // parents come in any order
		if _, err := n.call(request{Op: "attach", Endpoints: eps}); err == nil {
			t.Fatal("no error")
		}
		n.check(n.expect(p))
	}
	n.must("sync", p.endpoints()...)
	n.check(n.expect(p))
	_, _ = n.call(request{Op: "attach", Endpoints: eps})
	if err := n.reaches(p); err != nil {
		t.Error(err)
	}
	for _, a := range n.own() {
		if _, err := ask(p.NS, "tcp", a); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	n.must("mend") // what is wanted is as before, too
	n.check(n.expect(p))
}

func TestRefusals(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.start()
	ip(t, n.NS, "link add nic1 type bridge\n")
	good := n.otherEndpoint()[0]
	attach := func(ep Endpoint) error {
		_, err := n.call(request{Op: "attach", Endpoints: []Endpoint{good, ep}})
		return err
	}
	index := strings.SplitN(run(t, n.NS, "", "ip", "-o", "link", "show", "nic1"), ":", 2)[0]
	ip(t, n.NS, "link add vmac%s type bridge\n", index)

	tests := []struct {
		name string
		ep   Endpoint
		want string
	}{
		{"no parent", Endpoint{"nic9", addr("10.6.1.1"), good.MAC}, `parent link "nic9" does not exist on this node; create it, or correct`},
		{"foreign vmac", Endpoint{"nic1", addr("10.6.1.1"), good.MAC}, `link "vmac` + index + `" exists but is not Berth's; rename or delete it`},
		{"same address", Endpoint{"nic1", good.Address, good.MAC}, `already in use on eth0`},
		{"no MAC", Endpoint{"eth0", addr("10.6.1.1"), nil}, `not an Ethernet address`},
		{"no address", Endpoint{"eth0", addr("ff02::1"), good.MAC}, `not the address of a host`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := attach(tt.ep); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
			if s := n.state(); len(s.Routes)+len(s.Neighbours) != 0 {
				t.Errorf("a failed attach left %+v", s)
			}
		})
	}
	if res, err := startAgent(t, n.NS, n.cfg).call(request{Op: "sync"}); err == nil || !strings.Contains(err.Error(), ErrNoPrefixes.Error()) {
		t.Errorf("sync without prefixes: %v %v", res, err)
	}
}
