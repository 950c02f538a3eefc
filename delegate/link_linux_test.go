package delegate_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/tests/netns"
)

// TestMAC: the address of the link is read in the pod's namespace, where there is one.
func TestMAC(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	agent := newAgent(t, func(string, delegate.Request) (int, string) { return 200, addResult })
	pod := netns.New(t)
	const mac = "02:00:00:00:00:07"
	pod.Do(func() {
		hw, err := net.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "net1", HardwareAddr: hw}, PeerName: "peer"}); err != nil {
			t.Fatal(err)
		}
	})
	for _, test := range []struct{ netns, ifName, want string }{
		{pod.Path(), "net1", mac},
		{pod.Path(), "net2", ""},
		{pod.Path(), "lo", ""},
		{"/dev/null", "net1", ""},
		{"/no/such/netns", "net1", ""},
	} {
		_, cniErr := exe(t, buildBerth(t), "ADD", config("1.0.0", agent.socket), "CNI_NETNS="+test.netns, "CNI_IFNAME="+test.ifName)
		if cniErr != nil {
			t.Errorf("%s in %s: %v", test.ifName, test.netns, cniErr)
		} else if got := agent.last(t).MAC; got != test.want {
			t.Errorf("%s in %s: %q, want %q", test.ifName, test.netns, got, test.want)
		}
	}
}

// isUp says whether a link of the namespace is up.
func isUp(t *testing.T, ns *netns.NS, name string) (up bool) {
	t.Helper()
	ns.Do(func() {
		link, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		up = link.Flags&net.FlagUp != 0
	})
	return up
}

// TestDelDown: a DEL that no agent answers takes the pod's link down, and says no less for it.
func TestDelDown(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	away := filepath.Join(t.TempDir(), "absent.sock")
	answering := newAgent(t, func(string, delegate.Request) (int, string) { return 200, "{}" }).socket
	starting := newAgent(t, func(string, delegate.Request) (int, string) { return 503, `{"code":11,"msg":"the agent is starting"}` }).socket
	pod := netns.New(t)
	for _, test := range []struct {
		name, socket, command, netns, ifName string
		code                                 uint
		up                                   bool
	}{
		{"away", away, "DEL", pod.Path(), "net1", 11, false},
		{"dies over it", newHangUp(t), "DEL", pod.Path(), "net1", 11, false},
		{"answers", answering, "DEL", pod.Path(), "net1", 0, true},
		{"answers with an error", starting, "DEL", pod.Path(), "net1", 11, true},
		{"away from a CHECK", away, "CHECK", pod.Path(), "net1", 11, true},
		{"another link", away, "DEL", pod.Path(), "net2", 11, true},
		{"no link", away, "DEL", pod.Path(), "net7", 11, true},
		{"no namespace", away, "DEL", "/no/such/netns", "net1", 11, true},
		{"namespace of a file", away, "DEL", "/dev/null", "net1", 11, true},
		{"no namespace given", away, "DEL", "", "net1", 11, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod.Do(func() { newPair(t, "net1", "net2") })
			_, cniErr := exe(t, buildBerth(t), test.command, config("1.0.0", test.socket), "CNI_NETNS="+test.netns, "CNI_IFNAME="+test.ifName)
			if code := codeOf(cniErr); code != test.code {
				t.Errorf("%v, want code %d", cniErr, test.code)
			}
			if up := isUp(t, pod, "net1"); up != test.up {
				t.Errorf("net1 is up: %t, want %t", up, test.up)
			}
			pod.Do(func() { // its pair goes with it
				if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "net1"}}); err != nil {
					t.Error(err)
				}
			})
		})
	}
	t.Run("the node's own namespace", func(t *testing.T) {
		node := netns.New(t)
		node.Do(func() {
			newPair(t, "net1", "net2")
			_, cniErr := exe(t, buildBerth(t), "DEL", config("1.0.0", away), "CNI_NETNS="+node.Path(), "CNI_IFNAME=net1")
			if codeOf(cniErr) != 11 {
				t.Errorf("%v, want code 11", cniErr)
			}
		})
		if !isUp(t, node, "net1") {
			t.Error("the node's link is down")
		}
	})
}

// newPair makes a veth pair and sets it up.
func newPair(t *testing.T, a, b string) {
	t.Helper()
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a}, PeerName: b}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{a, b} {
		if err := netlink.LinkSetUp(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
}

func codeOf(err *types.Error) uint {
	if err == nil {
		return 0
	}
	return err.Code
}

// TestMacvlanDown: the macvlan plugin leaves the link where IPAM fails; it is down until the agent is back, and then gone.
func TestMacvlanDown(t *testing.T) {
	node := newNode(t, "macvlan")
	agent := newAgent(t, func(path string, _ delegate.Request) (int, string) {
		if path == delegate.PathAdd {
			return 200, `{"cniVersion":"1.1.0","ips":[{"address":"10.6.1.7/16"}]}`
		}
		return 200, "{}"
	})
	pod := netns.New(t)
	const conf = `{"cniVersion":"1.0.0","name":"vlan910","plugins":[{"type":"macvlan","master":"parent0","mode":"bridge",
		"ipam":{"type":"berth","socket":%q}}]}`
	there, away := confList(t, conf, agent.socket), confList(t, conf, filepath.Join(t.TempDir(), "absent.sock"))
	node.Do(func() {
		if _, err := node.cni.AddNetworkList(t.Context(), there, runtimeConf(pod)); err != nil {
			t.Fatalf("ADD: %v", err)
		}
		if !isUp(t, pod, "eth0") {
			t.Error("the link is down after ADD")
		}
		if err := node.cni.DelNetworkList(t.Context(), away, runtimeConf(pod)); err == nil || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("DEL without agent: %v", err)
		}
		if isUp(t, pod, "eth0") {
			t.Error("the link is up after a DEL without agent")
		}
		if err := node.cni.DelNetworkList(t.Context(), there, runtimeConf(pod)); err != nil {
			t.Errorf("DEL: %v", err)
		}
	})
	pod.Do(func() {
		if links, err := net.Interfaces(); err != nil || len(links) != 1 {
			t.Errorf("links after DEL: %v, %v", links, err)
		}
	})
}
