//go:build linux

package links

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/tests/netns"
)

// hostNetwork as a person writes its spec, and it is the node's turn.
func hostNetwork(t testing.TB, name, spec string) *v1alpha1.HostNetwork {
	t.Helper()
	h := &v1alpha1.HostNetwork{}
	h.Name, h.UID, h.Generation = name, types.UID(name+"-uid"), 1
	if err := yaml.UnmarshalStrict([]byte(spec), &h.Spec); err != nil {
		t.Fatalf("%v in %s", err, spec)
	}
	return turn(h)
}

func turn(h *v1alpha1.HostNetwork) *v1alpha1.HostNetwork {
	h = h.DeepCopy()
	h.Status.Rollout = &v1alpha1.HostNetworkRollout{Generation: h.Generation, Nodes: []string{self}}
	return h
}

// queued behind other nodes.
func queued(h *v1alpha1.HostNetwork) *v1alpha1.HostNetwork {
	h = h.DeepCopy()
	h.Status.Rollout = &v1alpha1.HostNetworkRollout{Generation: h.Generation, Nodes: []string{"another"}}
	return h
}

// edited is its next generation.
func edited(t testing.TB, h *v1alpha1.HostNetwork, spec string) *v1alpha1.HostNetwork {
	t.Helper()
	next := hostNetwork(t, h.Name, spec)
	next.Generation = h.Generation + 1
	return turn(next)
}

const trunk = `{bond: {name: bond0, members: [nic1, nic2], miimon: 50, primary: nic1}, vlans: [910, 920]}`

// pod is a macvlan interface, net1, in a namespace of its own, as a pod has.
func (n *node) pod(parent, addr string) *netns.NS {
	n.t.Helper()
	ns := netns.New(n.t)
	ip(n.t, n.NS, "link add link %s name pod-net1 type macvlan mode bridge\nlink set pod-net1 netns %s name net1\n", parent, ns.Path())
	ip(n.t, ns, "link set net1 up\naddress add %s dev net1\n", addr)
	return ns
}

// sandbox has the pod's namespace where a runtime has it.
func (n *node) sandbox(name string, pod *netns.NS) {
	n.t.Helper()
	if err := os.Symlink(pod.Path(), filepath.Join(n.cfg.NetNS, name)); err != nil {
		n.t.Fatal(err)
	}
}

