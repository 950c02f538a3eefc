package plugin

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// readMAC gives the MAC address of an Ethernet link in another network namespace, or "" if either is not there: bridge and
// macvlan have made the link by now, others may not. The address is information for the lease, so nothing fails for want of it.
func readMAC(netns, ifName string) (mac string) {
	inNamespace(netns, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return
		}
		defer unix.Close(fd)
		var req struct { // struct ifreq, with ifr_hwaddr
			name   [unix.IFNAMSIZ]byte
			family uint16
			addr   [22]byte
		}
		copy(req.name[:unix.IFNAMSIZ-1], ifName)
		// One link is asked for: net.InterfaceByName would have the kernel list all.
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFHWADDR, uintptr(unsafe.Pointer(&req)))
		if errno == 0 && req.family == unix.ARPHRD_ETHER {
			mac = hex(req.addr[:6])
		}
	})
	return mac
}

func hex(mac []byte) string {
	var out []byte
	for i, b := range mac {
		if i > 0 {
			out = append(out, ':')
		}
		out = append(out, "0123456789abcdef"[b>>4], "0123456789abcdef"[b&15])
	}
	return string(out)
}

// namespaces says whether a network namespace is there, and whether it is the plugin's own.
func namespaces(netns string) (there, own bool) {
	var a, b unix.Stat_t
	if netns == "" || unix.Stat("/proc/thread-self/ns/net", &a) != nil || unix.Stat(netns, &b) != nil {
		return false, false
	}
	return true, a.Dev == b.Dev && a.Ino == b.Ino
}

// setLinkDown takes a link of another network namespace down, if either is there. It does nothing in the caller's own namespace:
// there the name may be that of the node's own link.
func setLinkDown(netns, ifName string) {
	if there, own := namespaces(netns); !there || own {
		return
	}
	inNamespace(netns, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return
		}
		defer unix.Close(fd)
		var req struct { // struct ifreq, with ifr_flags
			name  [unix.IFNAMSIZ]byte
			flags uint16
			_     [22]byte
		}
		copy(req.name[:unix.IFNAMSIZ-1], ifName)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFFLAGS, uintptr(unsafe.Pointer(&req))); errno != 0 {
			return
		}
		req.flags &^= unix.IFF_UP
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&req)))
	})
}

// skipDetection has a link use its IPv6 addresses at once, without duplicate address detection: the lease has made sure that no other pod
// has the address, and the agent asks the wire for other hosts (package path). The detection would keep the pod without IPv6 for its first
// second or two, and worse: its link-local address may be ready first, and then is the source of connections that no router forwards.
// Optimistic detection (RFC 4429) is no help, as the kernel's is not for addresses that are set by hand, nor for asking for a router.
func skipDetection(netns, ifName string) {
	inNamespace(netns, func() {
		fd, err := unix.Open("/proc/sys/net/ipv6/conf/"+ifName+"/accept_dad", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return // a kernel without IPv6; the main plugin will say so
		}
		_, _ = unix.Write(fd, []byte("0"))
		unix.Close(fd)
	})
}

// inNamespace runs f in another network namespace, if that is there. It takes the calling thread there and back, since starting
// another takes longer than what f does. If there is no way back the thread is never unlocked, and stays in the pod's namespace, where
// the socket of the agent is the same.
func inNamespace(netns string, f func()) {
	if netns == "" {
		return
	}
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return
	}
	defer unix.Close(home)
	defer func() {
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	ns, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(ns)
	if unix.Setns(ns, unix.CLONE_NEWNET) == nil {
		f()
	}
}
