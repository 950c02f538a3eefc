//go:build linux

// Package netns gives a test network namespaces of its own, so that it may make links, routes and filters without
// touching the machine's. It needs root.
package netns

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NS is a network namespace that lives as long as the test which made it.
type NS struct {
	t    testing.TB
	file *os.File
}

// New makes an empty namespace with its loopback up. Everything in it disappears at the end of the test, failed or not:
// nothing but the file held here refers to it.
func New(t testing.TB) *NS {
	t.Helper()
	return newFrom(t, nil)
}

// Child is an empty namespace as New makes it, but made by somebody within ns.
func (ns *NS) Child() *NS {
	ns.t.Helper()
	return newFrom(ns.t, ns.file)
}

func newFrom(t testing.TB, parent *os.File) *NS {
	t.Helper()

	type made struct {
		file *os.File
		err  error
	}
	done := make(chan made)
	go func() {
		// Never unlocked: the runtime ends a thread whose goroutine ends locked, so none is left in the new namespace.
		runtime.LockOSThread()
		if parent != nil {
			if err := unix.Setns(int(parent.Fd()), unix.CLONE_NEWNET); err != nil {
				done <- made{err: fmt.Errorf("enter the parent: %w", err)}
				return
			}
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- made{err: fmt.Errorf("unshare (are you root?): %w", err)}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		done <- made{file, err}
	}()
	m := <-done
	if m.err != nil {
		t.Fatalf("new network namespace: %v", m.err)
	}
	ns := &NS{t, m.file}
	t.Cleanup(func() { ns.file.Close() })

	ns.Do(func() {
		if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}}); err != nil {
			t.Fatalf("set lo up: %v", err)
		}
	})
	return ns
}

// Do runs f with the calling goroutine, and its thread, in the namespace. f may end the test, and may call Do of another
// namespace. Goroutines that f starts are elsewhere, and so is /proc/net (use /proc/thread-self/net); /proc/sys/net is right.
func (ns *NS) Do(f func()) {
	ns.t.Helper()
	runtime.LockOSThread()
	before, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		ns.t.Fatalf("current network namespace: %v", err)
	}
	defer before.Close()
	if err := unix.Setns(ns.FD(), unix.CLONE_NEWNET); err != nil {
		ns.t.Fatalf("enter network namespace: %v", err)
	}
	defer func() { // also on t.Fatal, which unwinds f
		if err := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); err != nil {
			// The thread stays locked, so no other goroutine gets to run in the wrong namespace.
			ns.t.Errorf("leave network namespace: %v", err)
			return
		}
		runtime.UnlockOSThread()
	}()
	f()
}

// FD is a descriptor of the namespace, for netlink.LinkSetNsFd and the like.
func (ns *NS) FD() int { return int(ns.file.Fd()) }

// Path names the namespace for those that open it themselves, such as CNI plugins in this process or its children.
func (ns *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.FD()) }
