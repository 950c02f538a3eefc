//go:build apiserver

package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/tests/netns"
	"github.com/berthdev/berth/tests/plugins"
)

// The tests here are the CNI specification's (1.1.0, section 2, "CHECK", "STATUS" and "GC"), on a pod's life by libcni and by cnitool:
// they run the real main plugins, which run the real plugin berth, which asks an agent on a real API server.

// mainPlugins whose IPAM plugin is berth: the members of each one's configuration.
var mainPlugins = map[string]string{
	"macvlan": `"type": "macvlan", "master": "parent0", "mode": "bridge"`,
	"bridge":  `"type": "bridge", "bridge": "br0"`,
	"ptp":     `"type": "ptp"`,
}

// cniNode is a rig on a node with libcni and a link "parent0".
type cniNode struct {
	*rig
	main string
	node *netns.NS
	bin  string
	cni  *libcni.CNIConfig
}

// newCNINode for a main plugin, with a pool "a" of these addresses.
func newCNINode(t *testing.T, mainPlugin, addresses string) *cniNode {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r := &cniNode{main: mainPlugin, bin: plugins.Build(t, "berth", mainPlugin), node: netns.New(t),
		rig: newRig(t, fmt.Sprintf(`a: {subnets: [{cidr: 10.6.0.0/24, gateway: 10.6.0.1, ips: [%s]}]}`, addresses))}
	r.forget()
	r.node.Do(func() {
		parent := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "parent0"}, PeerName: "wire0"}
		if err := errors.Join(netlink.LinkAdd(parent), netlink.LinkSetUp(parent)); err != nil {
			t.Fatal(err)
		}
	})
	return r
}

// forget makes the runtime one that knows of no attachment.
func (r *cniNode) forget() {
	r.cni = libcni.NewCNIConfigWithCacheDir([]string{r.bin}, r.TempDir(), nil)
}

// network of the main plugin; its name is the scope of GC.
func (r *cniNode) network(version string) string {
	return fmt.Sprintf(`{"cniVersion": %q, "name": %q, "plugins": [{%s, "ipam": {"type": "berth", "socket": %q}}]}`,
		version, r.name, mainPlugins[r.main], r.socket)
}

func (r *cniNode) list(conf string) *libcni.NetworkConfigList {
	r.Helper()
	list, err := libcni.NetworkConfFromBytes([]byte(conf))
	if err != nil {
		r.Fatal(err)
	}
	return list
}

// runtimeConf of a pod's sandbox.
func runtimeConf(p *corev1.Pod, sandbox string, ns *netns.NS) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: sandbox, NetNS: ns.Path(), IfName: "net1"}
	for _, kv := range strings.Split(request(p, sandbox, "net1", "").Args, ";") {
		k, v, _ := strings.Cut(kv, "=")
		rt.Args = append(rt.Args, [2]string{k, v})
	}
	return rt
}

// must do something on the node.
func (r *cniNode) must(what string, f func() error) {
	r.Helper()
	r.node.Do(func() {
		if err := f(); err != nil {
			r.Fatalf("%s: %v", what, err)
		}
	})
}

func (r *cniNode) attach(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) {
	r.Helper()
	r.must("ADD", func() error { _, err := r.cni.AddNetworkList(r.Context(), list, rt); return err })
}

// dropAddress of the interface in the pod.
func (r *cniNode) dropAddress(ns *netns.NS, address string) {
	r.Helper()
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		r.Fatal(err)
	}
	ns.Do(func() {
		link, err := netlink.LinkByName("net1")
		if err == nil {
			err = netlink.AddrDel(link, addr)
		}
		if err != nil {
			r.Fatal(err)
		}
	})
}

// dropLease behind the agent's back, and wait until it has seen that.
func (r *cniNode) dropLease(address, sandbox string) {
	r.Helper()
	if err := r.leases.Delete(r.Context(), r.name+"."+address, metav1.DeleteOptions{}); err != nil {
		r.Fatal(err)
	}
	apitest.Eventually(r, "the lease is gone", func() error {
		if len(r.store.HeldBySandbox(sandbox, "net1")) > 0 {
			return errors.New("not yet")
		}
		return nil
	})
}

// noLink: nothing but the loopback is left in the pod.
func (r *cniNode) noLink(ns *netns.NS) {
	r.Helper()
	ns.Do(func() {
		if links, err := net.Interfaces(); err != nil || len(links) != 1 {
			r.Errorf("links after DEL: %v, %v", links, err)
		}
	})
}

// ADD, CHECK and DEL of each main plugin in each version that has CHECK.
func TestMainPluginCheck(t *testing.T) {
	for main := range mainPlugins {
		for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
			t.Run(main+"/"+version, func(t *testing.T) {
				r := newCNINode(t, main, "10.6.0.7")
				pod, list := netns.New(t), r.list(r.network(version))
				p := r.pod("web", "berth.dev/ippool=$a")
				rt := runtimeConf(p, "s1", pod)
				check := func() (err error) {
					r.node.Do(func() { err = r.cni.CheckNetworkList(t.Context(), list, rt) })
					return err
				}
				del := func() error { return r.cni.DelNetworkList(t.Context(), list, rt) }

				r.attach(list, rt)
				r.wantBound("10.6.0.7 web/net1/s1")
				if err := check(); err != nil {
					t.Fatalf("CHECK: %v", err)
				}
				r.dropAddress(pod, "10.6.0.7/24") // which the main plugin sees
				if err := check(); err == nil || !strings.Contains(err.Error(), "10.6.0.7") {
					t.Errorf("CHECK without the address: %v", err)
				}
				for range 2 { // the second finds neither link, nor lease, nor a cached result
					r.must("DEL", del)
					r.wantBound()
					r.noLink(pod)
				}

				r.attach(list, rt)
				if err := check(); err != nil {
					t.Fatalf("CHECK of a second ADD: %v", err)
				}
				r.dropLease("10.6.0.7", "s1") // which berth sees
				checkError(t, nil, check(), delegate.CodeNotBound, "no lease is bound to interface net1 of sandbox s1")
				r.must("DEL without a lease", del)
				r.noLink(pod)
			})
		}
	}
}
