//go:build linux

package trace

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/bpf/sock"
)

// socket comes first on the way: it changes the address before there is a packet.
func (w *walk) socket() bool {
	const name = "socket"
	view, err := sock.Open(w.cfg.Path.PinDir)
	if errors.Is(err, fs.ErrNotExist) {
		return w.on(name, report.Skipped, "fast mode is off: nothing is pinned of it")
	}
	if err != nil {
		return w.on(name, report.Unknown, err.Error())
	}
	defer func() { _ = view.Close() }()
	if w.netns == "" {
		return w.on(name, report.Unknown, "fast mode is on, but the pod's network namespace is not known")
	}
	cookie, err := sock.Cookie(w.netns)
	if err != nil {
		return w.on(name, report.Unknown, "fast mode is on: "+err.Error())
	}
	a, err := view.Lookup(cookie, w.to)
	if err != nil {
		return w.on(name, report.Unknown, "fast mode is on: "+err.Error())
	}
	return w.answered(a)
}

// answered says what the programs make of the call.
func (w *walk) answered(a sock.Answer) bool {
	const name = "socket"
	switch {
	case !a.Pod:
		return w.on(name, report.Skipped, "fast mode is on, but not for this pod")
	case !a.Service:
		return w.on(name, report.Skipped, "fast mode has no Service at this address and port")
	case a.Steered:
		return w.on(name, report.Skipped, "left to the node: so is this port of the Service (SCTP, sources, policy or configuration)")
	case len(a.Backends) == 0:
		return w.end(name, "refused at once (ECONNREFUSED): the Service has no backend", "the Service has no backend")
	}
	var native, others []string
	for _, c := range a.Backends {
		if c.Native {
			native = append(native, c.Backend.String())
		} else {
			others = append(others, c.Backend.String())
		}
	}
	says, direct := []string{fmt.Sprintf("one of %d backends by chance", len(a.Backends))}, len(others) == 0
	if k := a.Kept; k != nil {
		direct = k.Backend.IsValid() && !slices.Contains(others, k.Backend.String())
		says[0] = fmt.Sprintf("by ClientIP affinity, for %s more: left to the node", k.For)
		if k.Backend.IsValid() {
			says[0] = fmt.Sprintf("by ClientIP affinity, for %s more: %s", k.For, k.Backend)
		}
	} else if a.Affinity > 0 {
		says = append(says, fmt.Sprintf("and that one again for %s after the last use (ClientIP affinity)", a.Affinity))
	}
	if len(native) > 0 {
		says = append(says, fmt.Sprintf("connected to directly, past the node: %v", native))
	}
	if len(others) > 0 {
		says = append(says, fmt.Sprintf("left to the node, which chooses again: %v: neither on a network of the pod nor another node itself", others))
	}
	if direct {
		return w.end(name, "the socket connects to the backend itself, and the server sees the pod's own address", says...)
	}
	return w.on(name, report.Passes, says...)
}
