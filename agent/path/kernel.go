//go:build linux

package path

import (
	"errors"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kernel is the routing netlink of the network namespace that it was opened in.
type kernel struct {
	*netlink.Handle
	// strict makes the kernel itself apply the filters of a dump. A node may have a routing table of the whole Internet.
	strict *netlink.Handle
}

func openKernel() (*kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	strict, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		h.Close()
		return nil, err
	}
	if err := strict.SetStrictCheck(true); err != nil {
		h.Close()
		strict.Close()
		return nil, err
	}
	return &kernel{h, strict}, nil
}

func (k *kernel) close() {
	k.Handle.Close()
	k.strict.Close()
}

// retry repeats a dump that the kernel says was disturbed by a change in its middle, and so may lack entries.
func retry[T any](dump func() (T, error)) (T, error) {
	for i := 0; ; i++ {
		got, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || i == 10 {
			return got, err
		}
	}
}
