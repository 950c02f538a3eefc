package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	pinned, err := link.LoadPinnedLink(filepath.Join(p.dir, h.name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pinned link %s: %w", h.name, err)
	}
	defer pinned.Close()

	info, err := pinned.Info()
	if err != nil {
		return nil, fmt.Errorf("pinned link %s: %w", h.name, err)
	}
	// The index is 0 once the device is gone.
	if at := info.TCX(); at == nil || int(at.Ifindex) != h.ifindex || ebpf.AttachType(at.AttachType) != h.tcx {
		return nil, nil
	}
	if err := pinned.Update(h.program); err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, errSevered) {
			return nil, nil
		}
		return nil, fmt.Errorf("update link %s: %w", h.name, err)
	}
	// A Link knows one path only, and would move there.
	l, err := link.NewFromID(info.ID)
	if err != nil {
		return nil, fmt.Errorf("pinned link %s: %w", h.name, err)
	}
	return l, nil
}

// detachTCX detaches the pinned links now; unpinning alone would do so some time later.
func (p pins) detachTCX() error {
	for _, dir := range []string{p.dir, p.next} {
		for _, name := range []string{programProgSteer, programProgGuard} {
			l, err := link.LoadPinnedLink(filepath.Join(dir, name), nil)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("pinned link %s: %w", name, err)
			}
			err = l.Detach()
			l.Close()
			if err != nil && !errors.Is(err, errSevered) {
				return fmt.Errorf("detach %s: %w", name, err)
			}
		}
	}
	return nil
}
