//go:build linux

package proxy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthdev/berth/service"
	"github.com/berthdev/berth/tests/netns"
)

func addrPorts(all ...string) (out []netip.AddrPort) {
	for _, s := range all {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestView(t *testing.T) {
	ns := netns.New(t)
	ns.Do(func() {
		if v, err := Open(); err != nil || v.There() {
			t.Fatalf("before there is a table: %v, %v", v, err)
		}
		started(t, examples()...)
		v, err := Open()
		must(t, err)
		if !v.There() || v.Services() == 0 {
			t.Error("the table is not seen")
		}
		cidrs := prefixes("10.96.0.0/16", "2001:db8:96::/112")
		if faults := v.Faults([]string{"vmac7", "vmac3"}, cidrs); len(faults) != 0 {
			t.Errorf("faults of a table that is right: %q", faults)
		}
		if faults := v.Faults([]string{"vmac3"}, cidrs[:1]); len(faults) != 2 {
			t.Errorf("faults %q, not one for the links and one for the CIDRs", faults)
		}
		var twenty []string
		for i := range 20 {
			twenty = append(twenty, fmt.Sprintf("10.6.1.%d:80", i+1))
		}
		for _, tt := range []struct {
			to    string
			local bool
			want  Answer
		}{
			{to: "10.96.0.10:80", want: Answer{Known: true, Address: true, Backends: addrPorts("10.6.1.1:8080", "10.6.1.2:8080", "10.6.1.3:8080")}},
			{to: "[2001:db8:96::10]:80", want: Answer{Known: true, Address: true, Backends: addrPorts("[2001:db8:6::1]:8080", "[2001:db8:6::2]:8080")}},
			{to: "10.96.0.10:81", want: Answer{Address: true}},
			{to: "10.96.0.99:80", want: Answer{}},
			{to: "10.6.0.11:30080", local: true, want: Answer{Known: true, Backends: addrPorts("10.6.1.1:8080", "10.6.1.2:8080", "10.6.1.3:8080")}},
			{to: "[2001:db8:6::11]:30080", local: true, want: Answer{Known: true, Backends: addrPorts("[2001:db8:6::1]:8080", "[2001:db8:6::2]:8080")}},
			{to: "10.6.0.12:30080", want: Answer{}},
			{to: "10.96.0.11:80", want: Answer{Known: true, Address: true}},
			{to: "192.0.2.1:80", want: Answer{Known: true, Address: true, Drop: true}},
			{to: "192.0.2.2:80", want: Answer{Known: true, Address: true, Sources: true, Backends: addrPorts("10.6.1.1:80")}},
			{to: "10.96.0.13:80", want: Answer{Known: true, Address: true, Affinity: 3 * time.Hour, Backends: addrPorts("10.6.1.1:80", "10.6.1.2:80")}},
			{to: "[2001:db8:96::13]:80", want: Answer{Known: true, Address: true, Affinity: 3 * time.Hour, Backends: addrPorts("[2001:db8:6::1]:80")}},
			{to: "10.96.0.14:80", want: Answer{Known: true, Address: true, Backends: addrPorts(twenty...)}},
		} {
			got, err := v.Lookup(frontends(service.TCP, tt.to)[0], tt.local)
			must(t, err)
			less := cmpopts.SortSlices(func(a, b netip.AddrPort) bool { return a.Compare(b) < 0 })
			if diff := cmp.Diff(tt.want, got, less, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.to, diff)
			}
		}
		nft(t, "", "flush", "chain", "inet", "berth-services", "prerouting")
		v, err = Open()
		must(t, err)
		if faults := v.Faults([]string{"vmac7", "vmac3"}, cidrs); len(faults) != 1 {
			t.Errorf("faults of a flushed chain: %q", faults)
		}
	})
}
