package nad

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var cmpEntries = cmp.AllowUnexported(entry{}, pools{})

// formatPools writes entries as people do: all in the short form, or all in JSON.
func formatPools(entries []entry) string {
	if entries[0].any != nil {
		var parts []string
		for _, e := range entries {
			parts = append(parts, e.ifName+"="+strings.Join(e.any, ","))
		}
		return strings.Join(parts, "; ")
	}
	var list []map[string]any
	for _, e := range entries {
		m := map[string]any{"interface": e.ifName, "ipv4": e.ipv4, "ipv6": e.ipv6}
		if e.noDefaultRoute != nil {
			m["cleangateway"] = *e.noDefaultRoute
		}
		list = append(list, m)
	}
	text, err := json.Marshal(list)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// TestPoolsFormat: what was written is read back.
func TestPoolsFormat(t *testing.T) {
	pool := rapid.StringMatching(`[a-z0-9*?][a-z0-9.*?-]{0,10}`)
	names := func(t *rapid.T, least int) []string {
		list := rapid.SliceOfNDistinct(pool, least, 4, rapid.ID[string]).Draw(t, "pools")
		if len(list) == 0 {
			return nil
		}
		return list
	}
	rapid.Check(t, func(t *rapid.T) {
		short := rapid.Bool().Draw(t, "short")
		var want []entry
		for i := range rapid.IntRange(1, 4).Draw(t, "entries") {
			e := entry{ifName: fmt.Sprintf("net%d", i)}
			if short {
				e.any = names(t, 1)
			} else {
				e.ipv4 = names(t, 1)
				e.ipv6 = names(t, 0)
				if rapid.Bool().Draw(t, "says cleangateway") {
					v := rapid.Bool().Draw(t, "cleangateway")
					e.noDefaultRoute = &v
				}
			}
			want = append(want, e)
		}
		s := formatPools(want)
		got, err := parsePools(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if diff := cmp.Diff(want, got, cmpEntries); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s, diff)
		}
	})
}

// FuzzPoolsAnnotation: whatever is accepted means something, and means the same when written again.
func FuzzPoolsAnnotation(f *testing.F) {
	f.Add("net1=zone-a,zone-b; net2=store;")
	f.Add("zone-a, [ab]-zone")
	f.Add(`{"ipv4":["a"],"ipv6":["b-*"]}`)
	f.Add(`[{"interface":"net1","ipv4":["a"],"cleangateway":true}]`)
	f.Add(`[{"ipv4":["a"]},{"ipv6":["b"]}]`)
	f.Fuzz(func(t *testing.T, in string) {
		if p, err := parsePool(in); err == nil && p.any == nil && p.ipv4 == nil && p.ipv6 == nil {
			t.Errorf("%q names no pool", in)
		}
		entries, err := parsePools(in)
		if err != nil {
			return
		}
		again, err := parsePools(formatPools(entries))
		if err != nil {
			t.Fatalf("%q as %q: %v", in, formatPools(entries), err)
		}
		if diff := cmp.Diff(entries, again, cmpEntries); diff != "" {
			t.Errorf("%q (-first +again):\n%s", in, diff)
		}
	})
}

// FuzzRoutesAnnotation: whatever is accepted is a list of routes with a next hop of the same family each, means the same when
// written again in either form, and the same in Spiderpool's annotation as in Berth's.
func FuzzRoutesAnnotation(f *testing.F) {
	f.Add("10.0.0.0/16 via 192.168.1.1; fd00:1::/64 via fd00::1;")
	f.Add("10.0.0.0/16 via 192.168.1.1\n10.1.0.7 via ::ffff:192.168.1.1")
	f.Add("default via 192.168.1.1")
	f.Add("0.0.0.0/0 via 0.0.0.0; ::/0 via fe80::1%eth0")
	f.Add(`[{"dst":"10.0.0.0/16","gw":"192.168.1.1"},{"dst":"fd00:1::1","gw":"fe80::1"}]`)
	f.Add(`[{"dst":"10.0.1.7/16","gw":"fd00::1"}]`)
	f.Add(`[{"dst":"10.0.0.0/16"}]`)
	f.Add(`[{"dst":"10.0.0.0/16","gw":"192.168.1.1","via":"x"}] x`)
	f.Add(`[null]`)
	f.Fuzz(func(t *testing.T, in string) {
		native, _, err := Resolve(Input{PodAnnotations: kv(RoutesAnnotation, in), IfName: "eth0"})
		foreign, _, foreignErr := Resolve(Input{PodAnnotations: kv(spiderRoutes, in), IfName: "eth0"})
		if (err == nil) != (foreignErr == nil) {
			t.Fatalf("%q: %v in one annotation, %v in the other", in, err, foreignErr)
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), "pod annotation "+RoutesAnnotation+": ") {
				t.Errorf("%q: %v", in, err)
			}
			return
		}
		if diff := cmp.Diff(native, foreign, cmpAddrs); diff != "" {
			t.Errorf("%q (-native +foreign):\n%s", in, diff)
		}
		if len(native.Routes) == 0 {
			t.Errorf("%q: no route", in)
		}
		var short []string
		var list []map[string]string
		for _, r := range native.Routes {
			if !r.ByPod || !r.Dst.IsValid() || r.Dst != r.Dst.Masked() || r.GW.Zone() != "" || r.Dst.Addr().Is4() != r.GW.Is4() || r.GW.Is4In6() {
				t.Errorf("%q: route %v", in, r)
			}
			short = append(short, r.Dst.String()+" via "+r.GW.String())
			list = append(list, map[string]string{"dst": r.Dst.String(), "gw": r.GW.String()})
		}
		long, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{strings.Join(short, ";"), string(long)} {
			again, err := parseRoutes(s)
			if err != nil {
				t.Fatalf("%q as %q: %v", in, s, err)
			}
			if diff := cmp.Diff(native.Routes, again, cmpAddrs); diff != "" {
				t.Errorf("%q as %q (-first +again):\n%s", in, s, diff)
			}
		}
	})
}

func manyAddresses(n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("10.6.0.%d", i))
	}
	return strings.Join(out, ", ")
}

// FuzzAllowedAnnotation: what is accepted are prefixes without host bits that somebody may send as, each once, and means the same when
// it is written again.
func FuzzAllowedAnnotation(f *testing.F) {
	f.Add("10.6.0.100, 10.7.0.0/16, fd00::100,::/0")
	f.Add("0.0.0.0/0,10.6.0.1/8")
	f.Add("::ffff:10.6.0.100/120, fe80::1%eth0, 10.6.0.100/32,10.6.0.100")
	f.Add("224.0.0.0/4,ff00::/8,::1,127.0.0.0/8,,")
	f.Fuzz(func(t *testing.T, in string) {
		list, err := parseAllowed(in)
		if err != nil {
			return
		}
		var again []string
		seen := map[netip.Prefix]bool{}
		for _, p := range list {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() || p.Addr().Zone() != "" || p.Addr().IsMulticast() || seen[p] {
				t.Errorf("%q: %s", in, p)
			}
			seen[p] = true
			again = append(again, p.String())
		}
		if len(list) == 0 || len(list) > mostAllowed {
			t.Errorf("%q: %d entries", in, len(list))
		}
		if got, err := parseAllowed(strings.Join(again, ",")); err != nil || !slices.Equal(got, list) {
			t.Errorf("%q as %q: %v, %v", in, again, got, err)
		}
	})
}
