//go:build linux

package doctor

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/berthdev/berth/agent/guards"
	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/agent/state"
	"github.com/berthdev/berth/bpf"
	"github.com/berthdev/berth/bpf/sock"
	"github.com/berthdev/berth/tests/netns"
)

// TestGuards: a pod whose source guard is the real one, and what breaks it.
func TestGuards(t *testing.T) {
	leases := []netip.Addr{netip.MustParseAddr("10.6.1.2"), netip.MustParseAddr("10.6.1.1"), netip.MustParseAddr("10.6.1.3"), netip.MustParseAddr("2001:db8:6::1")}
	allowed := []netip.Prefix{netip.MustParsePrefix("10.7.0.0/16")}
	const unfenced = "warn pods can go around their source guard"
	for _, tt := range []struct {
		name    string
		breakIt func(f *fixture, pod *netns.NS, g *bpf.SourceGuard, at bpf.Place)
		want    []string // beginnings
		fenced  []string // besides, where the kernel takes a fence
	}{
		{"all is well", func(*fixture, *netns.NS, *bpf.SourceGuard, bpf.Place) {}, nil, nil},
		{"not guarded by wish", func(f *fixture, pod *netns.NS, g *bpf.SourceGuard, at bpf.Place) {
			f.state.Interfaces[0].Guard = nil
			pod.Do(func() { must(f.T, g.Release(at)) })
		}, nil, nil},
		{"taken off", func(f *fixture, pod *netns.NS, g *bpf.SourceGuard, at bpf.Place) {
			pod.Do(func() { must(f.T, g.Release(at)) })
			must(f.T, g.Put(at, bpf.Source{MAC: [6]byte{2, 5: 1}, Addresses: leases, Prefixes: allowed}))
		}, []string{"fail pod shop/web-0, net1: no program of the source guard is at its egress"}, nil},
		{"forgotten", func(f *fixture, _ *netns.NS, g *bpf.SourceGuard, at bpf.Place) { must(f.T, g.Delete(at)) },
			[]string{"fail pod shop/web-0, net1: its program knows nothing of it"}, []string{"fail pod shop/web-0, net1: its namespace is not within the fence"}},
		{"another MAC", func(f *fixture, _ *netns.NS, g *bpf.SourceGuard, at bpf.Place) {
			must(f.T, g.Put(at, bpf.Source{MAC: [6]byte{2, 5: 9}, Addresses: leases, Prefixes: allowed}))
		}, []string{"fail pod shop/web-0, net1: its program lets it send as MAC 020000000009, not 020000000001"}, nil},
		{"another address", func(f *fixture, _ *netns.NS, g *bpf.SourceGuard, at bpf.Place) {
			must(f.T, g.Put(at, bpf.Source{MAC: [6]byte{2, 5: 1}, Addresses: append([]netip.Addr{netip.MustParseAddr("10.6.9.9")}, leases[1:]...), Prefixes: allowed}))
		}, []string{"fail pod shop/web-0, net1: its program lets it send"}, nil},
		{"fewer prefixes", func(f *fixture, _ *netns.NS, g *bpf.SourceGuard, at bpf.Place) {
			must(f.T, g.Put(at, bpf.Source{MAC: [6]byte{2, 5: 1}, Addresses: leases}))
		}, []string{"fail pod shop/web-0, net1: its program does not know all"}, nil},
		{"other leases", func(f *fixture, _ *netns.NS, _ *bpf.SourceGuard, _ bpf.Place) {
			f.state.Interfaces[0].Addresses = leases[:1]
		},
			[]string{"fail pod shop/web-0, net1: its guard is of 10.6.1.2, 10.6.1.1"}, nil},
		{"no pins", func(f *fixture, _ *netns.NS, _ *bpf.SourceGuard, _ bpf.Place) {
			must(f.T, bpf.RemoveSourceGuard(f.cfg.Path.PinDir))
		},
			[]string{"fail pod shop/web-0, net1: it is to be guarded, and is not"}, []string{unfenced}},
		{"a second link", func(f *fixture, pod *netns.NS, _ *bpf.SourceGuard, _ bpf.Place) {
			f.sh(fmt.Sprintf("ip link add round link eth0 netns /proc/%d/fd/%d type macvlan mode bridge", os.Getpid(), pod.FD()))
		}, []string{"warn pod shop/web-0, net1: there is a macvlan link round in its namespace"}, nil},
		{"renamed", func(f *fixture, pod *netns.NS, _ *bpf.SourceGuard, _ bpf.Place) {
			(&fixture{T: f.T, ns: pod}).sh("ip link set net1 name other")
		}, []string{"warn pod shop/web-0, net1: there is no such interface", "warn pod shop/web-0, net1: there is a macvlan link other"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			pod := netns.New(t)
			f.sh("ip link add eth0 type veth peer name wire; ip link set eth0 up; ip link set wire up")
			f.sh(fmt.Sprintf("ip link add net1 link eth0 address 02:00:00:00:00:01 netns /proc/%d/fd/%d type macvlan mode bridge", os.Getpid(), pod.FD()))
			must(t, os.Remove(f.cfg.NetNS+"/cni-1"))
			must(t, os.Symlink(pod.Path(), f.cfg.NetNS+"/cni-1"))
			i := &f.state.Interfaces[0]
			i.Parent, i.MAC = "eth0", "02:00:00:00:00:01"
			i.Addresses = leases
			i.Guard = &state.Guard{Addresses: leases, Allowed: allowed}
			g := guards.New(guards.Config{PinDir: f.cfg.Path.PinDir, NetNS: f.cfg.NetNS}, func(guards.Interface, guards.Refused) {}, slog.New(slog.DiscardHandler))
			t.Cleanup(func() { _ = g.Close() })
			must(t, g.Attach(guards.Interface{ContainerID: "c", Name: "net1", NetNS: i.NetNS, Parent: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1},
				Addresses: leases, Guarded: true, Allowed: allowed}))
			cookie, err := sock.Cookie(pod.Path())
			must(t, err)
			raw, err := bpf.OpenSourceGuard(f.cfg.Path.PinDir, false)
			must(t, err)
			t.Cleanup(func() { _ = raw.Close() })
			at := g.Interfaces()[0]
			if at.Cookie != cookie {
				t.Errorf("cookies: %d, %d", at.Cookie, cookie)
			}
			f.T = t
			tt.breakIt(f, pod, raw, bpf.Place{Cookie: at.Cookie, Index: at.Index})
			want := slices.Concat(tt.want, tt.fenced)
			if raw.Unfenced() != nil && i.Guard != nil {
				want = append(slices.Clone(tt.want), unfenced)
			}
			var got []string
			for _, one := range examineGuards(f.cfg, f.state) {
				if one.Severity == report.OK {
					continue
				}
				got = append(got, fmt.Sprintf("%s %s", one.Severity, one.What))
				if one.Remedy == "" {
					t.Errorf("no remedy for %q", one.What)
				}
			}
			if !slices.EqualFunc(got, want, strings.HasPrefix) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}
