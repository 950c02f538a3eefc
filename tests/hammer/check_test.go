package main

import (
	"strings"
	"testing"

	"github.com/berthdev/berth/api/v1alpha1"
)

const bound, released = v1alpha1.LeaseBound, v1alpha1.LeaseReleased

var (
	one    = Interface{"one", "s1", "net1"}
	again  = Interface{"one", "s2", "net1"}
	other  = Interface{"two", "s3", "net1"}
	second = Interface{"one", "s1", "net2"}
)

func lease(version uint64, phase v1alpha1.LeasePhase, holder Interface) []Lease {
	return []Lease{{Name: "a", Version: version, Phase: phase, Holder: holder}}
}

// What the hammer must find if it happens, and what it must not take for a bug.
func TestCheck(t *testing.T) {
	none := []Lease{{Name: "a"}}
	for _, tt := range []struct {
		name   string
		events []Event
		want   string // in the violation of the last event; "": none
	}{
		{"two holders", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Given, Of: other, Leases: []string{"b", "a"}}}, "two holders"},
		{"two interfaces of a pod", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Given, Of: second, Leases: []string{"a"}}}, "two holders"},
		{"given up by a DEL", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Dropped, Of: one}, {Kind: Given, Of: other, Leases: []string{"a"}}}, ""},
		{"gone", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Vanished, Of: one}, {Kind: Given, Of: other, Leases: []string{"a"}}}, ""},
		{"a DEL of another interface", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Dropped, Of: second}, {Kind: Given, Of: other, Leases: []string{"a"}}}, "two holders"},
		{"the ADD again", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Given, Of: one, Leases: []string{"a"}}}, ""},
		{"the ADD again, otherwise", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Given, Of: one, Leases: []string{"b"}}}, "another address"},
		{"a new sandbox", []Event{{Kind: Given, Of: one, Leases: []string{"a", "b"}}, {Kind: Vanished, Of: one}, {Kind: Given, Of: again, Leases: []string{"b", "a"}}}, ""},
		{"a new sandbox, otherwise", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Vanished, Of: one}, {Kind: Given, Of: again, Leases: []string{"b"}}}, "another address"},
		{"a new sandbox after a DEL", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Dropped, Of: one}, {Kind: Given, Of: again, Leases: []string{"b"}}}, ""},
		{"a late DEL", []Event{
			{Kind: Asked, Of: one}, {Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Vanished, Of: one}, {Kind: Asked, Of: again},
			{Kind: Given, Of: again, Leases: []string{"a"}}, {Kind: Dropped, Of: one}, {Kind: Given, Of: again, Leases: []string{"b"}},
		}, "another address"},
		{"a late DEL frees", []Event{
			{Kind: Given, Of: again, Leases: []string{"a"}}, {Kind: Read, Since: 0, Seen: lease(5, bound, again)}, {Kind: Dropped, Of: one},
			{Kind: Changed, Seen: lease(6, released, again)},
		}, "not kept"},

		{"an identity's pod made anew", []Event{
			{Kind: Given, Of: one, Keeper: "set-0", Leases: []string{"a"}}, {Kind: Dropped, Of: one}, {Kind: Given, Of: other, Keeper: "set-0", Leases: []string{"a"}},
		}, ""},
		{"an identity's pod made anew, elsewhere", []Event{
			{Kind: Given, Of: one, Keeper: "set-0", Leases: []string{"a"}}, {Kind: Dropped, Of: one}, {Kind: Given, Of: other, Keeper: "set-0", Leases: []string{"b"}},
		}, "not kept for set-0"},

		{"durable", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Read, Since: 0, Seen: lease(5, bound, one)}}, ""},
		{"not durable: none", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Read, Since: 0, Seen: none}}, "not durable"},
		{"of another sandbox, until it is rebound", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Read, Since: 0, Seen: lease(5, bound, again)}}, ""},
		{"of another sandbox for good", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Settled, Since: 0, Seen: lease(5, bound, again)}}, "not freed"},
		{"not durable: of another pod", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Read, Since: 0, Seen: lease(5, bound, other)}}, "not durable"},
		{"not durable: released", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Read, Since: 0, Seen: lease(5, released, one)}}, "not durable"},
		{"read before the answer", []Event{{Kind: Asked, Of: one}, {Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Read, Since: 0, Seen: none}}, ""},
		{"read after the DEL", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Dropped, Of: one}, {Kind: Read, Since: 0, Seen: none}}, ""},
		{"not in the list", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Listed, Since: 0}}, "not durable"},
		{"in the list", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Listed, Since: 0, Seen: lease(5, bound, one)}}, ""},

		{"the watch lags", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Read, Since: 0, Seen: lease(5, bound, one)}, {Kind: Changed, Seen: lease(4, released, other)}}, ""},
		{"the watch lags behind a DEL and the next sandbox", []Event{
			{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Dropped, Of: one}, {Kind: Given, Of: again, Leases: []string{"a"}},
			{Kind: Listed, Since: 0, Seen: lease(5, bound, one)}, {Kind: Changed, Seen: lease(6, released, one)},
		}, ""},
		{"freed under its user", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Read, Since: 0, Seen: lease(5, bound, one)}, {Kind: Changed, Seen: lease(6, released, one)}}, "not kept"},
		{"deleted under its user", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Changed, Seen: lease(5, bound, one)}, {Kind: Changed, Seen: lease(6, "", Interface{})}}, "not kept"},
		{"freed after the DEL", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Changed, Seen: lease(5, bound, one)}, {Kind: Dropped, Of: one}, {Kind: Changed, Seen: lease(6, released, one)}}, ""},
		{"taken over", []Event{{Kind: Changed, Seen: lease(5, bound, one)}, {Kind: Changed, Seen: lease(6, bound, other)}}, "taken over"},
		{"rebound", []Event{{Kind: Changed, Seen: lease(5, bound, one)}, {Kind: Changed, Seen: lease(6, bound, again)}}, ""},
		{"claimed when free", []Event{{Kind: Changed, Seen: lease(5, released, one)}, {Kind: Changed, Seen: lease(6, bound, other)}}, ""},
		{"taken over or not: a list lay between", []Event{{Kind: Changed, Seen: lease(5, bound, one)}, {Kind: Listed}, {Kind: Changed, Seen: lease(9, bound, other)}}, ""},

		{"settled", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Settled, Since: 0, Seen: lease(5, bound, one)}}, ""},
		{"not freed", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Dropped, Of: one}, {Kind: Settled, Since: 1, Seen: lease(5, bound, one)}}, "not freed"},
		{"freed", []Event{{Kind: Given, Of: one, Leases: []string{"a"}}, {Kind: Dropped, Of: one}, {Kind: Settled, Since: 1, Seen: lease(5, released, one)}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHistory()
			for i, e := range tt.events {
				h.add(e)
				if last := i == len(tt.events)-1; !last && len(h.violations) > 0 {
					t.Fatalf("event %d: %s", i, h.violations[0].text)
				}
			}
			switch {
			case tt.want == "" && len(h.violations) > 0:
				t.Error(h.violations[0].text)
			case tt.want != "" && (len(h.violations) == 0 || !strings.Contains(h.violations[0].text, tt.want)):
				t.Errorf("found %v, want %q", h.violations, tt.want)
			}
		})
	}
}
