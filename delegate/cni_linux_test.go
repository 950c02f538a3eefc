package delegate_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/tests/netns"
)

// The tests here run the real main plugins, which call berth, which calls a fake agent: what comes out in the pod is what
// the agent may count on.

// pluginModule pins the reference plugins, for the lab of tests/cluster.
const pluginModule = "../tests/cluster/components/plugins"

// node is a network namespace with a parent link, "parent0", and libcni working in it.
type node struct {
	*netns.NS
	cni *libcni.CNIConfig
}

func newNode(t *testing.T, plugins ...string) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if testing.Short() {
		t.Skip("builds the reference plugins")
	}
	dir := filepath.Dir(buildBerth(t))
	for _, p := range plugins {
		build(t, pluginModule, "github.com/containernetworking/plugins/plugins/main/"+p)
	}
	n := &node{netns.New(t), libcni.NewCNIConfigWithCacheDir([]string{dir}, t.TempDir(), nil)}
	n.Do(func() {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "parent0"}, PeerName: "wire0"}
		if err := netlink.LinkAdd(veth); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"parent0", "wire0"} {
			if err := netlink.LinkSetUp(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
				t.Fatal(err)
			}
		}
	})
	return n
}

func runtimeConf(pod *netns.NS) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: "c1", NetNS: pod.Path(), IfName: "eth0", Args: [][2]string{
		{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", "web-0"}, {"K8S_POD_UID", "u1"},
	}}
}

func confList(t *testing.T, format string, args ...any) *libcni.NetworkConfigList {
	t.Helper()
	list, err := libcni.NetworkConfFromBytes(fmt.Appendf(nil, format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// routes of the namespace's main tables, but those that the kernel makes for multicast and for link-local addresses.
func routes(t *testing.T, pod *netns.NS) []string {
	t.Helper()
	var out []string
	pod.Do(func() {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			list, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE) //nolint:forbidigo // nobody else changes this namespace
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range list {
				if r.Dst.IP.IsLinkLocalUnicast() && r.Dst.IP.To4() == nil && r.Gw == nil && r.Protocol == unix.RTPROT_KERNEL {
					continue
				}
				s := r.Dst.String()
				if r.Gw != nil {
					s += " via " + r.Gw.String()
				}
				if r.Scope != 0 {
					s += " scope " + r.Scope.String()
				}
				out = append(out, s)
			}
		}
	})
	sort.Strings(out)
	return out
}

// TestRoutes says which results the main plugins turn into which routes. The agent composes its results by it.
func TestRoutes(t *testing.T) {
	node := newNode(t, "macvlan")
	const v4, v4gw = `{"address":"10.6.1.7/16"}`, `{"address":"10.6.1.7/16","gateway":"10.6.0.1"}`
	const v6, v6gw = `{"address":"fd00:6::7/64"}`, `{"address":"fd00:6::7/64","gateway":"fd00:6::1"}`
	tests := []struct {
		name, ips, routes string
		want              []string
		wantErr, checkErr string
	}{{
		name: "gateway in ips makes no route",
		ips:  v4gw,
		want: []string{"10.6.0.0/16 scope link"},
	}, {
		name:   "next hop outside of the subnet, gateway in ips, gw 0.0.0.0",
		ips:    v4gw,
		routes: `{"dst":"169.254.1.1/32","gw":"0.0.0.0","scope":253},{"dst":"10.96.0.0/16","gw":"169.254.1.1"},{"dst":"0.0.0.0/0","gw":"10.6.0.1"}`,
		want:   []string{"0.0.0.0/0 via 10.6.0.1", "10.6.0.0/16 scope link", "10.96.0.0/16 via 169.254.1.1", "169.254.1.1/32 scope link"},
		// The plugins look for a route that has the gateway 0.0.0.0, while the kernel's has none.
		checkErr: "not found in routing table",
	}, {
		name:   "next hop outside of the subnet, no gateway in ips, no gw",
		ips:    v4,
		routes: `{"dst":"169.254.1.1/32","scope":253},{"dst":"10.96.0.0/16","gw":"169.254.1.1"},{"dst":"0.0.0.0/0","gw":"10.6.0.1"}`,
		want:   []string{"0.0.0.0/0 via 10.6.0.1", "10.6.0.0/16 scope link", "10.96.0.0/16 via 169.254.1.1", "169.254.1.1/32 scope link"},
	}, {
		name:    "next hop outside of the subnet, gateway in ips, no gw",
		ips:     v4gw,
		routes:  `{"dst":"169.254.1.1/32","scope":253}`,
		wantErr: "network is unreachable",
	}, {
		name:    "next hop outside of the subnet, without scope",
		ips:     v4,
		routes:  `{"dst":"10.96.0.0/16","gw":"169.254.1.1"}`,
		wantErr: "unreachable",
	}, {
		name:   "IPv6 link-local next hop, gateway in ips",
		ips:    v6gw,
		routes: `{"dst":"fd00:96::/108","gw":"fe80::1"},{"dst":"::/0","gw":"fd00:6::1"}`,
		want:   []string{"::/0 via fd00:6::1", "fd00:6::/64", "fd00:96::/108 via fe80::1"},
	}, {
		name:   "IPv6 link-local next hop, no gateway in ips",
		ips:    v6,
		routes: `{"dst":"fd00:96::/108","gw":"fe80::1"},{"dst":"::/0","gw":"fd00:6::1"}`,
		want:   []string{"::/0 via fd00:6::1", "fd00:6::/64", "fd00:96::/108 via fe80::1"},
	}, {
		name: "both families",
		ips:  v4 + "," + v6,
		routes: `{"dst":"169.254.1.1/32","scope":253},{"dst":"10.96.0.0/16","gw":"169.254.1.1"},` +
			`{"dst":"fd00:96::/108","gw":"fe80::1"},{"dst":"0.0.0.0/0","gw":"10.6.0.1"},{"dst":"::/0","gw":"fd00:6::1"}`,
		want: []string{"0.0.0.0/0 via 10.6.0.1", "10.6.0.0/16 scope link", "10.96.0.0/16 via 169.254.1.1", "169.254.1.1/32 scope link",
			"::/0 via fd00:6::1", "fd00:6::/64", "fd00:96::/108 via fe80::1"},
	}}
	for _, test := range tests {
		for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
			t.Run(test.name+"/"+version, func(t *testing.T) {
				agent := newAgent(t, func(string, delegate.Request) (int, string) {
					return 200, fmt.Sprintf(`{"cniVersion":"1.1.0","ips":[%s],"routes":[%s]}`, test.ips, test.routes)
				})
				pod := netns.New(t)
				list := confList(t, `{"cniVersion":%q,"name":"vlan910","plugins":[{"type":"macvlan","master":"parent0","mode":"bridge",
					"ipam":{"type":"berth","socket":%q}}]}`, version, agent.socket)
				node.Do(func() {
					start := time.Now()
					_, err := node.cni.AddNetworkList(t.Context(), list, runtimeConf(pod))
					t.Logf("ADD took %v", time.Since(start).Round(time.Millisecond))
					if test.wantErr != "" {
						if err == nil || !strings.Contains(err.Error(), test.wantErr) {
							t.Errorf("ADD: %v, want %q", err, test.wantErr)
						}
						return
					}
					if err != nil {
						t.Fatalf("ADD: %v", err)
					}
					if diff := cmp.Diff(test.want, routes(t, pod)); diff != "" {
						t.Errorf("routes (-want +got):\n%s", diff)
					}
					if version == "0.3.1" { // has no CHECK
						return
					}
					err = node.cni.CheckNetworkList(t.Context(), list, runtimeConf(pod))
					if test.checkErr == "" && err != nil || test.checkErr != "" && (err == nil || !strings.Contains(err.Error(), test.checkErr)) {
						t.Errorf("CHECK: %v, want %q", err, test.checkErr)
					}
				})
			})
		}
	}
}

