package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNoCgroup is that there is no cgroup2 hierarchy, or only a part of it to be seen.
var ErrNoCgroup = errors.New("no root of the cgroup2 hierarchy")

// FindCgroup is the root cgroup, to which all sockets of the node belong: the first of the directories, or "unified" below one,
// which is it. Without any it looks at /sys/fs/cgroup. If none is, it mounts the hierarchy for itself, at no path: that works on nodes
// that use cgroup v1 for all else.
//
// A container has a view of its own: in a cgroup namespace, what its runtime mounts at /sys/fs/cgroup and what it mounts itself both
// begin at its own cgroup, so that pods are not below. That is refused. The host's /sys/fs/cgroup has to be given to the agent's pod
// as a hostPath volume, at another path, which is a directory for FindCgroup. Its namespace does not matter then; kubelet mounts
// it with what is mounted below, so that "unified" of a hybrid setup is there as well.
func FindCgroup(dirs ...string) (string, error) {
	if len(dirs) == 0 {
		dirs = []string{"/sys/fs/cgroup"}
	}
	var errs []error
	for _, dir := range dirs {
		for _, dir := range []string{dir, filepath.Join(dir, "unified")} {
			err := isRoot(dir)
			if err == nil {
				return dir, nil
			}
			errs = append(errs, err)
		}
	}
	dir, err := mounted()
	if err == nil {
		err = isRoot(dir)
	}
	if err == nil {
		return dir, nil
	}
	return "", fmt.Errorf("%w: mount /sys/fs/cgroup of the host into the agent's pod (hostPath): %w",
		ErrNoCgroup, errors.Join(append(errs, fmt.Errorf("own mount: %w", err))...))
}

// isRoot: every cgroup but the root has a type (cgroup-v2.rst, "Core Interface Files").
func isRoot(dir string) error {
	if err := onCgroup2(dir); err != nil {
		return err
	}
	_, err := os.Stat(filepath.Join(dir, "cgroup.type"))
	if err == nil {
		return fmt.Errorf("%s begins at a cgroup below the root, as in a container", dir)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func onCgroup2(dir string) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return fmt.Errorf("file system of %s: %w", dir, err)
	}
	if stat.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%s is no cgroup2 file system", dir)
	}
	return nil
}

// mounted is a mount of cgroup2 that is in no directory tree, by a descriptor that stays open.
var mounted = sync.OnceValues(func() (string, error) {
	fsfd, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("open file system cgroup2: %w", err)
	}
	defer unix.Close(fsfd)
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return "", fmt.Errorf("make file system cgroup2: %w", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("mount cgroup2: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), nil
})
