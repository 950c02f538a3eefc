package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/berthdev/berth/tests/cluster/fabric"
)

// Down removes the lab, whatever is left of it.
func (l *Lab) Down() error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	_, statErr := os.Stat(l.state())
	// A state that cannot be read must not keep the rest: names follow from the
	// lab's name alone.
	if err := l.load(); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			l.Say("%v", err)
		}
		if err := l.plan(); err != nil {
			return err
		}
	}
	if errors.Is(statErr, fs.ErrNotExist) {
		// Without state here, namespaces of that name are another directory's.
		if fabric.Present(l.topo) {
			return fmt.Errorf("lab %q: nothing in %s, but its namespaces exist: they belong to a lab in another --dir", l.Name, l.state())
		}
		l.Say("lab %q is not up", l.Name)
		return nil
	}
	// Nodes end with their holders: the kernel kills a process namespace whole.
	if err := l.table.KillAll(); err != nil {
		return err
	}
	var errs []error
	errs = append(errs, fabric.Down(l.topo))
	for _, n := range l.nodes() {
		errs = append(errs, removeCgroups(strings.TrimPrefix(n.Cgroup(), "/")))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("lab %q: %w", l.Name, err)
	}
	if err := os.RemoveAll(l.state()); err != nil {
		return fmt.Errorf("lab %q: %w", l.Name, err)
	}
	l.Say("lab %q is down", l.Name)
	return nil
}

// removeCgroups removes the cgroup called name from every hierarchy.
func removeCgroups(name string) error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	if err != nil {
		return err
	}
	if root := "/sys/fs/cgroup/" + name; exists(root) {
		roots = append(roots, root) // a machine with cgroup v2 alone
	}
	for _, root := range roots {
		var dirs []string
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		if err != nil {
			return err
		}
		// Children before parents.
		sort.Sort(sort.Reverse(sort.StringSlice(dirs)))
		for _, d := range dirs {
			if err := rmdir(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// rmdir waits for the processes of a cgroup, which leave it some time after
// they were killed.
func rmdir(dir string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Rmdir(dir)
		if err == nil || errors.Is(err, syscall.ENOENT) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("cgroup %s: %w", dir, err)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
