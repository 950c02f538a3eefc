//go:build linux

package path

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/tests/netns"
)

// A parent that is renamed keeps its vmac, which is never without its program meanwhile: its link is the one that it was.
func TestParentRenamed(t *testing.T) {
	netns.NeedTCX(t)
	for _, to := range []string{"a0", "z0"} { // before and after the old name
		c := newCluster(t, 1)
		n := c.nodes[0]
		n.start()
		n.must("sync")
		n.attached(1)
		program := func() link.ID {
			t.Helper()
			l, err := link.LoadPinnedLink(filepath.Join(n.cfg.PinDir, n.vmac().Name, "steer"), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			info, err := l.Info()
			if err != nil {
				t.Fatal(err)
			}
			return info.ID
		}
		before := program()
		n.Do(func() {
			l, err := netlink.LinkByName("eth0")
			if err == nil {
				err = netlink.LinkSetName(l, to)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
		if _, err := n.call(request{Op: "mend"}); err == nil {
			t.Error("the pods' parent is gone, and nothing is wrong")
		}
		replaced := func() int { return strings.Count(n.log.String(), "nftables table replaced") }
		if settled := replaced(); settled > 0 {
			_, _ = n.call(request{Op: "mend"}) // the parent is still gone
			if now := replaced(); now != settled {
				t.Errorf("eth0 is now %s: the tables are made anew by each look", to)
			}
		}
		if after := program(); after != before {
			t.Errorf("eth0 is now %s: its vmac was without its program for a while: link %d became %d", to, before, after)
		}
	}
}
