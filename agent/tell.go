package agent

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/berthdev/berth/agent/state"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// tellState answers who compares what this agent wants with what there is.
func (a *Agent) tellState(w http.ResponseWriter, _ *http.Request) {
	s := state.State{Node: a.cfg.NodeName, Ready: a.isReady(), Path: a.path.Wanted(), Interfaces: a.interfaces()}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(s); err != nil {
		a.log.Warn("answer not delivered", "path", "state", "err", err)
	}
}

// interfaces of this node's pods, by the journal, which knows them before the API does, and by the API.
func (a *Agent) interfaces() []state.Interface {
	found := map[sandbox]*state.Interface{}
	add := func(h *v1alpha1.LeaseHolder, netNS string, l *v1alpha1.IPLease) {
		k := sandbox{h.ContainerID, h.Interface}
		if found[k] == nil {
			found[k] = &state.Interface{Namespace: h.Namespace, Pod: h.Pod, UID: string(h.UID), Name: h.Interface, NetNS: netNS,
				Parent: h.Parent, MAC: h.MAC, Network: l.Spec.Network}
			if g, ok := a.guards.Known(k.containerID, k.ifName); ok && g.Guarded {
				found[k].Guard = &state.Guard{Addresses: g.Addresses, Allowed: g.Allowed, DHCP: g.DHCP}
			}
		}
		if addr, err := netip.ParseAddr(l.Spec.Address); err == nil && !slices.Contains(found[k].Addresses, addr) {
			found[k].Addresses = append(found[k].Addresses, addr)
		}
	}
	for _, e := range a.journal.Entries() {
		for _, l := range bindings(e) {
			add(&e.Holder, e.NetNS, l)
		}
	}
	for _, l := range a.bound() {
		if h := ipam.HolderOn(l, a.cfg.NodeName); h != nil {
			add(h, "", l)
		}
	}
	out := make([]state.Interface, 0, len(found))
	for _, i := range found {
		slices.SortFunc(i.Addresses, netip.Addr.Compare)
		out = append(out, *i)
	}
	slices.SortFunc(out, func(a, b state.Interface) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Pod, b.Pod), strings.Compare(a.Name, b.Name))
	})
	return out
}
