//go:build linux

// Package trace follows a new connection of a pod to an address and port, and says at each step what becomes of it: by what the running
// agent tells, and by the kernel's maps, tables and routes as they are now. It reads only, and sends nothing. What it cannot read, it says.
// Watch shows a pod's packets as they come by.
//
//	step        the way goes on                        it ends
//	interfaces  the pod has one of Berth's             it has none, or no address of the family
//	socket      left to the node, or fast mode is off  a backend is connected to directly; refused
//	route       via the service gateway                past the node; no route
//	vmac        steer lets it pass                     dropped, with the verdict that counts it
//	node        translated, or for the node itself     refused; dropped; nobody translates
//	source      says as whom the server sees the pod   always
package trace

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/agent/state"
	"github.com/berthdev/berth/service"
)

// Config is the running agent's.
type Config struct {
	Path   path.Config
	Socket string
	NetNS  string // directory of the sandboxes' namespaces
}

// Request is whose connections are followed.
type Request struct {
	Namespace, Pod string
	To             []service.Frontend
	// Endpoints of the Service, from who knows it: where kube-proxy translates, its rules are not read.
	Endpoints []netip.AddrPort
}

// Follow a connection to each address.
func Follow(ctx context.Context, cfg Config, r Request) ([]report.Trace, error) {
	told, err := state.Ask(ctx, cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("%w; without it nobody knows the pod's interfaces", err)
	}
	var out []report.Trace
	for _, to := range r.To {
		t := &walk{cfg: cfg, request: r, to: to, told: told,
			Trace: report.Trace{Node: told.Node, Pod: r.Namespace + "/" + r.Pod, To: to.String()}}
		t.follow()
		out = append(out, t.Trace)
	}
	return out, nil
}

// walk is one connection on its way.
type walk struct {
	report.Trace
	cfg     Config
	request Request
	to      service.Frontend
	told    *state.State

	pod        []state.Interface
	by         state.Interface // the interface that it leaves by
	from       netip.Addr
	netns      string           // file; "" if it is not known
	vmac       string           // name
	steered    bool             // to a service CIDR
	backends   []netip.AddrPort // that the node may choose; nil if they are not known
	translated bool
	other      bool // it is kube-proxy that translates
}

func (w *walk) follow() {
	for _, step := range []func() bool{w.interfaces, w.socket, w.route, w.crossing, w.node, w.source} {
		if !step() {
			return
		}
	}
}

// on adds a step after which the way goes on.
func (w *walk) on(name string, s report.State, says ...string) bool {
	w.Steps = append(w.Steps, report.Step{Name: name, State: s, Says: says})
	return true
}

// end adds the last step.
func (w *walk) end(name, ends string, says ...string) bool {
	w.on(name, report.Ends, says...)
	w.Ends = ends
	return false
}

func (w *walk) interfaces() bool {
	const name = "interfaces"
	var says []string
	for _, i := range w.told.Interfaces {
		if i.Namespace != w.request.Namespace || i.Pod != w.request.Pod {
			continue
		}
		w.pod = append(w.pod, i)
		if w.netns == "" {
			w.netns = i.NetNSFile(w.cfg.NetNS)
		}
		kind := "no macvlan child in bridge mode, so without service path"
		if i.Parent != "" {
			kind = fmt.Sprintf("macvlan on %s, MAC %s", i.Parent, i.MAC)
		}
		says = append(says, fmt.Sprintf("%s: %s in network %s; %s", i.Name, join(i.Addresses), i.Network, kind))
	}
	if len(w.pod) == 0 {
		return w.end(name, "Berth has nothing to do with it", "the pod has no interface of Berth on this node")
	}
	if w.told.Path == nil {
		return w.end(name, "not by Berth: the agent has --service-path=false", says...)
	}
	if !slices.ContainsFunc(w.pod, func(i state.Interface) bool { return w.address(i).IsValid() }) {
		family := map[bool]string{true: "IPv4", false: "IPv6"}[w.to.Address.Is4()]
		says = append(says, "none has an "+family+" address: by Berth's interfaces the pod does not get there")
	}
	return w.on(name, report.Passes, says...)
}

// address is the interface's address of the destination's family, if it has a vmac.
func (w *walk) address(i state.Interface) netip.Addr {
	for _, a := range i.Addresses {
		if i.Parent != "" && a.Is4() == w.to.Address.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

func join[T fmt.Stringer](all []T) string {
	var s []string
	for _, a := range all {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}
