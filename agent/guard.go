package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berthdev/berth/agent/guards"
	"github.com/berthdev/berth/agent/journal"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// sourceGuards is what the agent needs of package guards.
type sourceGuards interface {
	Run(context.Context) error
	Attach(guards.Interface) error
	Detach(containerID, ifName string) error
	Sync([]guards.Interface)
	Known(containerID, ifName string) (guards.Interface, bool)
	States() map[string]int
	Counters() (map[string]uint64, error)
	Unfenced() (why error, known bool)
	Denials() (map[string]uint64, error)
}

// noGuards are the source guards of an agent without a service path.
type noGuards struct{}

func (noGuards) Run(ctx context.Context) error                     { <-ctx.Done(); return nil }
func (noGuards) Attach(guards.Interface) error                     { return nil }
func (noGuards) Detach(string, string) error                       { return nil }
func (noGuards) Sync([]guards.Interface)                           {}
func (noGuards) Known(string, string) (_ guards.Interface, _ bool) { return }
func (noGuards) States() map[string]int                            { return nil }
func (noGuards) Counters() (_ map[string]uint64, _ error)          { return }
func (noGuards) Unfenced() (_ error, _ bool)                       { return }
func (noGuards) Denials() (_ map[string]uint64, _ error)           { return }

// guarding says whether and how an interface is kept to its leases.
//
//	a pool       pod, else network   allowed-addresses   then
//	Required     Disabled            any                 refused
//	Required     any                 some                refused
//	Required     Enabled, nothing    none                guarded, or no address
//	any          Disabled            any                 not guarded
//	any          Enabled             any                 guarded
//	first of Disabled   nothing      any                 not guarded
//	first of Enabled    nothing      any                 guarded
func guarding(ask nad.Ask, pools []*ipam.Pool, guardable bool) (*journal.Guard, error) {
	g := &journal.Guard{Allowed: ask.Allowed}
	mode := v1alpha1.SourceGuard(ask.SourceGuard)
	if mode == "" && len(pools) > 0 {
		mode = pools[0].Guard
	}
	g.On = guardable && mode != v1alpha1.SourceGuardDisabled
	for _, p := range pools {
		g.DHCP = g.DHCP || p.Delegate != nil && p.Delegate.Type == "dhcp"
		if p.Guard != v1alpha1.SourceGuardRequired {
			continue
		}
		g.On, g.Required = guardable, true
		switch {
		case ask.SourceGuard == string(v1alpha1.SourceGuardDisabled):
			return nil, badRequest{fmt.Errorf("%s is Disabled, but pool %q has sourceGuard Required; remove it, or use another pool", ask.GuardSource, p.Name)}
		case len(ask.Allowed) > 0:
			return nil, badRequest{fmt.Errorf("pod annotation %s: pool %q has sourceGuard Required, which allows leased addresses only; remove it, or use another pool",
				nad.AllowedAnnotation, p.Name)}
		case !guardable:
			return nil, badRequest{fmt.Errorf("pool %q has sourceGuard Required, and only interfaces of macvlan in bridge mode are guarded, "+
				"by an agent with a service path; use another pool for this network", p.Name)}
		}
	}
	return g, nil
}

// guarded is an interface for package guards.
func guarded(h v1alpha1.LeaseHolder, netNS string, g *journal.Guard, leases []*v1alpha1.IPLease) guards.Interface {
	i := guards.Interface{ContainerID: h.ContainerID, Name: h.Interface, NetNS: netNS, Parent: h.Parent,
		Guarded: g.On, Allowed: g.Allowed, DHCP: g.DHCP}
	i.MAC, _ = net.ParseMAC(h.MAC) // of the plugin, which read it of the interface
	for _, l := range leases {
		i.Network = l.Spec.Network
		if a, err := netip.ParseAddr(l.Spec.Address); err == nil {
			i.Addresses = append(i.Addresses, a)
		}
	}
	return i
}

// guard an interface that gets its addresses. Where no pool requires it, a pod starts without.
func (a *Agent) guard(pod *corev1.Pod, i guards.Interface, g *journal.Guard) error {
	err := a.guards.Attach(i)
	switch {
	case err == nil || !g.On && !g.Required:
		return nil
	case g.Required:
		return fmt.Errorf("source guard, which its pool requires: %w", err)
	}
	a.warn(pod, "SourceGuardFailed", fmt.Sprintf("interface %s is not kept to its addresses yet, tried again every 30 s: %v", i.Name, err))
	return nil
}