// TestTrunk: two nodes with a bond of two cards and two VLANs on it; pods on both; a card fails, and nothing is lost; and all goes again.
func TestTrunk(t *testing.T) {
	netns.NeedBond(t)
	netns.NeedVLAN(t)
	w := newWire(t)
	h := hostNetwork(t, "trunk", trunk)
	type pods struct{ of910, of920 *netns.NS }
	var nodes []*node
	var agents []*agent
	var on []pods
	before := ""
	for i := range 2 {
		n := w.node(i + 1)
		if i == 0 {
			before = n.picture()
		}
		a := n.start()
		a.set(h)
		nodes, agents = append(nodes, n), append(agents, a)
	}
	for i, n := range nodes {
		agents[i].await(h, v1alpha1.LinksReady, "")
		// The same addresses in both VLANs: they are networks of their own.
		p := pods{n.pod("bond0.910", fmt.Sprintf("10.6.1.%d/16", i+1)), n.pod("bond0.920", fmt.Sprintf("10.6.1.%d/16", i+1))}
		on = append(on, p)
	}
	if diff := cmp.Diff([]string{"bond0", "bond0.910", "bond0.920"}, agents[0].state("trunk").Links); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
	serve(t, on[1].of910, "10.6.1.2:910")
	serve(t, on[1].of920, "10.6.1.2:920")
	eventually(t, 10*time.Second, "VLAN 910", func() error { return reaches(on[0].of910, "10.6.1.2:910") })
	eventually(t, 10*time.Second, "VLAN 920", func() error { return reaches(on[0].of920, "10.6.1.2:920") })
	if err := reaches(on[0].of910, "10.6.1.2:920"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("from VLAN 910 into 920: %v, want the refusal of the pod with that address in 910", err)
	}
	only910 := nodes[0].pod("bond0.910", "10.6.9.9/16")
	serve(t, only910, "10.6.9.9:80")
	if err := reaches(on[1].of920, "10.6.9.9:80"); err == nil {
		t.Error("a pod of VLAN 910 is reached from 920")
	}
	eventually(t, 5*time.Second, "the same within 910", func() error { return reaches(on[1].of910, "10.6.9.9:80") })
	if err := reaches(on[0].of910, apiServer); err == nil {
		t.Error("the untagged network is reached from a VLAN")
	}

	t.Run("a card fails", func(t *testing.T) {
		lost := traffic(t, on[0].of910, "10.6.1.2:910")
		if got := nodes[0].active(); got != "nic1" {
			t.Errorf("active is %s, want the primary", got)
		}
		ip(t, w.NS, "link set %s down\n", nodes[0].port(1))
		eventually(t, 10*time.Second, "the other card", func() error {
			if got := nodes[0].active(); got != "nic2" {
				return fmt.Errorf("active is %s", got)
			}
			return nil
		})
		lost(10)
		if got := agents[0].state("trunk"); !got.Ready {
			t.Errorf("state with a card without carrier: %+v", got) // the bond is as it was asked for
		}
		ip(t, w.NS, "link set %s up\n", nodes[0].port(1))
		eventually(t, 10*time.Second, "the primary again", func() error {
			if got := nodes[0].active(); got != "nic1" {
				return fmt.Errorf("active is %s", got)
			}
			return nil
		})
		lost(10)
	})
	t.Run("mended", func(t *testing.T) {
		want := nodes[0].picture()
		for name, script := range map[string]string{
			"a member taken out": "link set nic2 nomaster\n", "a member set down": "link set nic2 down\n", "a VLAN set down": "link set bond0.920 down\n",
			"the bond set down": "link set bond0 down\n", "MTU": "link set bond0.910 mtu 1400\nlink set bond0.910 mtu 1500\n",
			"miimon": "link set bond0 type bond miimon 200\n", "the primary": "link set bond0 type bond primary nic2\n", "another's alias": "link set bond0.910 alias mine\nlink set bond0.910 alias berth:hostnetwork/other\n",
		} {
			ip(t, nodes[0].NS, "%s", script)
			nodes[0].looks(t, 30*time.Second, name, want)
		}
		eventually(t, 10*time.Second, "pods", func() error { return reaches(on[0].of910, "10.6.1.2:910") })
		ip(t, nodes[0].NS, "link del bond0.920\n") // and the pod's interface with it
		agents[0].await(h, v1alpha1.LinksReady, "")
		nodes[0].looks(t, 30*time.Second, "VLAN made anew", want)
	})
	t.Run("goes when its pods have gone", func(t *testing.T) {
		nodes[0].sandbox("pod-a", on[0].of910)
		nodes[0].sandbox("pod-b", only910)
		agents[0].set()
		eventually(t, 30*time.Second, "waits", func() error {
			s := agents[0].state("trunk")
			if s == nil || s.Reason != v1alpha1.LinksWaiting || !strings.Contains(s.Message, "link bond0.910 is to go, and is in use by net1 in pod-a, net1 in pod-b") {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		eventually(t, 10*time.Second, "the pod", func() error { return reaches(on[0].of910, "10.6.1.2:910") })
		ip(t, on[0].of910, "link del net1\n")
		ip(t, only910, "link del net1\n")
		eventually(t, 30*time.Second, "as before", func() error {
			if got := nodes[0].picture(); got != before || len(agents[0].told) > 0 {
				return fmt.Errorf("(-want +got):\n%s", cmp.Diff(before, got))
			}
			return nil
		})
	})
}

// active port of bond0.
func (n *node) active() (name string) {
	n.t.Helper()
	return strings.TrimSpace(run(n.t, n.NS, "", "sh", "-c", "ip -d -o link show bond0 | sed -n 's/.* active_slave \\([^ ]*\\).*/\\1/p'"))
}

// traffic asks and answers all the time over one connection. The result waits until so many more answers have come.
func traffic(t testing.TB, from *netns.NS, to string) (more func(answers int)) {
	t.Helper()
	var c net.Conn
	var err error
	from.Do(func() { c, err = net.DialTimeout("tcp", to, 5*time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return func(answers int) {
		t.Helper()
		b := make([]byte, 1)
		for i := range answers {
			if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte{byte(i)}); err != nil {
				t.Fatalf("the connection broke: %v", err)
			}
			if _, err := c.Read(b); err != nil || b[0] != byte(i) {
				t.Fatalf("the connection broke: %v", err)
			}
		}
	}
}

const moving = `{bond: {name: bond0, members: [nic1, nic0], primary: nic0}, vlans: [910], moveAddresses: true}`

// TestMoveAddresses: the node's own addresses and routes go to the bond, the API server is reached all along, and they come back.
func TestMoveAddresses(t *testing.T) {
	netns.NeedBond(t)
	netns.NeedVLAN(t)
	w := newWire(t)
	n := w.node(1)
	before := n.picture()
	more := traffic(t, n.NS, apiServer)
	h := hostNetwork(t, "uplink", moving)
	a := n.start()
	a.set(h)
	a.await(h, v1alpha1.LinksReady, "")
	more(10) // the same connection
	var onNIC, onBond []string
	for line := range strings.Lines(run(t, n.NS, "", "sh", "-c", "ip -o address show; ip route show table all; ip -6 route show table all")) {
		if strings.Contains(line, "nic0") && !strings.Contains(line, "fe80::") && !strings.Contains(line, "multicast") && !strings.Contains(line, "ff00::/8") {
			onNIC = append(onNIC, line)
		}
		if strings.Contains(line, "bond0 ") {
			onBond = append(onBond, strings.Join(strings.Fields(line), " "))
		}
	}
	if onNIC != nil {
		t.Errorf("left on the member: %q", onNIC)
	}
	all := strings.Join(onBond, "\n")
	for _, want := range []string{"inet 10.9.0.11/24", "inet6 2001:db8:9::11/64", "default via 10.9.0.254 dev bond0", "10.50.0.0/16 via 10.9.0.253 dev bond0 metric 77",
		"default via 2001:db8:9::ffff dev bond0", "10.60.0.0/16 dev bond0 table 100 proto 44"} {
		if !strings.Contains(all, want) {
			t.Errorf("not on the bond: %s\n%s", want, all)
		}
	}
	if err := reaches(n.NS, "[2001:db8:9::1]:6443"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("by IPv6: %v, want a refusal of the host there", err)
	}

	t.Run("its card fails", func(t *testing.T) {
		ip(t, w.NS, "link set %s down\n", n.port(0))
		more(10)
		ip(t, w.NS, "link set %s up\n", n.port(0))
		more(10)
	})
	t.Run("mode", func(t *testing.T) {
		h = edited(t, h, strings.Replace(moving, "primary: nic0", "mode: balance-xor", 1))
		a.set(h)
		a.await(h, v1alpha1.LinksReady, "")
		if err := reaches(n.NS, apiServer); err != nil {
			t.Error(err)
		}
		if got := run(t, n.NS, "", "ip", "-d", "link", "show", "bond0"); !strings.Contains(got, "balance-xor") {
			t.Error(got)
		}
		if got := run(t, n.NS, "", "ip", "route", "show", "default"); !strings.Contains(got, "dev bond0") {
			t.Errorf("default route: %s", got)
		}
	})
	t.Run("and back", func(t *testing.T) {
		a.set()
		n.looks(t, 60*time.Second, "as before", before)
		if err := reaches(n.NS, apiServer); err != nil {
			t.Error(err)
		}
	})
}

// TestForeign: links of others are as they were, whatever is asked for.
func TestForeign(t *testing.T) {
	netns.NeedBond(t)
	netns.NeedVLAN(t)
	w := newWire(t)
	n := w.node(1)
	ip(t, n.NS, "link add bond0 type bond mode active-backup\nlink add link nic0 name nic0.910 type vlan id 910\nlink add link nic0 name storage type vlan id 920\n"+
		"link add br1 type bridge\nlink set nic1 master br1\n")
	before := n.picture()
	a := n.start()
	for name, tc := range map[string]struct{ spec, says string }{
		"bond":      {`{bond: {name: bond0, members: [nic1, nic2]}}`, "link bond0 (bond) is there, and not made by Berth"},
		"bridge":    {`{bond: {name: bond1, members: [nic1, nic2]}}`, "member nic1 is a port of br1 (bridge) already"},
		"vlan":      {`{parent: nic0, vlans: [910]}`, "link nic0.910 (vlan) is there, and not made by Berth"},
		"vlan-name": {`{parent: nic0, vlans: [920]}`, "VLAN 920 of nic0 is there already, as storage"},
		"in-use":    {`{bond: {name: bond1, members: [nic0, nic2]}, moveAddresses: true}`, "member nic0 is in use by nic0.910 (vlan), storage (vlan)"},
		"missing":   {`{bond: {name: bond1, members: [nic2, nic7]}}`, "member nic7 of bond bond1 is not on this node"},
		"parent":    {`{parent: nic9, vlans: [910]}`, "parent nic9 is not on this node"},
	} {
		h := hostNetwork(t, name, tc.spec)
		a.set(h)
		a.await(h, v1alpha1.LinksRefused, tc.says)
	}
	n.looks(t, 10*time.Second, "as before", before)
}

// TestKernelWithout: where the kernel has no bonds, or no VLANs, it is said which module is missing.
func TestKernelWithout(t *testing.T) {
	ns := netns.New(t)
	var k *kernel
	ns.Do(func() {
		ip(t, ns, "link add nic0 type veth peer name peer0\nlink set nic0 up\n")
		var err error
		if k, err = openKernel(t.TempDir()); err != nil {
			t.Fatal(err)
		}
	})
	defer k.close()
	for o, says := range map[op]string{
		{Verb: createBond, Link: "bond0", Bond: BondState{Mode: "active-backup", Miimon: 100}}: "the kernel has no bonds: load its module bonding",
		{Verb: createVLAN, Link: "nic0.910", To: "nic0", VLAN: 910}:                            "the kernel has no VLANs: load its module 8021q",
	} {
		ns.Do(func() {
			if err := k.do(o, snapshot{}); err != nil && !strings.Contains(err.Error(), says) {
				t.Errorf("%v, want %s", err, says)
			}
		})
	}
}

// TestUsers: pods' interfaces on a link are found in their namespaces, and those on another are not.
func TestUsers(t *testing.T) {
	w := newWire(t)
	n := w.node(1)
	n.sandbox("pod-a", n.pod("nic1", "10.6.0.1/24"))
	n.sandbox("pod-b", n.pod("nic2", "10.6.0.1/24"))
	n.sandbox("pod-c", netns.New(t))
	if err := os.WriteFile(filepath.Join(n.cfg.NetNS, "stale"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.Do(func() {
		k, err := openKernel(n.cfg.NetNS)
		if err != nil {
			t.Fatal(err)
		}
		defer k.close()
		l, err := k.LinkByName("nic1")
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.users(l.Attrs().Index)
		if diff := cmp.Diff([]string{"net1 in pod-a"}, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}

// TestProbe: a change that may have cut the node off must be followed by a stretch without failure.
func TestProbe(t *testing.T) {
	for name, tc := range map[string]struct {
		answers string // one a look, the last for ever
		felt    bool
		want    bool
	}{
		"at once":              {"+", true, true},
		"after a while":        {"---+", true, true},
		"never":                {"-", true, false},
		"only now and then":    {"+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-", true, false},
		"not felt":             {"+-", false, true},
		"not felt, and better": {"-+-", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			i := 0
			l := New(Config{Patience: 400 * time.Millisecond, Steady: 40 * time.Millisecond, Reach: func(context.Context) error {
				c := tc.answers[min(i, len(tc.answers)-1)]
				i++
				if c == '-' {
					return fmt.Errorf("not reached")
				}
				return nil
			}}, nil, slog.New(slog.DiscardHandler))
			if err := l.probe(t.Context(), tc.felt); (err == nil) != tc.want {
				t.Errorf("after %d looks: %v", i, err)
			}
		})
	}
}

func TestRecord(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dir", "links.json")
	r, err := readRecord(file)
	if err != nil {
		t.Fatal(err)
	}
	r.Change = &change{Owner: "a", Spec: "u/1", Ops: []string{"set up eth0"}, Before: snapshot{New: []string{"bond0"}, Links: []saved{{
		Link: made()["eth1"], AddressMessages: [][]byte{{1, 2}}}}}}
	r.Failed["b"], r.Proven["c"] = failure{"u/2", "no"}, "u/3"
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	again, err := readRecord(file)
	if diff := cmp.Diff(r, again, cmp.Comparer(func(a, b Address) bool { return a == b })); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	r.Boot = "another"
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	again, err = readRecord(file)
	if err != nil || again.Change != nil || again.Failed["a"].Spec != "u/1" || again.Failed["b"].Message != "no" || len(again.Proven) != 0 {
		t.Errorf("after a restart of the node: %+v, %v", again, err)
	}
	if err := os.WriteFile(file, []byte(`{"Boot`), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err = readRecord(file); err == nil || again.Failed == nil {
		t.Errorf("torn: %+v, %v", again, err)
	}
	if _, err := readRecord(file); err != nil {
		t.Errorf("after that: %v", err)
	}
}
