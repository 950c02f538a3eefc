// Package pins keeps what is pinned of a set of programs, their maps and links, in one directory of a BPF file system that changes
// as a whole: the next one is built beside it and the two change places. Who is killed in between leaves one complete set.
package pins

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

// Dir is the directory of one set: maps and links by name.
type Dir struct{ current, next string }

const nextSuffix = "~"

// Of is the directory pinDir/name. The name may be any entry of pinDir, also one that a killed Begin left. That none need exist yet
// is no error.
func Of(pinDir, name string) (Dir, error) {
	name = strings.TrimSuffix(name, nextSuffix)
	// The BPF file system keeps names with dots to itself.
	if name == "" || strings.ContainsAny(name, "./~") {
		return Dir{}, fmt.Errorf("name of pins %q: empty, or with one of . / ~", name)
	}
	dir := filepath.Join(pinDir, name)
	return Dir{dir, dir + nextSuffix}, nil
}

// Begin makes the next directory.
func (d Dir) Begin() error {
	if err := OnBPFFS(d.current); err != nil {
		return err
	}
	if err := os.RemoveAll(d.next); err != nil { // of one that was killed
		return fmt.Errorf("clear pins: %w", err)
	}
	if err := os.MkdirAll(d.next, 0o700); err != nil {
		return fmt.Errorf("make pins: %w", err)
	}
	return nil
}

// Commit puts the next directory in the place of the current one, and drops the latter. Of the links with these names, those that
// were not pinned in the next one are detached.
func (d Dir) Commit(links ...string) error {
	err := unix.Renameat2(unix.AT_FDCWD, d.next, unix.AT_FDCWD, d.current, unix.RENAME_EXCHANGE)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(d.next, d.current)
	}
	if err != nil {
		return fmt.Errorf("change pins: %w", err)
	}
	return errors.Join(d.retire(links), d.Abort())
}

// Abort drops the next directory; after Commit, what was the current one.
func (d Dir) Abort() error {
	if err := os.RemoveAll(d.next); err != nil {
		return fmt.Errorf("drop pins: %w", err)
	}
	return nil
}

// Reusable opens the maps of the current directory, as far as there are any of this layout: their name in the kernel is that of the
// spec, which should have the layout's version in it.
func (d Dir) Reusable(specs map[string]*ebpf.MapSpec) (map[string]*ebpf.Map, error) {
	maps := make(map[string]*ebpf.Map)
	for name, spec := range specs {
		m, err := ebpf.LoadPinnedMap(filepath.Join(d.current, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			CloseMaps(maps)
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

// PinMap pins a map in the next directory, where it may also be pinned in the current one.
func (d Dir) PinMap(name string, m *ebpf.Map) error {
	// A Map knows one path only, and would move there.
	twin, err := m.Clone()
	if err != nil {
		return fmt.Errorf("pin map %s: %w", name, err)
	}
	defer twin.Close()
	if err := twin.Pin(filepath.Join(d.next, name)); err != nil {
		return fmt.Errorf("pin map %s: %w", name, err)
	}
	return nil
}

// HoldsMap says whether it is this map that is pinned under the name.
func (d Dir) HoldsMap(name string, m *ebpf.Map) (bool, error) {
	pinned, err := ebpf.LoadPinnedMap(filepath.Join(d.current, name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("pinned map %s: %w", name, err)
	}
	defer pinned.Close()
	there, err := pinned.Info()
	if err != nil {
		return false, fmt.Errorf("pinned map %s: %w", name, err)
	}
	ours, err := m.Info()
	if err != nil {
		return false, fmt.Errorf("map %s: %w", name, err)
	}
	a, known := there.ID()
	b, _ := ours.ID()
	return known && a == b, nil
}

// CloseMaps closes those that Reusable opened.
func CloseMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}

// OnBPFFS checks the nearest directory above that exists.
func OnBPFFS(dir string) error {
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

// Remove detaches the links with these names and drops both directories.
func (d Dir) Remove(links ...string) error {
	var errs []error
	for _, dir := range []string{d.current, d.next} {
		for _, name := range links {
			errs = append(errs, detach(filepath.Join(dir, name), 0))
		}
		if err := os.RemoveAll(dir); err != nil {
			errs = append(errs, fmt.Errorf("drop pins: %w", err))
		}
	}
	return errors.Join(errs...)
}
