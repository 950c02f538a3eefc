package sock

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Cookie is that of the network namespace with the path, as the programs see it: no other has it until the node boots.
func Cookie(netns string) (cookie uint64, err error) {
	err = Within(netns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		if err != nil {
			return fmt.Errorf("socket option SO_NETNS_COOKIE: %w", err)
		}
		return nil
	})
	return cookie, err
}

// Within runs f in the network namespace, on a thread of its own that ends with it.
func Within(netns string, f func() error) error {
	ns, err := os.Open(netns)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer ns.Close()
	done := make(chan error)
	go func() { done <- onThread(int(ns.Fd()), f) }()
	if err := <-done; err != nil {
		return fmt.Errorf("in network namespace %s: %w", netns, err)
	}
	return nil
}

// onThread locks its thread and never unlocks it: the runtime ends a thread whose goroutine ends locked, so that none is left in the
// namespace. It has to be called in a goroutine of its own.
func onThread(ns int, f func() error) error {
	runtime.LockOSThread()
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter: %w", err)
	}
	return f()
}
