//go:build linux

package links

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/tests/netns"
)

// TestUndone: the new way leads nowhere, though its link is up. The node comes back by itself.
func TestUndone(t *testing.T) {
	netns.NeedBond(t)
	w := newWire(t)
	n := w.node(1)
	before := n.picture()
	ip(t, w.NS, "link set %s nomaster\n", n.port(1)) // plugged in, and wrongly
	h := hostNetwork(t, "uplink", strings.Replace(moving, "primary: nic0", "primary: nic1", 1))
	a := n.start()
	a.set(h)
	a.await(h, v1alpha1.LinksUndone, "the API server was not reached for 15s after this change, which was undone")
	n.looks(t, 10*time.Second, "as before", before)
	if err := reaches(n.NS, apiServer); err != nil {
		t.Error(err)
	}
	for rounds := a.rounds(); a.rounds() < rounds+3; {
		time.Sleep(50 * time.Millisecond)
	}
	if got := strings.Count(a.log.String(), `msg="changing links"`); got != 1 {
		t.Errorf("begun %d times", got)
	}

	t.Run("not by the next agent either", func(t *testing.T) {
		a.quit()
		a = n.start()
		a.set(h)
		a.await(h, v1alpha1.LinksUndone, "")
		if got := strings.Count(a.log.String(), `msg="changing links"`); got != 0 {
			t.Errorf("begun %d times", got)
		}
	})
	t.Run("another spec", func(t *testing.T) {
		h = edited(t, h, moving)
		a.set(h)
		a.await(h, v1alpha1.LinksReady, "")
		if err := reaches(n.NS, apiServer); err != nil {
			t.Error(err)
		}
	})
	t.Run("a worse one", func(t *testing.T) {
		want := n.picture()
		h = edited(t, h, strings.Replace(moving, "primary: nic0", "primary: nic1", 1))
		a.set(h)
		a.await(h, v1alpha1.LinksUndone, "")
		n.looks(t, 10*time.Second, "as before", want)
		eventually(t, 10*time.Second, "API server", func() error { return reaches(n.NS, apiServer) })
	})
}

// TestKilled: whenever an agent is killed, the next one finds what was before, and leaves it at that.
func TestKilled(t *testing.T) {
	netns.NeedBond(t)
	netns.NeedVLAN(t)
	w := newWire(t)
	n := w.node(1)
	before := n.picture()
	h := hostNetwork(t, "uplink", moving)
	died := 0
	for at := 1; ; at++ {
		n.cfg.DieAt = at
		a := n.start()
		a.set(h)
		eventually(t, 60*time.Second, "end or success", func() error {
			select {
			case <-a.done:
				return nil
			default:
			}
			if s := a.state("uplink"); s != nil && s.Ready {
				return nil
			}
			return fmt.Errorf("neither")
		})
		if s := a.state("uplink"); s != nil && s.Ready {
			a.kill()
			break
		}
		a.wait()
		died++
		n.cfg.DieAt = 0
		a = n.start()
		a.set(h)
		a.await(h, v1alpha1.LinksUndone, "the agent ended before it was known that the API server is reached")
		n.looks(t, 10*time.Second, fmt.Sprintf("killed before operation %d", at), before)
		if err := reaches(n.NS, apiServer); err != nil {
			t.Fatalf("killed before operation %d: %v", at, err)
		}
		a.quit()
		h = edited(t, h, moving)
	}
	if died < 8 {
		t.Errorf("only %d times killed", died)
	}

	t.Run("while it waits for the API server", func(t *testing.T) {
		ip(t, n.NS, "link del bond0\n")
		restoreNode(n)
		n.looks(t, 10*time.Second, "as before", before)
		n.cfg.DieAt = 0
		h = edited(t, h, strings.Replace(moving, "primary: nic0", "primary: nic1", 1))
		ip(t, w.NS, "link set %s nomaster\n", n.port(1))
		a := n.start()
		a.set(h)
		eventually(t, 30*time.Second, "cut off", func() error {
			if err := reaches(n.NS, apiServer); err == nil {
				return fmt.Errorf("still reached")
			}
			return nil
		})
		a.kill()
		if got := n.picture(); got == before {
			t.Fatal("nothing was in the way")
		}
		n.start()
		n.looks(t, 30*time.Second, "as before", before)
	})
	t.Run("ended in peace while it waits", func(t *testing.T) {
		h = edited(t, h, strings.Replace(moving, "primary: nic0", "primary: nic1", 1))
		a := n.start()
		a.set(h)
		eventually(t, 30*time.Second, "changed", func() error {
			if got := n.picture(); !strings.Contains(got, "bond0") {
				return fmt.Errorf("not yet")
			}
			return nil
		})
		a.quit()
		n.looks(t, 10*time.Second, "as before", before)
		r, err := readRecord(n.cfg.File)
		if err != nil || r.Change != nil || len(r.Failed) != 0 {
			t.Errorf("record %+v, %v: the next agent is to try again", r, err)
		}
	})
}

