package nad

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/ipam"
)

var cmpFixed = cmp.Options{cmp.AllowUnexported(fixed{}), cmpAddrs}

func TestIPs(t *testing.T) {
	all := func(list ...string) []fixed { return []fixed{{addrs: addrs(list...)}} }
	most := make([]string, 0, mostFixed)
	for a := netip.MustParseAddr("10.6.0.0"); len(most) < mostFixed; a = a.Next() {
		most = append(most, a.String())
	}
	tests := []struct {
		in   string
		want []fixed
	}{
		{"10.6.1.5", all("10.6.1.5")},
		{" 10.6.1.9, 10.6.1.5-10.6.1.7 ,\n fd00::5", all("10.6.1.9", "10.6.1.5", "10.6.1.6", "10.6.1.7", "fd00::5")},
		{"fd00::ffff - fd00::1:0, 10.6.1.5-10.6.1.5", all("fd00::ffff", "fd00::1:0", "10.6.1.5")},
		{"255.255.255.254-255.255.255.255", all("255.255.255.254", "255.255.255.255")},
		{"10.6.0.0-10.6.3.255", all(most...)},
		{"10.6.0.0-10.6.3.255,fd00::5", all(append(most, "fd00::5")...)},
		{"net1=10.6.1.5, 10.6.1.7;net2 = fd00::5;\n", []fixed{{"net1", addrs("10.6.1.5", "10.6.1.7")}, {"net2", addrs("fd00::5")}}},
		{"net1=10.6.1.5\nnet2=10.6.1.5", []fixed{{"net1", addrs("10.6.1.5")}, {"net2", addrs("10.6.1.5")}}},
	}
	for _, test := range tests {
		got, err := parseIPs(test.in)
		if err != nil {
			t.Errorf("%q: %v", test.in, err)
			continue
		}
		if diff := cmp.Diff(test.want, got, cmpFixed); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.in, diff)
		}
	}
}

func TestByOrdinal(t *testing.T) {
	both := addrs("10.6.1.9", "fd00::9", "10.6.1.5", "fd00::5", "10.6.1.7")
	tests := []struct {
		list    []netip.Addr
		ordinal int
		want    []netip.Addr
		err     string
	}{
		{both, 0, addrs("10.6.1.9", "fd00::9"), ""},
		{both, 1, addrs("10.6.1.5", "fd00::5"), ""},
		{both, 2, nil, "berth.dev/ips has 2 IPv6 addresses, none for ordinal 2; add one"},
		{both, 3, nil, "berth.dev/ips has 3 IPv4 addresses, none for ordinal 3; add one for each ordinal from 0 on, or scale down"},
		{both, -1, nil, "none for ordinal -1"},
		{addrs("fd00::5", "fd00::6"), 1, addrs("fd00::6"), ""},
		{nil, 7, nil, ""},
	}
	for _, test := range tests {
		got, err := ByOrdinal(test.list, test.ordinal)
		if diff := cmp.Diff(test.want, got, cmpAddrs); diff != "" {
			t.Errorf("ByOrdinal(%v, %d) (-want +got):\n%s", test.list, test.ordinal, diff)
		}
		if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("ByOrdinal(%v, %d): %v, want %q", test.list, test.ordinal, err, test.err)
		}
	}
}

// FuzzIPsAnnotation: whatever is accepted names addresses that a lease can have, each once and not too many, means the same when
// written again address by address, and gives each ordinal either another address or an error.
func FuzzIPsAnnotation(f *testing.F) {
	f.Add("10.6.1.5, 10.6.1.8-10.6.1.11, fd00::5")
	f.Add("net1=10.6.1.5,10.6.1.6; net2=fd00::5-fd00::9;")
	f.Add("net1=10.6.1.5\nnet1=10.6.1.6")
	f.Add("0.0.0.0-255.255.255.255")
	f.Add("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	f.Add("255.255.255.254-255.255.255.255,10.6.1.5/24")
	f.Add("::ffff:10.6.1.5, fe80::1%eth0")
	f.Add("10.6.1.9-10.6.1.5,,=")
	f.Fuzz(func(t *testing.T, in string) {
		list, err := parseIPs(in)
		if err != nil {
			return
		}
		var parts []string
		names := map[string]bool{}
		for _, one := range list {
			if names[one.ifName] || (one.ifName == "") != (len(list) == 1 && !strings.Contains(in, "=")) {
				t.Errorf("%q: interface %q", in, one.ifName)
			}
			names[one.ifName] = true
			var words []string
			count := map[ipam.Family]int{}
			seen := map[netip.Addr]bool{}
			for _, a := range one.addrs {
				if seen[a] || a.Is4In6() || a.Zone() != "" {
					t.Errorf("%q: %s", in, a)
				}
				seen[a] = true
				count[ipam.FamilyOf(a)]++
				words = append(words, a.String())
			}
			if len(words) == 0 || count[ipam.IPv4] > mostFixed || count[ipam.IPv6] > mostFixed {
				t.Errorf("%q: %d addresses", in, len(words))
			}
			s := strings.Join(words, ",")
			if one.ifName != "" {
				s = one.ifName + "=" + s
			}
			parts = append(parts, s)
			ordinals(t, one.addrs, count)
		}
		text := strings.Join(parts, ";")
		again, err := parseIPs(text)
		if err != nil {
			t.Fatalf("%q as %q: %v", in, text, err)
		}
		if diff := cmp.Diff(list, again, cmpFixed); diff != "" {
			t.Errorf("%q as %q (-first +again):\n%s", in, text, diff)
		}
	})
}

func ordinals(t *testing.T, list []netip.Addr, count map[ipam.Family]int) {
	t.Helper()
	shortest := mostFixed
	for _, n := range count {
		shortest = min(shortest, n)
	}
	given := map[netip.Addr]bool{}
	for ordinal := range shortest {
		got, err := ByOrdinal(list, ordinal)
		if err != nil || len(got) != len(count) {
			t.Fatalf("ByOrdinal(%v, %d) = %v, %v", list, ordinal, got, err)
		}
		for _, a := range got {
			if given[a] {
				t.Fatalf("ByOrdinal(%v, %d) = %v again", list, ordinal, got)
			}
			given[a] = true
		}
	}
	if got, err := ByOrdinal(list, shortest); err == nil || !strings.Contains(err.Error(), fmt.Sprint("ordinal ", shortest)) {
		t.Fatalf("ByOrdinal(%v, %d) = %v, %v", list, shortest, got, err)
	}
}

// FuzzIdentity: an identity that is accepted can stand in a lease, and is the same when written again.
func FuzzIdentity(f *testing.F) {
	for _, s := range []string{"db-main", " db.main\n", "", "-", "a..b", "Db", "db_main", strings.Repeat("a", 253), strings.Repeat("a", 254), "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		ask, _, err := Resolve(Input{PodAnnotations: kv(IdentityAnnotation, in), IfName: "eth0"})
		if err != nil {
			if !strings.HasPrefix(err.Error(), "pod annotation "+IdentityAnnotation+": ") || ask.Identity != "" {
				t.Errorf("%q: %q, %v", in, ask.Identity, err)
			}
			return
		}
		n := ask.Identity
		if n == "" || len(n) > 253 || strings.Trim(n, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
			t.Errorf("%q: identity %q", in, n)
		}
		if again, _, err := Resolve(Input{PodAnnotations: kv(IdentityAnnotation, n), IfName: "eth0"}); err != nil || again.Identity != n {
			t.Errorf("%q: identity %q, and again %q, %v", in, n, again.Identity, err)
		}
	})
}
