//go:build linux

package guards

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/bpf"
)

// file by which this process finds a sandbox's namespace. containerd and CRI-O name them in one directory, which has two names. A path
// elsewhere, such as that of a process, may mean another namespace here.
func (g *Guards) file(netNS string) (string, error) {
	dir, name := filepath.Split(netNS)
	if strings.TrimPrefix(dir, "/var") != "/run/netns/" || name == "" {
		return "", fmt.Errorf("network namespace %q is not in /run/netns, where this agent could find it", netNS)
	}
	return filepath.Join(g.cfg.NetNS, name), nil
}

// in runs f in a sandbox's namespace. If that is no more, the error is errGone.
func (g *Guards) in(netNS string, f func() error) error {
	name, err := g.file(netNS)
	if err != nil {
		return err
	}
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(g.cfg.NetNS); err == nil {
			return fmt.Errorf("network namespace %s %w", name, errNoNamespace)
		}
	}
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer file.Close()
	done := make(chan error, 1)
	go func() { // the runtime ends a thread whose goroutine ends locked, so none is left in the wrong namespace
		runtime.LockOSThread()
		done <- enter(file, f)
	}()
	return <-done
}

// enter a namespace and come back, with the thread locked.
func enter(to *os.File, f func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(to.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", to.Name(), err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// locate an interface of the calling thread's namespace.
func locate(name string) (at bpf.Place, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return at, fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if at.Cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
		return at, fmt.Errorf("cookie of the network namespace: %w", err)
	}
	if name == "" {
		return at, nil
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return at, fmt.Errorf("interface %q: %w", name, err)
	}
	switch err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); {
	case errors.Is(err, unix.ENODEV):
		return at, fmt.Errorf("interface %s %w", name, errGone)
	case err != nil:
		return at, fmt.Errorf("interface %s: %w", name, err)
	}
	at.Index = int(ifr.Uint32())
	return at, nil
}

// cookies of all namespaces in the directory.
func (g *Guards) cookies() (map[uint64]bool, error) {
	entries, err := os.ReadDir(g.cfg.NetNS)
	if err != nil {
		return nil, fmt.Errorf("network namespaces: %w", err)
	}
	out := map[uint64]bool{}
	for _, e := range entries {
		err := g.in("/run/netns/"+e.Name(), func() error {
			at, err := locate("")
			out[at.Cookie] = true
			return err
		})
		if err != nil && !errors.Is(err, errGone) && !errors.Is(err, unix.EINVAL) { // a name without a namespace
			return nil, err
		}
	}
	return out, nil
}
