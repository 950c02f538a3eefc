//go:build linux

package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// iptables-legacy has its rules in tables of the kernel that nftables does not see. The only way to them is the socket options that
// its binary uses; they are part of the kernel's interface (linux/netfilter_ipv4/ip_tables.h, ip6_tables.h have the same).
type legacyFamily struct {
	domain, level int
	names         string // tables that there are
}

// To ask for a table makes the kernel load it, and from then on each packet goes through it. So the names are looked at first.
var legacyFamilies = [2]legacyFamily{
	{unix.AF_INET, unix.SOL_IP, "/proc/thread-self/net/ip_tables_names"},
	{unix.AF_INET6, unix.SOL_IPV6, "/proc/thread-self/net/ip6_tables_names"},
}

const (
	soGetInfo    = 64 // IPT_SO_GET_INFO
	soGetEntries = 65 // IPT_SO_GET_ENTRIES
	sizeofInfo   = 84 // struct ipt_getinfo: name, valid_hooks, hook_entry[5], underflow[5], num_entries, size
	sizeofHead   = 40 // struct ipt_get_entries before its entries
)

// legacyNAT remembers what the table nat looked like, since to read it is to copy all of it.
type legacyNAT struct {
	size uint32 // of the table that was read; 0 for none
	has  bool
}

// big is a table that is not read when it need not be. With 10,000 Services it has some 50 MB, and changes with each endpoint.
const big = 1 << 20

// hasChain says whether the table nat has a chain of that name. A big table that had it, and is not down to half, has it still; one
// of the size of the last is the last.
func (l *legacyNAT) hasChain(family legacyFamily, chain string) (bool, error) {
	names, err := os.ReadFile(family.names)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !slices.Contains(strings.Fields(string(names)), "nat") {
		*l = legacyNAT{}
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("names of iptables-legacy's tables: %w", err)
	}
	sock, err := unix.Socket(family.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false, fmt.Errorf("socket for iptables-legacy's tables: %w", err)
	}
	defer unix.Close(sock)
	for range 10 {
		info := make([]byte, sizeofInfo)
		copy(info, "nat")
		if err := getsockopt(sock, family.level, soGetInfo, info); err != nil {
			return false, fmt.Errorf("iptables-legacy's table nat: %w", err)
		}
		size := binary.NativeEndian.Uint32(info[sizeofInfo-4:])
		if size > big && (l.size == size || l.has && size > l.size/2) {
			return l.has, nil
		}
		table := make([]byte, sizeofHead+int(size))
		copy(table, "nat")
		binary.NativeEndian.PutUint32(table[32:], size)
		switch err := getsockopt(sock, family.level, soGetEntries, table); {
		case errors.Is(err, unix.EAGAIN): // changed since
		case err != nil:
			return false, fmt.Errorf("entries of iptables-legacy's table nat: %w", err)
		default:
			// A name is where its chain begins; who goes there has only the offset.
			*l = legacyNAT{size, bytes.Contains(table, append([]byte(chain), 0))}
			return l.has, nil
		}
	}
	return false, errors.New("iptables-legacy's table nat changes too fast to be read")
}

func getsockopt(sock, level, option int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(sock), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
