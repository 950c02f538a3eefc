package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestParseRange(t *testing.T) {
	for _, tc := range []struct{ in, want, err string }{
		{in: "10.6.0.5", want: "10.6.0.5"},
		{in: "10.6.0.5-10.6.0.9", want: "10.6.0.5-10.6.0.9"},
		{in: "10.6.0.5 - 10.6.0.9", want: "10.6.0.5-10.6.0.9"},
		{in: "10.6.0.5-10.6.0.5", want: "10.6.0.5"},
		{in: "10.6.0.0/24", want: "10.6.0.0-10.6.0.255"},
		{in: "10.6.0.1/32", want: "10.6.0.1"},
		{in: "0.0.0.0/0", want: "0.0.0.0-255.255.255.255"},
		{in: "2001:db8::/126", want: "2001:db8::-2001:db8::3"},
		{in: "2001:db8::ff-2001:db8::1:0", want: "2001:db8::ff-2001:db8::1:0"},
		{in: "", err: `"" is not an IP address`},
		{in: "10.6.0", err: `"10.6.0" is not an IP address`},
		{in: "10.6.0.5-", err: `"" is not an IP address`},
		{in: "10.6.0.5-10.6.0.6-10.6.0.7", err: "is not an IP address"},
		{in: "10.6.0.9-10.6.0.5", err: `ends before it begins; write "10.6.0.5-10.6.0.9"`},
		{in: "10.6.0.5-2001:db8::1", err: "mixes IPv4 and IPv6"},
		{in: "10.6.0.5/24", err: `host bits; write "10.6.0.0/24"`},
		{in: "10.6.0.0/33", err: `"10.6.0.0/33" is not a CIDR`},
		{in: "::ffff:10.6.0.1", err: "IPv4-mapped"},
		{in: "::ffff:10.6.0.0/120", err: "IPv4-mapped"},
		{in: "fe80::1%eth0", err: "zones"},
	} {
		got, err := ParseRange(tc.in)
		switch {
		case tc.err == "" && err != nil:
			t.Errorf("%q: %v", tc.in, err)
		case tc.err == "" && got.String() != tc.want:
			t.Errorf("%q: %s, want %s", tc.in, got, tc.want)
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("%q: %s, %v; want the error %q", tc.in, got, err, tc.err)
		}
	}
}

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"":                                    "",
		"10.0.0.1":                            "10.0.0.1",
		"10.0.0.1 10.0.0.2":                   "10.0.0.1-10.0.0.2", // touch
		"10.0.0.3 10.0.0.1":                   "10.0.0.1,10.0.0.3",
		"10.0.0.1-10.0.0.9 10.0.0.3":          "10.0.0.1-10.0.0.9", // inside
		"10.0.0.1-10.0.0.5 10.0.0.4-10.0.1.0": "10.0.0.1-10.0.1.0",
		"255.255.255.255 255.255.255.254":     "255.255.255.254-255.255.255.255",
	} {
		if got := ranges(t, strings.Fields(in)...).String(); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestCount(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "0",
		"10.0.0.1":                 "1",
		"10.0.0.0/24 10.0.2.0":     "257",
		"0.0.0.0/0":                "4294967296",
		"2001:db8::/64":            "18446744073709551616",
		"2001:db8::/32 2001:db9::": "79228162514264337593543950337",
	} {
		if got := ranges(t, strings.Fields(in)...).Count().String(); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// On a universe of 32 addresses at the end of the address space, where Next overflows, ranges are the sets they stand for.
func TestRangesAreSets(t *testing.T) {
	for _, base := range []netip.Addr{netip.MustParseAddr("255.255.255.224"), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffe0")} {
		t.Run(base.String(), rapid.MakeCheck(func(t *rapid.T) {
			draw := func(label string) (Ranges, uint32) {
				var rs []Range
				var set uint32
				for _, from := range rapid.SliceOfN(rapid.IntRange(0, 31), 0, 5).Draw(t, label) {
					to := rapid.IntRange(from, min(31, from+6)).Draw(t, "to")
					rs = append(rs, Range{add(base, uint64(from)), add(base, uint64(to))})
					for i := from; i <= to; i++ {
						set |= 1 << i
					}
				}
				return normalize(rs), set
			}
			a, inA := draw("a")
			b, inB := draw("b")
			for name, c := range map[string]struct {
				got  Ranges
				want uint32
			}{"a": {a, inA}, "subtract": {a.Subtract(b), inA &^ inB}, "overlap": {a.Overlap(b), inA & inB}, "union": {normalize(append(a[:len(a):len(a)], b...)), inA | inB}} {
				n := 0
				for i := range 32 {
					is := c.want>>i&1 == 1
					if got := c.got.Contains(add(base, uint64(i))); got != is {
						t.Fatalf("%s of %s and %s is %s: has %s: %t", name, a, b, c.got, add(base, uint64(i)), got)
					}
					if is {
						n++
					}
				}
				if c.got.Count().Int64() != int64(n) {
					t.Fatalf("%s of %s and %s is %s: count %s, want %d", name, a, b, c.got, c.got.Count(), n)
				}
				if diff := cmp.Diff(normalize(c.got).String(), c.got.String()); diff != "" {
					t.Fatalf("%s is not sorted and merged: %s", name, diff)
				}
			}
		}))
	}
}

func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"10.6.0.5", "10.6.0.5-10.6.0.9", "10.6.0.0/24", "2001:db8::/64", "::-ffff::", "fe80::1%a-fe80::2", "::ffff:1.2.3.4", "1-2", "/", "-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRange(s)
		if err != nil {
			return
		}
		if r.To.Less(r.From) || r.From.Is4() != r.To.Is4() || r.From.Zone() != "" || r.From.Is4In6() || r.To.Is4In6() {
			t.Fatalf("%q gives the range %s", s, r)
		}
		again, err := ParseRange(r.String())
		if err != nil || again != r {
			t.Fatalf("%q gives %s, and that gives %s, %v", s, r, again, err)
		}
	})
}

func ranges(t testing.TB, entries ...string) Ranges {
	t.Helper()
	var out []Range
	for _, e := range entries {
		r, err := ParseRange(e)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return normalize(out)
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, addr(s))
	}
	return out
}

func ExampleRanges_Overlap() {
	a := Ranges{{addr("10.6.0.1"), addr("10.6.0.9")}}
	b := Ranges{{addr("10.6.0.5"), addr("10.6.0.20")}}
	fmt.Println(a.Overlap(b))
	// Output: 10.6.0.5-10.6.0.9
}