// TestOtherMainPlugins: bridge and ptp call IPAM as macvlan does. ptp needs a gateway for each address.
func TestOtherMainPlugins(t *testing.T) {
	node := newNode(t, "bridge", "ptp")
	tests := []struct {
		name, plugin, ips, routes string
		want                      []string
		wantErr                   string
	}{{
		name:   "bridge",
		plugin: `"type":"bridge","bridge":"br0","isGateway":true`,
		ips:    `{"address":"10.7.0.5/24","gateway":"10.7.0.1"}`,
		routes: `{"dst":"0.0.0.0/0","gw":"10.7.0.1"}`,
		want:   []string{"0.0.0.0/0 via 10.7.0.1", "10.7.0.0/24 scope link"},
	}, {
		name:   "bridge without gateway",
		plugin: `"type":"bridge","bridge":"br1"`,
		ips:    `{"address":"10.8.0.5/24"}`,
		want:   []string{"10.8.0.0/24 scope link"},
	}, {
		name:   "ptp",
		plugin: `"type":"ptp"`,
		ips:    `{"address":"10.9.0.5/24","gateway":"10.9.0.1"}`,
		routes: `{"dst":"0.0.0.0/0"}`,
		want:   []string{"0.0.0.0/0 via 10.9.0.1", "10.9.0.0/24 via 10.9.0.1", "10.9.0.1/32 scope link"},
	}, {
		name:    "ptp without gateway",
		plugin:  `"type":"ptp"`,
		ips:     `{"address":"10.10.0.5/24"}`,
		wantErr: "failed to add IP addr",
	}}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			agent := newAgent(t, func(path string, _ delegate.Request) (int, string) {
				if path != delegate.PathAdd {
					return 200, "{}"
				}
				return 200, fmt.Sprintf(`{"cniVersion":"1.1.0","ips":[%s],"routes":[%s]}`, test.ips, test.routes)
			})
			pod := netns.New(t)
			list := confList(t, `{"cniVersion":"1.0.0","name":"net","plugins":[{%s,"ipam":{"type":"berth","socket":%q}}]}`,
				test.plugin, agent.socket)
			node.Do(func() {
				_, err := node.cni.AddNetworkList(t.Context(), list, runtimeConf(pod))
				if test.wantErr != "" {
					if err == nil || !strings.Contains(err.Error(), test.wantErr) {
						t.Errorf("ADD: %v, want %q", err, test.wantErr)
					}
					return
				}
				if err != nil {
					t.Fatalf("ADD: %v", err)
				}
				if diff := cmp.Diff(test.want, routes(t, pod)); diff != "" {
					t.Errorf("routes (-want +got):\n%s", diff)
				}
				if err := node.cni.CheckNetworkList(t.Context(), list, runtimeConf(pod)); err != nil {
					t.Errorf("CHECK: %v", err)
				}
				if err := node.cni.DelNetworkList(t.Context(), list, runtimeConf(pod)); err != nil {
					t.Errorf("DEL: %v", err)
				}
			})
			if test.wantErr == "" {
				if diff := cmp.Diff([]string{delegate.PathAdd, delegate.PathCheck, delegate.PathDel}, agent.paths()); diff != "" {
					t.Errorf("requests (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestMacvlan takes one pod through its life.
func TestMacvlan(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			node := newNode(t, "macvlan")
			var away atomic.Bool // the agent
			agent := newAgent(t, func(path string, _ delegate.Request) (int, string) {
				switch {
				case away.Load():
					return 503, `{"code":11,"msg":"the agent is starting"}`
				case path == delegate.PathAdd:
					return 200, `{"cniVersion":"1.1.0","ips":[{"address":"10.6.1.7/16"},{"address":"fd00:6::7/64"}]}`
				}
				return 200, "{}"
			})
			pod := netns.New(t)
			list := confList(t, `{"cniVersion":%q,"name":"vlan910","plugins":[{"type":"macvlan","master":"parent0","mode":"bridge",
				"capabilities":{"ips":true},"ipam":{"type":"berth","socket":%q,"ippools":"zone-a"}}]}`, version, agent.socket)
			rt := runtimeConf(pod)
			rt.CapabilityArgs = map[string]any{"ips": []string{"10.6.1.7/16"}}
			node.Do(func() {
				r, err := node.cni.AddNetworkList(t.Context(), list, rt)
				if err != nil {
					t.Fatalf("ADD: %v", err)
				}
				if r.Version() != version {
					t.Errorf("result has version %s", r.Version())
				}
				result, err := types100.NewResultFromResult(r)
				if err != nil {
					t.Fatal(err)
				}
				req := agent.last(t)
				if len(result.Interfaces) != 1 || req.MAC != result.Interfaces[0].Mac || req.MAC == "" {
					t.Errorf("request has MAC %q, result %v", req.MAC, result.Interfaces)
				}
				if req.ContainerID != "c1" || req.IfName != "eth0" || req.NetNS != pod.Path() {
					t.Errorf("request of another sandbox: %+v", req)
				}
				args, err := delegate.ParseArgs(req.Args)
				if want := (delegate.Args{Namespace: "shop", Pod: "web-0", UID: "u1"}); err != nil || !cmp.Equal(want, args) {
					t.Errorf("arguments %+v, %v", args, err)
				}
				config, err := delegate.ParseConfig(req.Config)
				if err != nil || config.Parent != "parent0" || len(config.IPs) != 1 || config.IPAM.Pools[0] != "zone-a" {
					t.Errorf("configuration %+v, %v", config, err)
				}
				if version != "0.3.1" {
					if err := node.cni.CheckNetworkList(t.Context(), list, rt); err != nil {
						t.Errorf("CHECK: %v", err)
					}
					config, err := delegate.ParseConfig(agent.last(t).Config)
					if err != nil || config.PrevResult == nil || len(config.PrevResult.IPs) != 2 {
						t.Errorf("CHECK has configuration %+v, %v", config, err)
					}
				}
				if version == "1.1.0" {
					if err := node.cni.GetStatusNetworkList(t.Context(), list); err != nil {
						t.Errorf("STATUS: %v", err)
					}
					if got := agent.last(t).path; got != delegate.PathStatus {
						t.Errorf("STATUS asked for %s", got)
					}
				}

				away.Store(true)
				if err := node.cni.DelNetworkList(t.Context(), list, rt); err == nil || !strings.Contains(err.Error(), "starting") {
					t.Errorf("DEL with the agent away: %v", err)
				}
				away.Store(false)
				for range 2 { // the second finds neither link nor cache
					if err := node.cni.DelNetworkList(t.Context(), list, rt); err != nil {
						t.Errorf("DEL: %v", err)
					}
				}
			})
			pod.Do(func() {
				if links, err := net.Interfaces(); err != nil || len(links) != 1 {
					t.Errorf("links after DEL: %v, %v", links, err)
				}
			})
		})
	}
}
