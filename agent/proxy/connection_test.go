//go:build linux

package proxy

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/service"
	"github.com/berthdev/berth/tests/netns"
)

// TestConnection: all transactions go by one socket, which is closed after an error only, and however big one is, the next is told its own
// outcome.
func TestConnection(t *testing.T) {
	netns.New(t).Do(func() {
		p := started(t, examples()...)
		first := sockets(t)
		if len(first) != 1 {
			t.Fatalf("sockets %v, want one", first)
		}
		for i, n := range []int{1, 100, 1000} {
			must(t, p.Set(many(n, 5+i)...))
			if now := sockets(t); !slices.Equal(now, first) {
				t.Fatalf("sockets %v after %d Services, want %v", now, n, first)
			}
		}
		nft(t, "", "delete", "table", "inet", "berth-services")
		if err := p.Set(oneOfMany(1, 1)); !errors.Is(err, unix.ENOENT) {
			t.Errorf("without the table: %v, want ENOENT", err)
		}
		if now := sockets(t); len(now) != 0 {
			t.Errorf("sockets %v are kept after an error", now)
		}
		must(t, p.Set(oneOfMany(1, 2)))
		got, _, err := read()
		must(t, err)
		if f := (service.Frontend{Address: oneOfMany(1, 1).Ports[0].Frontends[0].Address, Port: 80, Protocol: service.TCP}); got.frontends[f] == "" {
			t.Errorf("%s is not there", f)
		}
		must(t, p.Remove())
	})
}

// sockets of user space in this namespace, by inode.
func sockets(t *testing.T) (inodes []string) {
	t.Helper()
	table, err := os.ReadFile("/proc/thread-self/net/netlink")
	must(t, err)
	for _, line := range strings.Split(string(table), "\n") {
		// sk, protocol, port, groups, rmem, wmem, dump, locks, drops, inode
		if f := strings.Fields(line); len(f) == 10 && f[1] == strconv.Itoa(unix.NETLINK_NETFILTER) && f[2] != "0" {
			inodes = append(inodes, f[9])
		}
	}
	return inodes
}
