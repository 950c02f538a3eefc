package delegate

import (
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// readMAC gives the MAC address of a link in another network namespace, or "" if either is not there: bridge and macvlan
// have made the link by now, others may not. The address is information for the lease, so nothing fails for want of it.
func readMAC(netns, ifName string) string {
	if netns == "" {
		return ""
	}
	done := make(chan string, 1)
	go func() {
		mac := ""
		defer func() {
			_ = recover() // out of Main's reach here
			done <- mac
		}()
		// Never unlocked: the runtime ends the thread with the goroutine, so none stays in the pod's namespace.
		runtime.LockOSThread()
		ns, err := os.Open(netns)
		if err != nil {
			return
		}
		defer ns.Close()
		if unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET) != nil {
			return
		}
		if link, err := net.InterfaceByName(ifName); err == nil {
			mac = link.HardwareAddr.String()
		}
	}()
	return <-done
}
