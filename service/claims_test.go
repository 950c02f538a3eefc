package service

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// TestClaims sets Services one after the other: "NAME SECOND: spec", or "NAME" for one that goes.
func TestClaims(t *testing.T) {
	const ip1, ip2 = "192.0.2.1:80/TCP", "10.96.0.1:80/TCP"
	type step struct {
		name    string
		created int64
		spec    string // "" to delete
		anew    []string
		owners  map[string]string
	}
	external := "clusterIP: 10.96.0.%d, externalIPs: [192.0.2.1], ports: [{port: 80}]"
	tests := []struct {
		name  string
		steps []step
	}{
		{"the older has it, whichever comes first", []step{
			{"b", 20, fmt.Sprintf(external, 2), nil, map[string]string{ip1: "b"}},
			{"a", 30, fmt.Sprintf(external, 3), nil, map[string]string{ip1: "b"}},
			{"c", 10, fmt.Sprintf(external, 4), []string{"b"}, map[string]string{ip1: "c"}},
			{"c", 0, "", []string{"b"}, map[string]string{ip1: "b"}},
			{"b", 0, "", []string{"a"}, map[string]string{ip1: "a"}},
			{"a", 0, "", nil, map[string]string{ip1: ""}},
		}},
		{"of the same second the first by name", []step{
			{"b", 1, fmt.Sprintf(external, 2), nil, map[string]string{ip1: "b"}},
			{"a", 1, fmt.Sprintf(external, 3), []string{"b"}, map[string]string{ip1: "a"}},
		}},
		{"a cluster IP is its Service's, however young", []step{
			{"thief", 1, "clusterIP: 10.96.0.9, externalIPs: [10.96.0.1], ports: [{port: 80}, {name: x, port: 81}]", nil, map[string]string{ip2: "thief"}},
			{"victim", 2, "clusterIP: 10.96.0.1, ports: [{port: 80}]", []string{"thief"}, map[string]string{ip2: "victim", "10.96.0.1:81/TCP": "thief"}},
			{"victim", 0, "", []string{"thief"}, map[string]string{ip2: "thief"}},
		}},
		{"an edit that concerns no other", []step{
			{"a", 1, fmt.Sprintf(external, 2), nil, nil},
			{"b", 2, fmt.Sprintf(external, 3), nil, nil},
			{"a", 1, fmt.Sprintf(external, 2) + ", sessionAffinity: ClientIP", nil, map[string]string{ip1: "a"}},
			{"b", 2, "clusterIP: 10.96.0.3, ports: [{port: 80}]", nil, map[string]string{ip1: "a"}},
			{"a", 1, "clusterIP: 10.96.0.2, ports: [{port: 80}]", nil, map[string]string{ip1: ""}},
		}},
		{"a Service made anew under its name is younger", []step{
			{"a", 1, fmt.Sprintf(external, 2), nil, nil},
			{"b", 2, fmt.Sprintf(external, 3), nil, nil},
			{"a", 3, fmt.Sprintf(external, 4), []string{"b"}, map[string]string{ip1: "b"}},
		}},
		{"node ports", []step{
			{"a", 1, "type: NodePort, clusterIP: 10.96.0.1, ports: [{port: 80, nodePort: 30000}]", nil, map[string]string{"0.0.0.0:30000/TCP": "a"}},
			{"b", 2, "type: NodePort, clusterIP: 10.96.0.2, ports: [{port: 80, nodePort: 30000, protocol: UDP}]", nil, map[string]string{"0.0.0.0:30000/UDP": "b"}},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, specs := NewClaims(), map[string]*Spec{}
			for i, s := range tt.steps {
				var next *Spec
				if s.spec != "" {
					next, _ = ReadSpec(serviceOf(t, s.spec))
					next.Name, next.Created = s.name, s.created
				}
				anew := c.Replace(specs[s.name], next)
				specs[s.name] = next
				if d := cmp.Diff(s.anew, anew, cmpopts.EquateEmpty()); d != "" {
					t.Errorf("step %d: to be built anew: want -, got +\n%s", i, d)
				}
				got := map[string]string{}
				for f, o := range c.owner {
					if _, asked := s.owners[f.String()]; asked {
						got[f.String()] = o.Name
					}
				}
				for f, o := range s.owners {
					if got[f] != o {
						t.Errorf("step %d: %s is %q's, want %q", i, f, got[f], o)
					}
				}
			}
		})
	}
}

// TestClaimsLeaveNothing checks that in whatever order Services come and go, all own what they would, had they come at once, that whoever
// is not told has lost and got nothing, and that nothing stays behind.
func TestClaimsLeaveNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, specs, owned := NewClaims(), map[string]*Spec{}, map[string][]Frontend{}
		names := []string{"a", "b", "c", "d"}
		of := func(c *Claims, s *Spec) (out []Frontend) {
			for _, f := range s.frontends() {
				if c.owner[f] == s && !slices.Contains(out, f) {
					out = append(out, f)
				}
			}
			return out
		}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			name := rapid.SampledFrom(names).Draw(t, "name")
			var next *Spec
			if rapid.IntRange(0, 3).Draw(t, "gone") > 0 {
				next = drawSpec(t, name)
			}
			told := c.Replace(specs[name], next)
			if specs[name] = next; next == nil {
				delete(specs, name)
			}
			for _, n := range names {
				if now := of(c, specs[n]); n == name || slices.Contains(told, n) {
					owned[n] = now
				} else if !slices.Equal(now, owned[n]) {
					t.Fatalf("%s was not told: had %v, has %v", n, owned[n], now)
				}
			}
		}
		fresh := NewClaims()
		for _, n := range names {
			fresh.Replace(nil, specs[n])
		}
		if d := cmp.Diff(fresh.owner, c.owner, cmp.Comparer(func(a, b *Spec) bool { return a == b }), cmpopts.EquateComparable(Frontend{})); d != "" {
			t.Fatalf("at once -, one by one +\n%s", d)
		}
		if len(fresh.rivals) != len(c.rivals) {
			t.Fatalf("%d frontends with rivals, want %d", len(c.rivals), len(fresh.rivals))
		}
		for _, n := range names {
			c.Replace(specs[n], nil)
		}
		if len(c.owner)+len(c.rivals) != 0 {
			t.Fatalf("left behind: %v, %v", c.owner, c.rivals)
		}
	})
}
