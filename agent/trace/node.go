//go:build linux

package trace

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/agent/proxy"
	"github.com/berthdev/berth/agent/report"
)

// few addresses are named one by one.
const few = 10

// node is who translates there, if anybody.
func (w *walk) node() bool {
	const name = "node"
	addresses, err := path.OwnAddresses()
	if err != nil {
		return w.on(name, report.Unknown, err.Error())
	}
	local := slices.Contains(addresses, w.to.Address)
	own, err := proxy.Open()
	if err != nil {
		return w.on(name, report.Unknown, err.Error())
	}
	if own.There() && (w.vmac == "" || own.Serves(w.vmac)) {
		a, err := own.Lookup(w.to, local)
		if err != nil {
			return w.on(name, report.Unknown, err.Error())
		}
		if a.Known {
			return w.served(a)
		}
	}
	other, err := (&proxy.Detector{}).Detect()
	switch {
	case err != nil:
		return w.on(name, report.Unknown, err.Error())
	case other != proxy.Nobody && (w.steered || len(w.request.Endpoints) > 0):
		w.translated, w.other = true, true
		for _, e := range w.request.Endpoints {
			if e.Addr().Is4() == w.to.Address.Is4() {
				w.backends = append(w.backends, e)
			}
		}
		says := []string{fmt.Sprintf("%s translates; its rules are not read here", other)}
		if len(w.backends) > 0 {
			says = append(says, fmt.Sprintf("the Service's ready endpoints, by the API: %s", some(w.backends)))
		}
		return w.on(name, report.Passes, says...)
	case !w.steered:
		w.backends = []netip.AddrPort{netip.AddrPortFrom(w.to.Address, w.to.Port)}
		return w.on(name, report.Passes, "no Service, as far as Berth sees: it goes to the address itself")
	case own.There():
		a, _ := own.Lookup(w.to, local)
		if a.Address {
			return w.end(name, "refused by the node: the Service has no such port", "table inet berth-services knows the address, and no such port of it")
		}
		return w.end(name, "dropped by the node: there is no such Service", "table inet berth-services has no Service at this address")
	}
	return w.end(name, "lost: nobody translates Services on this node", "there are neither rules of kube-proxy nor a table inet berth-services")
}

// served by Berth's own table.
func (w *walk) served(a proxy.Answer) bool {
	const name, by = "node", "table inet berth-services translates"
	switch {
	case a.Drop:
		return w.end(name, "dropped by the node", by+": no backend on this node, and its policy is Local")
	case len(a.Backends) == 0:
		return w.end(name, "refused by the node: the Service has no backend", by+": no backend")
	}
	w.translated, w.backends = true, a.Backends
	says := []string{fmt.Sprintf("%s to one of %d: %s", by, len(a.Backends), some(a.Backends))}
	if a.Affinity > 0 {
		says = append(says, fmt.Sprintf("and to that one again for %s after the last connection (ClientIP affinity)", a.Affinity))
	}
	if a.Sources {
		says = append(says, "only for clients in loadBalancerSourceRanges; whether the pod is in them is not read")
	}
	return w.on(name, report.Passes, says...)
}

func some(all []netip.AddrPort) string {
	if len(all) <= few {
		return join(all)
	}
	return fmt.Sprintf("%s and %d more", join(all[:few]), len(all)-few)
}

// source is as whom the server sees the pod.
func (w *walk) source() bool {
	const name = "source"
	if len(w.backends) == 0 {
		return w.end(name, "to a backend that is not known here", "which source the server sees depends on the backend: docs/architecture.md, Masquerade, has the table")
	}
	var says []string
	seen := map[netip.Addr]bool{} // backends that differ by their port only
	for _, b := range w.backends {
		if seen[b.Addr()] {
			continue
		}
		if seen[b.Addr()] = true; len(seen) > few {
			says = append(says, "and others")
			break
		}
		s, err := path.SeenAs(w.cfg.Path, w.told.Path, w.from, b.Addr(), w.translated)
		switch {
		case err != nil:
			says = append(says, fmt.Sprintf("%s: not known: %s", b.Addr(), err))
		case s.Dropped:
			says = append(says, fmt.Sprintf("%s never sees it, the node drops it: %s", b.Addr(), s.Why))
		case s.Own:
			says = append(says, fmt.Sprintf("%s sees the pod's own %s: %s", b.Addr(), w.from, s.Why))
		default:
			says = append(says, fmt.Sprintf("%s sees %s, this node: %s", b.Addr(), joinOr(s.Addresses), s.Why))
		}
	}
	if w.translated && w.other {
		says = append(says, "kube-proxy, if it has a clusterCIDR, masquerades what goes to overlay pods of this node, too")
	}
	ends := "by this node to " + some(w.backends)
	if len(w.backends) > 1 {
		ends = "by this node to one of " + some(w.backends)
	}
	return w.end(name, ends, says...)
}

func joinOr(all []netip.Addr) string {
	switch len(all) {
	case 0:
		return "an address that is not known"
	case 1:
		return all[0].String()
	}
	return "one of " + join(all)
}