// restoreNode as newWire's node has it, after a bond with all of it was deleted.
func restoreNode(n *node) {
	n.t.Helper()
	ip(n.t, n.NS, "link set nic0 up\nlink set nic1 up\naddress add 10.9.0.1%d/24 dev nic0\naddress add 2001:db8:9::1%d/64 dev nic0 nodad\n"+
		"route add default via 10.9.0.254\nroute add 10.50.0.0/16 via 10.9.0.253 metric 77\nroute add default via 2001:db8:9::ffff\n"+
		"route add 10.60.0.0/16 dev nic0 table 100 proto 44\n", n.n, n.n)
}

// TestAway: without the API server nothing is begun, but what was proven is mended.
func TestAway(t *testing.T) {
	netns.NeedBond(t)
	w := newWire(t)
	n := w.node(1)
	h := hostNetwork(t, "trunk", `{bond: {name: bond0, members: [nic1, nic2]}}`)
	ip(t, w.NS, "link set br0 down\n")
	before := n.picture()
	a := n.start()
	a.set(h)
	a.await(h, v1alpha1.LinksFailed, "the API server is not reached from this node, so no change is begun")
	n.looks(t, 10*time.Second, "as before", before)
	ip(t, w.NS, "link set br0 up\n")
	a.await(h, v1alpha1.LinksReady, "")
	want := n.picture()
	ip(t, w.NS, "link set br0 down\n")
	ip(t, n.NS, "link set nic1 nomaster\n")
	n.looks(t, 30*time.Second, "mended", want)
}

// TestPutBack: addresses and routes that a link loses when it is set down come back as they were, with all that they say.
func TestPutBack(t *testing.T) {
	w := newWire(t)
	n := w.node(1)
	ip(t, n.NS, "address add 10.9.1.7/32 dev nic0 label nic0:vip\naddress add 10.9.2.7/24 dev nic0 brd 10.9.2.255 valid_lft 9000 preferred_lft 8000\n"+
		"route add 10.70.0.0/16 via 10.9.9.9 dev nic0 onlink src 10.9.0.11 mtu 1400 advmss 1300\nroute add 2001:db8:70::/64 via 2001:db8:9::fe dev nic0 metric 50 expires 5000\n")
	cut := func(s string) string { // seconds count down
		var out []string
		for line := range strings.Lines(s) {
			for _, word := range []string{" expires", " valid_lft", " preferred_lft"} {
				line, _, _ = strings.Cut(line, word)
			}
			out = append(out, strings.TrimSpace(line))
		}
		return strings.Join(out, "\n")
	}
	before := cut(n.picture())
	n.Do(func() {
		k, err := openKernel(n.cfg.NetNS)
		if err != nil {
			t.Fatal(err)
		}
		defer k.close()
		now, err := k.observe()
		if err != nil {
			t.Fatal(err)
		}
		s, err := k.take([]op{{Verb: setDown, Link: "nic0"}}, now)
		if err != nil {
			t.Fatal(err)
		}
		ip(t, n.NS, "link set nic0 down\n")
		if cut(n.picture()) == before {
			t.Fatal("nothing was lost")
		}
		for range 2 { // again does no harm
			for _, verb := range []verb{setUp, restore} {
				if err := k.do(op{Verb: verb, Link: "nic0"}, s); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	eventually(t, 10*time.Second, "as before", func() error {
		if got := cut(n.picture()); got != before {
			return fmt.Errorf("(-before +after):\n%s", cmp.Diff(before, got))
		}
		return nil
	})
	if got := run(t, n.NS, "", "ip", "-6", "route", "show", "2001:db8:70::/64"); !strings.Contains(got, "expires") {
		t.Errorf("it lives for ever now: %s", got)
	}
}
