package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// cgroups are where containerd puts containers, in every hierarchy: it does
// so for all nodes and labs alike, since a kubelet that does not manage cgroups
// names no parent. Hybrid and v1 machines have one hierarchy a directory; v2
// machines have the one.
var cgroups = []string{"/sys/fs/cgroup/*/k8s.io", "/sys/fs/cgroup/k8s.io"}

// removeCgroups removes the cgroups of the containers with these ids.
func removeCgroups(ids []string) error {
	for _, pattern := range cgroups {
		parents, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, parent := range parents {
			for _, id := range ids {
				if err := removeTree(filepath.Join(parent, id)); err != nil {
					return err
				}
			}
			// Not empty, and so left, while another lab is up.
			_ = syscall.Rmdir(parent)
		}
	}
	return nil
}

// removeTree removes a cgroup and those below it.
func removeTree(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if err := rmdir(d); err != nil {
			return err
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
