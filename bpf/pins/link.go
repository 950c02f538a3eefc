package pins

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// errSevered is what the kernel says of a link whose device or cgroup is gone.
var errSevered = unix.ENOLINK

// Link pins in the next directory a link of that name with the program: the current one, updated in place so that nothing passes
// without program, if it is where it should be (fits); else what attach makes.
func (d Dir) Link(name string, program *ebpf.Program, fits func(*link.Info) bool, attach func() (link.Link, error)) error {
	l, err := d.update(name, program, fits)
	if err != nil {
		return err
	}
	if l == nil {
		if l, err = attach(); err != nil {
			return err
		}
	}
	defer l.Close()
	if err := l.Pin(filepath.Join(d.next, name)); err != nil {
		return fmt.Errorf("pin link %s: %w", name, err)
	}
	return nil
}

// update returns the current link with its new program, or nil if there is none or what it was attached to is gone.
func (d Dir) update(name string, program *ebpf.Program, fits func(*link.Info) bool) (link.Link, error) {
	l, info, err := OpenLink(filepath.Join(d.current, name))
	if l == nil || err != nil {
		return nil, err
	}
	defer l.Close()
	if !fits(info) {
		return nil, nil
	}
	if err := l.Update(program); errors.Is(err, errSevered) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("update link %s: %w", name, err)
	}
	// A Link knows one path only, and would move there.
	twin, err := link.NewFromID(info.ID)
	if err != nil {
		return nil, fmt.Errorf("pinned link %s: %w", name, err)
	}
	return twin, nil
}

// HoldsLink says whether a link is pinned under the name that is where it should be, with that program.
func (d Dir) HoldsLink(name string, program ebpf.ProgramID, fits func(*link.Info) bool) (bool, error) {
	l, info, err := OpenLink(filepath.Join(d.current, name))
	if l == nil || err != nil {
		return false, err
	}
	defer l.Close()
	return fits(info) && info.Program == program, nil
}

// retire, after Commit, detaches the links that were not updated.
func (d Dir) retire(links []string) error {
	for _, name := range links {
		l, info, err := OpenLink(filepath.Join(d.current, name))
		if err != nil {
			return err
		}
		var current link.ID
		if l != nil {
			current = info.ID
			l.Close()
		}
		if err := detach(filepath.Join(d.next, name), current); err != nil {
			return err
		}
	}
	return nil
}

// Detach a pinned link now. Unpinning alone would do so some time later. That there is none is no error.
func Detach(path string) error { return detach(path, 0) }

// detach detaches a pinned link now, unless it has the given ID.
func detach(path string, unless link.ID) error {
	l, info, err := OpenLink(path)
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

// OpenLink returns nil if nothing is pinned at the path.
func OpenLink(path string) (link.Link, *link.Info, error) {
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
