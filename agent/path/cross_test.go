//go:build linux

package path

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/berthdev/berth/bpf"
)

func TestJudge(t *testing.T) {
	pod, other := mac{2, 0, 0, 0, 0, 1}, mac{2, 0, 0, 0, 0, 2}
	a4, a6 := addr("10.6.1.1"), addr("2001:db8:6::1")
	known := []bpf.Endpoint{{Address: a4, MAC: pod}, {Address: a6, MAC: pod}}
	steered := map[netip.Prefix]bpf.Class{
		netip.MustParsePrefix("10.0.0.0/8"): bpf.ClassUser, netip.MustParsePrefix("10.96.0.0/16"): bpf.ClassService,
		netip.MustParsePrefix("2001:db8:96::/112"): bpf.ClassService, netip.MustParsePrefix("::/0"): bpf.ClassUser,
		netip.MustParsePrefix("169.254.0.0/16"): bpf.ClassUser,
	}
	for _, tt := range []struct {
		from    netip.Addr
		m       mac
		to      string
		verdict string
		class   bpf.Class
	}{
		{a4, pod, "10.96.0.10", "steered_ipv4", bpf.ClassService},
		{a4, pod, "10.1.0.10", "steered_ipv4", bpf.ClassUser},
		{a6, pod, "2001:db8:96::10", "steered_ipv6", bpf.ClassService},
		{a4, other, "10.96.0.10", "drop_spoofed_mac", bpf.ClassService},
		{addr("10.6.1.9"), pod, "10.96.0.10", "drop_spoofed_address", bpf.ClassService},
		{a4, pod, "192.0.2.1", "drop_not_steered", 0},
		{a4, pod, "169.254.1.1", "drop_not_steered", bpf.ClassUser},
		{a6, pod, "fe80::1", "drop_not_steered", bpf.ClassUser},
	} {
		var c Crossing
		c.judge(tt.from, tt.m, addr("%s", tt.to), known, steered)
		if c.Verdict != tt.verdict || c.Class != tt.class || (c.Why == "") != (tt.verdict[:4] == "stee") {
			t.Errorf("%s (%s) to %s: %+v, want %s, %s", tt.from, tt.m, tt.to, c, tt.verdict, tt.class)
		}
		if !slices.Contains(bpf.Reasons(), c.Verdict) {
			t.Errorf("%s is no counter", c.Verdict)
		}
	}
}

// TestSeenAs compares what is said with what servers of each kind see.
func TestSeenAs(t *testing.T) {
	w := newTwoNodes(t)
	w.n1.must("sync", append(w.client.endpoints(), w.neighbour.endpoints()...)...)
	for i, k := range w.kinds() {
		serve(t, k.ns, k.server...)
		vips := w.n1.service(i+1, k.server)
		for family, to := range k.server {
			res, err := w.n1.call(request{Op: "seen as", Addresses: []netip.Addr{w.client.addrs[family], to}})
			if err != nil {
				t.Errorf("%s: %v", k.name, err)
				continue
			}
			seen, err := ask(w.client.NS, "tcp", vips[family])
			if err != nil {
				t.Errorf("%s: %v", k.name, err)
				continue
			}
			if !slices.Contains(res.Source.Addresses, seen) || res.Source.Own != (seen == w.client.addrs[family]) {
				t.Errorf("%s, %s: seen as %s, said to be %+v", k.name, to, seen, res.Source)
			}
		}
	}
	run(t, w.n1.NS, "nft flush table inet berth", "sh", "-e")
	if _, err := w.n1.call(request{Op: "seen as", Addresses: []netip.Addr{w.client.addrs[0], addr("10.6.0.12")}}); err == nil {
		t.Error("with a table that is not as wanted, the source is said all the same")
	}
}
