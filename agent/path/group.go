//go:build linux

package path

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// solicitedNode is the Ethernet address of an IPv6 address's solicited-node group (RFC 4291 2.7.1, RFC 2464 7).
func solicitedNode(a netip.Addr) mac {
	b := a.As16()
	return mac{0x33, 0x33, 0xff, b[13], b[14], b[15]}
}

// groups are the solicited-node groups that a link was made a member of by SIOCADDMULTI, ours or someone's. Such a membership
// belongs to the link and outlives this process, unlike one of a packet socket; the kernel's own have global_use 0.
func (k *kernel) groups(link int) (map[mac]bool, error) {
	f, err := os.Open("/proc/thread-self/net/dev_mcast")
	if err != nil {
		return nil, fmt.Errorf("list multicast groups: %w", err)
	}
	defer f.Close()
	return parseGroups(f, link)
}

// parseGroups reads lines of "ifindex name references global_use address".
func parseGroups(r io.Reader, link int) (map[mac]bool, error) {
	groups := map[mac]bool{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 5 || f[0] != strconv.Itoa(link) || f[3] == "0" {
			continue
		}
		address, err := hex.DecodeString(f[4])
		if err != nil || len(address) != len(mac{}) || !bytes.HasPrefix(address, []byte{0x33, 0x33, 0xff}) {
			continue
		}
		groups[mac(address)] = true
	}
	return groups, lines.Err()
}

func (k *kernel) joinGroup(link string, group mac) error {
	if err := multicast(unix.SIOCADDMULTI, link, group); err != nil {
		return fmt.Errorf("join group %s: %w", group, err)
	}
	return nil
}

func (k *kernel) leaveGroup(link string, group mac) error {
	if err := multicast(unix.SIOCDELMULTI, link, group); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("leave group %s: %w", group, err)
	}
	return nil
}

func multicast(request uint, link string, group mac) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	var ifreq struct { // netdevice(7), with ifr_hwaddr
		name   [unix.IFNAMSIZ]byte
		family uint16
		data   [22]byte
	}
	copy(ifreq.name[:unix.IFNAMSIZ-1], link)
	copy(ifreq.data[:], group[:])
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), uintptr(request), uintptr(unsafe.Pointer(&ifreq))); errno != 0 {
		return errno
	}
	return nil
}
