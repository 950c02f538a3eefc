package carve

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

func TestRead(t *testing.T) {
	for _, tc := range []struct {
		first, ips, pool, to, want string
	}{
		{first: "10.6.1.0", ips: "10.6.1.5-10.6.1.9", pool: "a"},
		{first: "10.6.1.0", ips: "10.6.1.5-10.6.2.9", pool: "a", want: "is outside of the block"},
		{first: "10.6.1.0", ips: "10.6.1.9-10.6.1.5", pool: "a", want: "ends before it begins"},
		{first: "10.6.1.0", ips: "10.6.1.5", pool: "a", to: "b", want: "either a pool or a subnet"},
		{first: "10.6.1.0", ips: "10.6.1.5", want: "either a pool or a subnet"},
		{first: "10.6.1.5", ips: "10.6.1.5", pool: "a", want: "is not what its name says"},
		{first: "fd00::100", ips: "fd00::1ff", to: "b"},
	} {
		_, err := Read(block(tc.first, tc.ips, tc.pool, tc.to))
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}

func block(first, ips, pool, to string) *v1alpha1.IPBlock {
	b := &v1alpha1.IPBlock{}
	b.Name = "net." + first
	if r, err := ipam.ParseRange(first); err == nil {
		b.Name = Name("net", r.From)
	}
	b.Spec = v1alpha1.IPBlockSpec{Network: "net", First: first, Parts: []v1alpha1.IPBlockPart{{IPs: ips, Subnet: "plan", Pool: pool, To: to}}}
	return b
}

// FuzzRead: what is accepted lies in its block, and means the same when it is written again.
func FuzzRead(f *testing.F) {
	f.Add("10.6.1.0", "10.6.1.5-10.6.1.9", "a", "")
	f.Add("fd00::100", "fd00::1ff", "", "b")
	f.Fuzz(func(t *testing.T, first, ips, pool, to string) {
		o := block(first, ips, pool, to)
		b, err := Read(o)
		if err != nil {
			return
		}
		if wrong := Check(b); len(wrong) > 0 {
			t.Fatal(wrong)
		}
		b.Write(&o.Spec)
		again, err := Read(o)
		if err != nil || again.Parts[0].Range != b.Parts[0].Range || again.Parts[0].Owner != b.Parts[0].Owner {
			t.Errorf("%v, then %v (%v)", b, again, err)
		}
	})
}

func TestCheckFinds(t *testing.T) {
	part := func(ips, subnet string, o Owner) Part { return Part{Range: rng(t, ips), Subnet: subnet, Owner: o} }
	for name, parts := range map[string][]Part{
		"two pools":               {part("10.6.0.1-10.6.0.5", "plan", Owner{Pool: "a"}), part("10.6.0.5", "plan", Owner{Pool: "b"})},
		"pools of two subnets":    {part("10.6.0.1-10.6.0.5", "plan", Owner{Pool: "a"}), part("10.6.0.5", "other", Owner{Pool: "b"})},
		"a pool in a share":       {part("10.6.0.0-10.6.0.63", "plan", Owner{To: "red"}), part("10.6.0.5", "plan", Owner{Pool: "b"})},
		"a pool of another's":     {part("10.6.0.0-10.6.0.63", "plan", Owner{To: "red"}), part("10.6.0.5", "blue", Owner{Pool: "b"})},
		"a part of another block": {part("10.6.1.0", "plan", Owner{Pool: "a"})},
	} {
		if len(Check(&Block{First: rng(t, "10.6.0.0").From, Parts: parts})) == 0 {
			t.Errorf("%s: nothing found", name)
		}
	}
	nested := []Part{part("10.6.0.0-10.6.0.63", "plan", Owner{To: "red"}), part("10.6.0.5", "red", Owner{Pool: "b"})}
	if d := cmp.Diff([]string(nil), Check(&Block{First: rng(t, "10.6.0.0").From, Parts: nested})); d != "" {
		t.Errorf("a share's own pool: %s", d)
	}
}
