package agent

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// followMultihomed tells the path, from now on, the addresses of pods with a macvlan interface besides the overlay's. A pod's
// addresses come into its status after its ADD, and no Service sends to it before.
func (a *Agent) followMultihomed() error {
	update := func() {
		var local []*corev1.Pod
		for _, o := range a.pods.pods.GetStore().List() {
			local = append(local, o.(*corev1.Pod))
		}
		a.path.SetMultihomed(multihomed(local, a.store.Bound(), a.cfg.NodeName))
	}
	_, err := a.pods.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { update() },
		UpdateFunc: func(any, any) { update() },
		DeleteFunc: func(any) { update() },
	})
	return err
}

// multihomed lists, of the pods whose own address (status.podIPs) is not a leased one although they hold leases of steerable
// interfaces, both the pod's addresses and the leased ones.
func multihomed(pods []*corev1.Pod, bound []*v1alpha1.IPLease, node string) (out []netip.Addr) {
	leased := map[string][]netip.Addr{} // by namespace/name
	for _, l := range bound {
		h := ipam.HolderOn(l, node)
		if addr, err := netip.ParseAddr(l.Spec.Address); err == nil && h != nil && h.Parent != "" {
			leased[h.Namespace+"/"+h.Pod] = append(leased[h.Namespace+"/"+h.Pod], addr)
		}
	}
	for _, p := range pods {
		held := leased[p.Namespace+"/"+p.Name]
		own := podIPs(p)
		if len(held) == 0 || len(own) == 0 || slices.ContainsFunc(own, func(a netip.Addr) bool { return slices.Contains(held, a) }) {
			continue
		}
		out = append(append(out, own...), held...)
	}
	return out
}

func podIPs(p *corev1.Pod) (out []netip.Addr) {
	for _, ip := range p.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			out = append(out, addr)
		}
	}
	return out
}
