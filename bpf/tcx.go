package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/berthdev/berth/bpf/pins"
)

// hook is where a program goes.
type hook struct {
	name    string
	program *ebpf.Program
	ifindex int
	tcx     ebpf.AttachType
	clsact  uint32 // parent of the filter
}

// attachTCX attaches the program of a hook and pins its link in the next directory. A link of an earlier Attach is
// updated in place, so that no packet is without program.
func attachTCX(p pins.Dir, h hook) error {
	return p.Link(h.name, h.program, h.has, func() (link.Link, error) {
		// Before all others: one that lets a packet pass would hide it from ours.
		l, err := link.AttachTCX(link.TCXOptions{Interface: h.ifindex, Program: h.program, Attach: h.tcx, Anchor: link.Head()})
		if err != nil {
			return nil, fmt.Errorf("attach %s to link %d: %w", h.name, h.ifindex, err)
		}
		return l, nil
	})
}

// has says whether a link is at the hook. Its index is 0 once it is detached or its device is gone.
func (h hook) has(info *link.Info) bool {
	at := info.TCX()
	return at != nil && int(at.Ifindex) == h.ifindex && ebpf.AttachType(at.AttachType) == h.tcx
}

// attachedTCX says whether the pinned link of the hook is at it with our program.
func (s *Steer) attachedTCX(h hook) (bool, error) {
	return s.pins.HoldsLink(h.name, s.programs[h.name], h.has)
}
