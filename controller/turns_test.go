package controller

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/berthdev/berth/api/v1alpha1"
)

func TestTurns(t *testing.T) {
	// An entry is NODE:GENERATION:REASON, without "Links".
	for name, tc := range map[string]struct {
		max           intstr.IntOrString
		before        int64 // generation of the rollout before; 0: there was none
		had, entries  string
		want, message string
	}{
		"nothing yet":                       {want: "a", message: "generation 3 has reached 0 of 4 nodes; now it is the turn of a; 3 wait"},
		"two at a time":                     {max: intstr.FromInt32(2), want: "a b", message: "turn of a, b; 2 wait"},
		"half of them":                      {max: intstr.FromString("50%"), want: "a b"},
		"at least one":                      {max: intstr.FromString("20%"), want: "a"},
		"in the middle":                     {before: 3, had: "a", want: "a", message: "turn of a"},
		"the first is ready":                {before: 3, had: "a", entries: "a:3:Ready", want: "a b", message: "has reached 1 of 4 nodes; now it is the turn of b; 2 wait"},
		"what is refused is not changed":    {before: 3, had: "a", entries: "a:3:Refused", want: "a b"},
		"what the kernel refuses":           {before: 3, had: "a", entries: "a:3:Failed", want: "a", message: "turn of a"},
		"undone":                            {max: intstr.FromInt32(3), before: 3, had: "a b", entries: "a:3:Ready b:3:Undone", want: "a b", message: "stopped, as the change was undone on b (Undone); edit the spec to have it tried again; generation 3 has reached 1 of 4 nodes; 2 wait"},
		"nothing was to be done":            {before: 3, entries: "a:3:Ready b:3:Ready", want: "c"},
		"those who wait":                    {before: 3, had: "a", entries: "a:3:Ready b:2:Queued", want: "a b"},
		"all are ready":                     {before: 3, had: "a b c d", entries: "a:3:Ready b:3:Ready c:3:Waiting d:3:Incomplete", want: "a b c d"},
		"a new generation":                  {before: 2, had: "a b c d", entries: "a:2:Ready b:2:Ready c:2:Ready d:2:Ready", want: "a"},
		"while one is in the middle":        {before: 2, had: "a b", entries: "a:2:Ready", want: "b", message: "turn of b; 3 wait"},
		"after one has undone the last one": {before: 2, had: "a b", entries: "a:2:Ready b:2:Undone", want: "b"},
		"a node that is selected no longer": {before: 3, had: "z", entries: "z:0:Waiting", want: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &v1alpha1.HostNetwork{}
			h.Generation = 3
			if tc.max != (intstr.IntOrString{}) {
				h.Spec.MaxUnavailable = &tc.max
			}
			if tc.before > 0 {
				h.Status.Rollout = &v1alpha1.HostNetworkRollout{Generation: tc.before, Nodes: strings.Fields(tc.had)}
			}
			for _, e := range strings.Fields(tc.entries) {
				f := strings.Split(e, ":")
				h.Status.Nodes = append(h.Status.Nodes, v1alpha1.HostNetworkNode{Node: f[0], ObservedGeneration: int64(f[1][0] - '0'), Reason: "Links" + f[2], Message: f[2]})
			}
			got := turns(h, []string{"a", "b", "c", "d"})
			if diff := cmp.Diff(strings.Fields(tc.want), got.Nodes); diff != "" || !strings.Contains(got.Message, tc.message) || got.Generation != 3 {
				t.Errorf("generation %d, %q: (-want +got)\n%s", got.Generation, got.Message, diff)
			}
			h.Status.Rollout = got
			if diff := cmp.Diff(got, turns(h, []string{"a", "b", "c", "d"})); diff != "" {
				t.Errorf("looked at again: %s", diff)
			}
		})
	}
}
