//go:build linux

package trace

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/service"
)

// watch what is in r, until the packet for which last says so, while the pod does.
func (n *node) watch(r Request, last func(report.Packet) bool, do func()) (seen []report.Packet) {
	n.Helper()
	ctx, cancel := context.WithTimeout(n.Context(), 30*time.Second)
	defer cancel()
	ended := make(chan error)
	r.Namespace, r.Pod = "shop", "web-0"
	go n.host.Do(func() {
		ended <- Watch(ctx, n.cfg, r, 1000, func(p report.Packet) error {
			if len(seen) == 0 || !last(seen[len(seen)-1]) { // what comes while it ends is of no account
				seen = append(seen, p)
			}
			if last(p) {
				cancel()
			}
			return nil
		})
	})
	for {
		n.pod.Do(do) // once may be before it watches
		select {
		case err := <-ended:
			must(n.T, err)
			if len(seen) == 0 || !last(seen[len(seen)-1]) {
				n.Fatalf("the last one did not come: %v", seen)
			}
			return seen
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestWatch(t *testing.T) {
	n := newNode(t)
	web := service.Service{Name: "shop/web", Ports: []service.Port{{Frontends: []service.Frontend{frontend("10.96.0.10:80", service.TCP)}}}}
	n.host.Do(func() { must(t, n.proxy.Sync([]service.Service{web})) })
	dial := func(to string) {
		c, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp", to)
		if err == nil {
			_ = c.Close()
			t.Errorf("%s answers", to)
		}
	}
	lines := func(seen []report.Packet) (out []string) {
		for _, p := range seen {
			from, _, _ := strings.Cut(p.From, ":")
			out = append(out, fmt.Sprintf("%s %s %s %s %s", p.At, from, p.Protocol, p.Detail, p.Drop))
		}
		return out
	}

	// Refused by the node: there and back.
	seen := n.watch(Request{To: []service.Frontend{frontend("10.96.0.10:80", service.TCP)}},
		func(p report.Packet) bool { return p.At == "pod receives" && strings.HasPrefix(p.Detail, "RST") },
		func() { dial("10.96.0.11:81"); dial("10.96.0.10:80") })
	for _, want := range []string{"pod sends 10.6.1.1 TCP SYN ", "vmac receives 10.6.1.1 TCP SYN ", "vmac sends 10.96.0.10 TCP RST ACK ", "pod receives 10.96.0.10 TCP RST ACK "} {
		if !slices.Contains(lines(seen), want) {
			t.Errorf("no %q in %q", want, lines(seen))
		}
	}
	for _, p := range seen {
		if p.Protocol == "TCP" && p.From != "10.96.0.10:80" && p.To != "10.96.0.10:80" {
			t.Errorf("not asked for: %+v", p)
		}
	}

	// Dropped, whatever it goes to.
	seen = n.watch(Request{}, func(p report.Packet) bool { return p.Drop != "" }, func() { dial("10.97.0.1:80") })
	if got := lines(seen)[len(seen)-1]; got != "steer drops 10.6.1.1 TCP SYN drop_not_steered" {
		t.Errorf("%q", got)
	}

	// By a rule of Berth's own table, and by the policy of somebody's chain.
	seen = n.watch(Request{To: []service.Frontend{frontend("10.96.0.11:80", service.TCP)}}, func(p report.Packet) bool { return p.Rule != "" }, func() { dial("10.96.0.11:80") })
	if got := seen[len(seen)-1]; got.Rule != "table berth-services, chain unserved" || got.To != "10.96.0.11:80" || got.Protocol != "TCP" || got.At != "rules drop" {
		t.Errorf("%+v", got)
	}
	n.sh(n.host, "nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }'")
	seen = n.watch(Request{}, func(p report.Packet) bool { return p.Rule == "table fw, chain in" }, func() { dial("10.6.0.11:9") })
	if got := seen[len(seen)-1]; got.To != "10.6.0.11:9" || !strings.HasPrefix(got.From, "10.6.1.1:") {
		t.Errorf("%+v", got)
	}
	n.sh(n.host, "test -z \"$(nft list tables | grep berth-watch)\"")

	n.state.Interfaces = nil
	n.host.Do(func() {
		if err := Watch(t.Context(), n.cfg, Request{Namespace: "shop", Pod: "web-0"}, 1, nil); err == nil || !strings.Contains(err.Error(), "has no interface of Berth") {
			t.Error(err)
		}
	})
	n.cfg.Socket += ".none"
	if err := Watch(t.Context(), n.cfg, Request{}, 1, nil); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
}

// Who cannot be told any more ends it.
func TestWatchEnds(t *testing.T) {
	n := newNode(t)
	gone, ended := errors.New("gone"), make(chan error)
	go n.host.Do(func() {
		ended <- Watch(t.Context(), n.cfg, Request{Namespace: "shop", Pod: "web-0"}, 10, func(report.Packet) error { return gone })
	})
	for {
		n.pod.Do(func() {
			if c, err := net.Dial("udp", "10.96.0.10:9"); err == nil {
				_, _ = c.Write([]byte("hello"))
				_ = c.Close()
			}
		})
		select {
		case err := <-ended:
			if !errors.Is(err, gone) {
				t.Error(err)
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}
