package nad

import (
	"encoding/json"
	"fmt"
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
