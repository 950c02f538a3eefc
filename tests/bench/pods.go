package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	parentLink = "eth0"
	podLink    = "eth0"
	podCount   = 60 // of each kind; also the size of a burst
)

// kinds of pods: who gets its address from which pool, and through which main plugin. A pod that comes again gets the address that it
// had before; the others are new ones each time.
var kinds = []struct {
	name, pool, mainPlugin string
	comesAgain             bool
	annotations            map[string]string
}{
	{"single", "single", "bridge", false, nil},
	{"agent", "single", "bridge", false, nil},
	{"again", "single", "bridge", true, nil},
	{"dual", "dual", "bridge", false, nil},
	{"path", "path", "macvlan", false, map[string]string{"v1.multus-cni.io/default-network": "bench/path"}},
}

// pod is one namespace with one interface in it, and one Pod object of each kind that is said to be there.
type pod struct {
	netns string
	args  map[string]string // CNI_ARGS, by kind
}

// makeParent makes the node's link: one end of a cable.
func makeParent() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: parentLink}, PeerName: "wire"}
	if err := netlink.LinkAdd(cable); err != nil {
		return fmt.Errorf("make %s: %w", parentLink, err)
	}
	wire, err := netlink.LinkByName("wire")
	if err != nil {
		return err
	}
	for _, l := range []netlink.Link{lo, cable, wire} {
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

func (n *node) makePods() error {
	for i := range podCount {
		p := pod{netns: fmt.Sprintf("%s/%d", netnsDir, i), args: map[string]string{}}
		n.pods = append(n.pods, p)
		if err := makeNamespace(p.netns); err != nil {
			return fmt.Errorf("namespace of pod %d: %w", i, err)
		}
	}
	return nil
}

// renewPods makes new Pod objects, and lets the namespaces be those of these.
func (n *node) renewPods(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(n.rest)
	if err != nil {
		return err
	}
	n.generation++
	for i, p := range n.pods {
		for _, k := range kinds {
			if k.comesAgain && n.generation > 1 {
				continue
			}
			o, err := createPod(ctx, client, podObject(fmt.Sprintf("%s-%d-%d", k.name, n.generation, i), k.pool, k.annotations))
			if err != nil {
				return err
			}
			p.args[k.name] = cniArgs(o)
		}
	}
	time.Sleep(300 * time.Millisecond) // the agent's watch has them by then; it would ask for them one by one
	return nil
}

func cniArgs(p *corev1.Pod) string {
	return fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_UID=%s", p.Namespace, p.Name, p.UID)
}

// makeNamespace with a macvlan link in it, as the macvlan plugin makes it before it calls its IPAM plugin, and a file that names it.
func makeNamespace(file string) error {
	parent, err := netlink.LinkByName(parentLink)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	f.Close()
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and nothing else gets to run in the namespace.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, "")
	}()
	if err := <-done; err != nil {
		return err
	}
	ns, err := os.Open(file)
	if err != nil {
		return err
	}
	defer ns.Close()
	return netlink.LinkAdd(&netlink.Macvlan{
		LinkAttrs: netlink.LinkAttrs{Name: podLink, ParentIndex: parent.Attrs().Index, Namespace: netlink.NsFd(int(ns.Fd()))},
		Mode:      netlink.MACVLAN_MODE_BRIDGE,
	})
}
