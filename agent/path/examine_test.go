//go:build linux

package path

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/tests/netns"
)

// examine says what is not well: "fail check: what".
func (n *node) examine(op string) (wrong []string, checks []string) {
	n.t.Helper()
	for _, f := range n.must(op).Found {
		checks = append(checks, f.Check)
		if f.Severity != report.OK {
			wrong = append(wrong, fmt.Sprintf("%s %s: %s", f.Severity, f.Check, f.What))
			if f.Remedy == "" {
				n.t.Errorf("no remedy for %q", f.What)
			}
		}
	}
	slices.Sort(checks)
	return wrong, slices.Compact(checks)
}

// TestExamine breaks the path in each way that is looked for. The agent's Run, which would mend it, does not run.
func TestExamine(t *testing.T) {
	n := newCluster(t, 1).nodes[0]
	n.start()
	n.must("sync")
	if wrong, _ := n.examine("examine"); wrong != nil {
		t.Errorf("a node without pods: %q", wrong)
	}
	p := n.attached(1)
	n.attached(2)
	v := n.vmac().Name
	wrong, checks := n.examine("examine")
	if wrong != nil {
		t.Fatalf("a healthy path: %q", wrong)
	}
	all := []string{checkEndpoints, checkForward, checkGroups, checkLink, checkNeighbours, checkPrefixes, checkProgram, checkRoutes, checkSysctls, checkTable}
	if diff := cmp.Diff(all, checks); diff != "" {
		t.Errorf("checks of a healthy path (-want +got):\n%s", diff)
	}
	if wrong, _ := n.examine("examine alone"); wrong != nil {
		t.Errorf("a healthy path, and an agent that does not answer: %q", wrong)
	}

	const a4, a6 = "10.6.1.1", "2001:db8:6:0:1::1"
	for _, tt := range []struct {
		name, script, undo string
		want               []string // parts of findings, in order
		alone              []string // the same without the agent's word; nil: as want
	}{
		{"vmac down", "ip link set V down", "ip link set V up", []string{
			"fail link: V is down",
			// The kernel drops what a link that is down has.
			"fail neighbours: V: the permanent neighbour 10.6.1.1 is missing", "fail neighbours: V: the permanent neighbour 10.6.1.2 is missing",
			"fail neighbours: V: the permanent neighbour 2001:db8:6:0:1::1 is missing", "fail neighbours: V: the permanent neighbour 2001:db8:6:0:1::2 is missing",
			"fail routes: V: the route to 10.6.1.1/32 is missing", "fail routes: V: the route to 10.6.1.2/32 is missing",
			"fail routes: V: the route to 2001:db8:6:0:1::1/128 is missing", "fail routes: V: the route to 2001:db8:6:0:1::2/128 is missing"}, nil},
		{"parent down", "sysctl -qw net.ipv6.conf.eth0.keep_addr_on_down=1; ip link set eth0 down", "ip link set eth0 up", []string{
			"fail link: parent link eth0 is down"}, nil},
		{"alias", "ip link set V alias mine", "ip link set V alias berth", []string{"fail link: V exists, is a macvlan with alias \"mine\" and not Berth's",
			"fail table: table inet berth: it is there, and no vmac is"}, []string{}},
		{"MTU", "ip link set V mtu 1400", "", []string{"fail link: V has MTU 1400, its parent eth0 has 1500"}, nil},
		{"MAC", "ip link set V address 02:00:00:00:00:77", "ip link set V address M", []string{"fail link: V has MAC 02:00:00:00:00:77, and",
			"fail neighbours: ", "fail neighbours: ", "fail neighbours: ", "fail neighbours: "}, nil},
		{"address", "ip address add 10.88.0.1/24 dev V", "", []string{"fail link: V has an address, 10.88.0.1/24"}, nil},
		{"program detached", detachSteer, "", []string{"fail program: program steer of V: not attached"}, nil},
		{"guard not pinned", unpinGuard, "", []string{"fail program: program guard of V: not attached"}, nil},
		{"no pins", "rm -r PIN/V", "", []string{"fail program: V: nothing is pinned"}, nil},
		{"route missing", "ip route del " + a4, "", []string{"fail routes: V: the route to 10.6.1.1/32 is missing"}, nil},
		{"route by another source", "ip route replace " + a4 + " dev V proto 98 scope link src 192.168.99.1", "", []string{
			"fail routes: V: the route to 10.6.1.1/32 has source 192.168.99.1, not source 10.6.0.11"}, nil},
		{"route of nobody", "ip route add 10.6.1.99 dev V proto 98 scope link", "", []string{"fail routes: V: the route to 10.6.1.99/32 is there, and nobody"}, []string{}},
		{"neighbour of another MAC", "ip neigh replace " + a6 + " lladdr 02:00:00:00:00:09 nud permanent dev V", "", []string{
			"fail neighbours: V: the permanent neighbour " + a6 + " has 02:00:00:00:00:09, not "}, nil},
		{"neighbour missing", "ip neigh del " + a4 + " dev V", "", []string{"fail neighbours: V: the permanent neighbour 10.6.1.1 is missing"}, nil},
		{"sysctl", "sysctl -qw net.ipv4.conf.V.arp_ignore=0", "", []string{"fail sysctls: net.ipv4.conf.V.arp_ignore is 0, not 1"}, nil},
		{"forwarding", "sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1", []string{
			"fail sysctls: net.ipv4.conf.V.forwarding is 0, not 1", "fail sysctls: net.ipv4.ip_forward is 0, not 1"}, nil},
		{"redirects", "sysctl -qw net.ipv4.conf.all.send_redirects=1", "", []string{"fail sysctls: net.ipv4.conf.all.send_redirects is 1, not 0"}, nil},
		{"limit", "sysctl -qw net.ipv6.icmp.ratelimit=100", "", []string{"fail sysctls: net.ipv6.icmp.ratelimit is 100, not 0"}, nil},
		{"group", "ip maddr del 33:33:ff:00:00:01 dev V", "", []string{"fail groups: V: the multicast group 33:33:ff:00:00:01 is missing"}, []string{}},
		{"table deleted", "nft delete table inet berth", "", []string{"fail table: table inet berth: it does not exist"}, []string{}},
		{"table flushed", "nft flush table inet berth", "", []string{"fail table: table inet berth: chain postrouting has 0 rules"}, []string{}},
		{"set emptied", "nft flush set inet berth vmacs", "", []string{"fail table: table inet berth: set vmacs has [], not [\"V\"]"}, []string{}},
		{"firewall", "nft add table ip fw; nft add chain ip fw forward '{ type filter hook forward priority 0; policy drop; }'", "nft delete table ip fw", []string{
			"warn forward: a firewall drops what it forwards unless a rule accepts it: chain fw/forward"}, nil},
		{"map entry missing", deleteEntry, "", []string{"fail endpoints: V: the map entry of 10.6.1.1 is missing"}, []string{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.t = t
			m := vmacMAC(n.cfg.NodeName, "eth0")
			expand := strings.NewReplacer("V", v, "PIN", n.cfg.PinDir, "M", m.String()).Replace
			n.breakIt(v, p, expand(tt.script))
			wrong, _ := n.examine("examine")
			compareParts(t, "with the agent's word", tt.want, wrong, v)
			alone := tt.alone
			if alone == nil {
				alone = tt.want
			}
			got, _ := n.examine("examine alone")
			compareParts(t, "without", alone, got, v)
			if tt.undo != "" {
				run(t, n.NS, expand(tt.undo), "sh", "-e")
			}
			n.must("mend")
			n.must("mend") // with the last address of a link, the kernel takes its routes
			if wrong, _ := n.examine("examine"); wrong != nil {
				t.Fatalf("mended: %q", wrong)
			}
		})
	}
	n.t = t
}

// What no command of the shell does.
const (
	detachSteer = "detach the program steer"
	unpinGuard  = "remove the pin of the program guard"
	deleteEntry = "delete the map entry of a pod's first address"
)

func (n *node) breakIt(vmac string, p *pod, how string) {
	n.t.Helper()
	dir := filepath.Join(n.cfg.PinDir, vmac)
	switch how {
	case detachSteer:
		n.takeOff("steer")
	case unpinGuard:
		netns.NeedTCX(n.t)
		if err := os.Remove(filepath.Join(dir, "guard")); err != nil {
			n.t.Fatal(err)
		}
	case deleteEntry:
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, "endpoints"), nil)
		if err != nil {
			n.t.Fatal(err)
		}
		defer m.Close()
		if err := m.Delete(p.addrs[0].As16()); err != nil {
			n.t.Fatal(err)
		}
	default:
		run(n.t, n.NS, how, "sh", "-e")
	}
}

func compareParts(t *testing.T, what string, want, got []string, v string) {
	t.Helper()
	same := len(want) == len(got)
	for i := range min(len(want), len(got)) {
		same = same && strings.HasPrefix(got[i], strings.ReplaceAll(want[i], "V", v))
	}
	if !same {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}
