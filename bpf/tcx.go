package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
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
func (p pins) attachTCX(h hook) error {
	l, err := p.updateTCX(h)
	if err != nil {
		return err
	}
	if l == nil {
		// Before all others: one that lets a packet pass would hide it from ours.
		l, err = link.AttachTCX(link.TCXOptions{Interface: h.ifindex, Program: h.program, Attach: h.tcx, Anchor: link.Head()})
		if err != nil {
			return fmt.Errorf("attach %s to link %d: %w", h.name, h.ifindex, err)
		}
	}
	defer l.Close()
	if err := l.Pin(filepath.Join(p.next, h.name)); err != nil {
		return fmt.Errorf("pin link %s: %w", h.name, err)
	}
	return nil
}

// updateTCX returns the pinned link of the hook with its new program, or nil if there is none or its device is gone.
func (p pins) updateTCX(h hook) (link.Link, error) {
	l, info, err := openLink(filepath.Join(p.dir, h.name))
	if l == nil || err != nil {
		return nil, err
	}
	defer l.Close()
	if !h.has(info) {
		return nil, nil
	}
	if err := l.Update(h.program); errors.Is(err, errSevered) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("update link %s: %w", h.name, err)
	}
	// A Link knows one path only, and would move there.
	twin, err := link.NewFromID(info.ID)
	if err != nil {
		return nil, fmt.Errorf("pinned link %s: %w", h.name, err)
	}
	return twin, nil
}

// has says whether a link is at the hook. Its index is 0 once it is detached or its device is gone.
func (h hook) has(info *link.Info) bool {
	at := info.TCX()
	return at != nil && int(at.Ifindex) == h.ifindex && ebpf.AttachType(at.AttachType) == h.tcx
}

// attachedTCX says whether the pinned link of the hook is at it with our program.
func (s *Steer) attachedTCX(h hook) (bool, error) {
	l, info, err := openLink(filepath.Join(s.pins.dir, h.name))
	if l == nil || err != nil {
		return false, err
	}
	defer l.Close()
	return h.has(info) && info.Program == s.programs[h.name], nil
}

// retireTCX, after commit, detaches the links that were not updated.
func (p pins) retireTCX() error {
	for _, name := range []string{programProgSteer, programProgGuard} {
		l, info, err := openLink(filepath.Join(p.dir, name))
		if err != nil {
			return err
		}
		var current link.ID
		if l != nil {
			current = info.ID
			l.Close()
		}
		if err := detachTCX(filepath.Join(p.next, name), current); err != nil {
			return err
		}
	}
	return nil
}

// detachTCX detaches a pinned link now, unless it has the given ID. Unpinning alone would do so some time later.
func detachTCX(path string, unless link.ID) error {
	l, info, err := openLink(path)
	if l == nil || err != nil {
		return err
	}
	defer l.Close()
	if info.ID == unless {
		return nil
	}
	if err := l.Detach(); err != nil && !errors.Is(err, errSevered) {
		return fmt.Errorf("detach link %s: %w", path, err)
	}
	return nil
}

// openLink returns nil if nothing is pinned at the path.
func openLink(path string) (link.Link, *link.Info, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("pinned link %s: %w", path, err)
	}
	info, err := l.Info()
	if err != nil {
		l.Close()
		return nil, nil, fmt.Errorf("pinned link %s: %w", path, err)
	}
	return l, info, nil
}
