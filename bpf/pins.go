package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// layout is the version of the maps' keys and values, and part of the maps' names. Change it with any of them that keeps
// its size, or when counters change places: Attach then starts with new, empty maps.
const layout = 1

// pins is the directory of one vmac: the maps by name, and in tcx mode the links "steer" and "guard". It changes as a
// whole: the next one is built beside it and the two change places.
type pins struct{ dir, next string }

const nextSuffix = "~"

func pinsOf(pinDir, name string) (pins, error) {
	// The BPF file system keeps names with dots to itself.
	if name == "" || strings.ContainsAny(name, "./~") {
		return pins{}, fmt.Errorf("vmac name %q: empty, or with one of . / ~", name)
	}
	dir := filepath.Join(pinDir, name)
	return pins{dir, dir + nextSuffix}, nil
}

// begin makes the next directory.
func (p pins) begin() error {
	if err := onBPFFS(p.dir); err != nil {
		return err
	}
	if err := os.RemoveAll(p.next); err != nil { // of an Attach that was killed
		return fmt.Errorf("clear pins: %w", err)
	}
	if err := os.MkdirAll(p.next, 0o700); err != nil {
		return fmt.Errorf("make pins: %w", err)
	}
	return nil
}

// commit puts the next directory in the place of the current one, and drops the latter.
func (p pins) commit() error {
	err := unix.Renameat2(unix.AT_FDCWD, p.next, unix.AT_FDCWD, p.dir, unix.RENAME_EXCHANGE)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(p.next, p.dir)
	}
	if err != nil {
		return fmt.Errorf("change pins: %w", err)
	}
	return errors.Join(p.retireTCX(), p.abort())
}

// abort drops the next directory; after commit, what was the current one.
func (p pins) abort() error {
	if err := os.RemoveAll(p.next); err != nil {
		return fmt.Errorf("drop pins: %w", err)
	}
	return nil
}

// reusable opens the maps of an earlier Attach, as far as there are any of this layout.
func (p pins) reusable(specs map[string]*ebpf.MapSpec) (map[string]*ebpf.Map, error) {
	maps := make(map[string]*ebpf.Map)
	for name, spec := range specs {
		m, err := ebpf.LoadPinnedMap(filepath.Join(p.dir, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			closeMaps(maps)
			return nil, fmt.Errorf("pinned map %s: %w", name, err)
		}
		info, err := m.Info()
		if err != nil || info.Name != spec.Name || spec.Compatible(m) != nil {
			m.Close()
			continue
		}
		maps[name] = m
	}
	return maps, nil
}

// pin pins a map in the next directory, where it may also be pinned in the current one.
func (p pins) pin(name string, m *ebpf.Map) error {
	// A Map knows one path only, and would move there.
	twin, err := m.Clone()
	if err != nil {
		return fmt.Errorf("pin map %s: %w", name, err)
	}
	defer twin.Close()
	if err := twin.Pin(filepath.Join(p.next, name)); err != nil {
		return fmt.Errorf("pin map %s: %w", name, err)
	}
	return nil
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}

// onBPFFS checks the nearest directory above that exists.
func onBPFFS(dir string) error {
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		var stat unix.Statfs_t
		err := unix.Statfs(at, &stat)
		if errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at) {
			continue
		}
		if err != nil {
			return fmt.Errorf("file system of %s: %w", at, err)
		}
		if stat.Type != unix.BPF_FS_MAGIC {
			return fmt.Errorf("%s is on no BPF file system: mount one on the host (mount -t bpf bpf /sys/fs/bpf), "+
				"and give it to the agent's pod as a hostPath volume", dir)
		}
		return nil
	}
}

// remove detaches the links and drops both directories.
func (p pins) remove() error {
	var errs []error
	for _, dir := range []string{p.dir, p.next} {
		for _, name := range []string{programProgSteer, programProgGuard} {
			errs = append(errs, detachTCX(filepath.Join(dir, name), 0))
		}
		if err := os.RemoveAll(dir); err != nil {
			errs = append(errs, fmt.Errorf("drop pins: %w", err))
		}
	}
	return errors.Join(errs...)
}