// tellFence writes the node's condition that says whether pods are kept from going around their source guards.
func (a *Agent) tellFence(client kubernetes.Interface) func(context.Context) error {
	tell := a.tellNode(client, SourceGuardCondition)
	return func(ctx context.Context) error {
		tick := time.NewTicker(lookServing)
		defer tick.Stop()
		for {
			if why, known := a.guards.Unfenced(); known {
				if err := tell(ctx, fenced(why)); err != nil {
					a.log.Warn("tell the node's condition; tried again", "every", lookServing, "err", err)
				}
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}
}

// silence an interface for what it gives up: an address may be another's soon.
func (a *Agent) silence(k sandbox, leases []*v1alpha1.IPLease) {
	i, ok := a.guards.Known(k.containerID, k.ifName)
	if !ok {
		return
	}
	i.Addresses = slices.DeleteFunc(slices.Clone(i.Addresses), func(addr netip.Addr) bool {
		return slices.ContainsFunc(leases, func(l *v1alpha1.IPLease) bool { return l.Spec.Address == addr.String() })
	})
	var err error
	if len(i.Addresses) == 0 {
		err = a.guards.Detach(k.containerID, k.ifName)
	} else {
		err = a.guards.Attach(i)
	}
	if err != nil {
		a.log.Warn("source guard of an interface that gives up addresses", "sandbox", k.containerID, "interface", k.ifName, "err", err)
	}
}

// syncGuards tells of the interfaces that there are when the agent starts.
func (a *Agent) syncGuards() {
	of := map[sandbox][]*v1alpha1.IPLease{}
	for _, l := range a.bound() {
		if h := ipam.HolderOn(l, a.cfg.NodeName); h != nil && h.Parent != "" && h.MAC != "" {
			k := sandbox{h.ContainerID, h.Interface}
			of[k] = append(of[k], l)
		}
	}
	var all []guards.Interface
	unknown := 0
	for k, leases := range of {
		h := ipam.HolderOn(leases[0], a.cfg.NodeName)
		netNS, g := "", (*journal.Guard)(nil)
		if e := a.journal.Interface(k.containerID, k.ifName); e != nil {
			netNS, g = e.NetNS, e.Guard
		}
		if g == nil {
			g = a.guardOf(h, leases)
		}
		if netNS == "" && g.On {
			unknown++
		}
		all = append(all, guarded(*h, netNS, g, leases))
	}
	if unknown > 0 {
		a.log.Warn("interfaces are not guarded: their network namespaces are not known; they are when their pods are made anew", "interfaces", unknown)
	}
	a.guards.Sync(all)
}

// guardOf an interface that an earlier version of the agent gave its addresses.
func (a *Agent) guardOf(h *v1alpha1.LeaseHolder, leases []*v1alpha1.IPLease) *journal.Guard {
	var pools []*ipam.Pool
	for _, l := range leases {
		if p := a.pools.named(l.Spec.Pool); p != nil {
			pools = append(pools, p)
		}
	}
	ask, _, err := nad.Resolve(nad.Input{PodAnnotations: a.pods.annotations(h.Namespace, h.Pod, string(h.UID)), Namespace: h.Namespace, IfName: h.Interface})
	if err != nil {
		ask = nad.Ask{}
	}
	g, err := guarding(ask, pools, true)
	if err != nil { // it runs already
		g, _ = guarding(nad.Ask{}, pools, true)
	}
	return g
}

// refused tells a pod's owner of what its source guard has refused.
func (a *Agent) refused(i guards.Interface, n guards.Refused) {
	for _, l := range a.heldBy(i.ContainerID, i.Name) {
		h := ipam.HolderOn(l, a.cfg.NodeName)
		if h == nil {
			continue
		}
		pod := podOfHolder(h)
		if n.Frames > 0 {
			a.warn(pod, "SourceGuardRefused", fmt.Sprintf("interface %s sent %d frames with an address or a MAC that is not of its leases; they were dropped. "+
				"If the pod is to use further addresses, name them in the annotation %s", i.Name, n.Frames, nad.AllowedAnnotation))
		}
		if n.Calls > 0 {
			a.warn(pod, "SourceGuardBypass", fmt.Sprintf("the pod made %d calls by which frames go around the source guard of interface %s (PACKET_QDISC_BYPASS, AF_XDP, "+
				"a macvlan link of its own); they were denied. If it is to, give it the annotation %s: Disabled", n.Calls, i.Name, nad.GuardAnnotation))
		}
		return
	}
}
