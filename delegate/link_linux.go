package delegate

import (
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// prepareLink gives the MAC address of a link in another network namespace, or "" if either is not there: bridge and macvlan
// have made the link by now, others may not. The address is information for the lease, so nothing fails for want of it.
//
// It also lets the link use its IPv6 addresses while duplicate address detection still runs (RFC 4429), which otherwise
// keeps a pod without IPv6 for its first second or two. Kernels without CONFIG_IPV6_OPTIMISTIC_DAD do not have the settings.
func prepareLink(netns, ifName string) string {
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
			for _, setting := range []string{"optimistic_dad", "use_optimistic"} {
				_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+ifName+"/"+setting, []byte("1"), 0)
			}
		}
	}()
	return <-done
}
