//go:build apiserver

package hub

import (
	"context"
	"fmt"
	"slices"
	"strings"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/subnets/subnettest"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// has says whether a pool has come to so many addresses, of both families together.
func (c *cluster) has(pool string, addresses int) error {
	c.Helper()
	p := c.get(pool)
	n := 0
	for _, r := range ranges(p) {
		n += count(r)
	}
	if got := subnettest.Condition(p.Status.Conditions, v1alpha1.PoolCarved); n != addresses || !strings.HasPrefix(got, "True Carved") {
		return fmt.Errorf("pool %s of %s has %d addresses, want %d; Carved is %s", pool, c.name, n, addresses, got)
	}
	return nil
}

func count(r ipam.Range) (n int) {
	for a := r.From; a.Compare(r.To) <= 0; a = a.Next() {
		n++
	}
	return n
}

func (c *cluster) wantHas(pool string, addresses int) {
	c.Helper()
	apitest.Eventually(c.T, "pool "+pool, func() error { c.check(); return c.has(pool, addresses) })
}

func (c *cluster) wantCarved(pool, want string) {
	c.Helper()
	apitest.Eventually(c.T, "pool "+pool, func() error { return c.carved(pool, want) })
}

func (c *cluster) carved(pool, want string) error {
	c.Helper()
	if got := subnettest.Condition(c.get(pool).Status.Conditions, v1alpha1.PoolCarved); !strings.HasPrefix(got, want) {
		return fmt.Errorf("Carved is %s, want %s", got, want)
	}
	return nil
}

func (c *cluster) status(s *v1alpha1.Subnet) v1alpha1.SubnetStatus {
	c.Helper()
	var now v1alpha1.Subnet
	if err := c.admin.Get(context.Background(), client.ObjectKeyFromObject(s), &now); err != nil {
		return v1alpha1.SubnetStatus{Free: err.Error()}
	}
	return now.Status
}

func (c *cluster) wantStatus(s *v1alpha1.Subnet, what, want string, f func(v1alpha1.SubnetStatus) string) {
	c.Helper()
	apitest.Eventually(c.T, what+" of "+s.Name, func() error {
		if got := f(c.status(s)); !strings.HasPrefix(got, want) {
			return fmt.Errorf("is %q, want %q", got, want)
		}
		return nil
	})
}

func (c *cluster) wantInStep(s *v1alpha1.Subnet, want string) {
	c.Helper()
	c.wantStatus(s, "InStep", want, func(st v1alpha1.SubnetStatus) string {
		return subnettest.Condition(st.Conditions, v1alpha1.SubnetInStep)
	})
}

func (c *cluster) wantDisputed(s *v1alpha1.Subnet, want string) {
	c.Helper()
	c.wantStatus(s, "Disputed of "+c.name, want, func(st v1alpha1.SubnetStatus) string {
		return subnettest.Condition(st.Conditions, v1alpha1.SubnetDisputed)
	})
}

// wantNone of a range in what a pool gives out.
func (c *cluster) wantNone(pool string, r ipam.Range) {
	c.Helper()
	apitest.Eventually(c.T, "pool "+pool+" leaves", func() error {
		if of := ranges(c.get(pool)).Overlap(ipam.Ranges{r}); len(of) > 0 {
			return fmt.Errorf("it gives out %s", of)
		}
		return nil
	})
}

func (c *cluster) wantFree(s *v1alpha1.Subnet, want string) {
	c.Helper()
	c.wantStatus(s, "free", want, func(st v1alpha1.SubnetStatus) string { return st.Free })
}

func (c *cluster) wantEvent(name, reason string) {
	c.Helper()
	apitest.Eventually(c.T, fmt.Sprintf("event %s of %s in %s", reason, name, c.name), func() error {
		var events eventsv1.EventList
		if err := c.admin.List(context.Background(), &events); err != nil {
			return err
		}
		if !slices.ContainsFunc(events.Items, func(e eventsv1.Event) bool { return e.Regarding.Name == name && e.Reason == reason }) {
			return fmt.Errorf("none of %s among %d", name, len(events.Items))
		}
		return nil
	})
}

// wantNoBlocks anywhere.
func (w *world) wantNoBlocks() {
	w.Helper()
	apitest.Eventually(w.T, "blocks", func() error {
		for _, c := range []*cluster{w.members[0], w.members[1], w.hub} {
			if blocks := c.blocks(); len(blocks) > 0 {
				b := blocks[0]
				return fmt.Errorf("%s has %d blocks: %s, cluster %q, %v, %v", c.name, len(blocks), b.Name, b.Spec.Cluster, b.Annotations, b.Spec.Parts)
			}
		}
		return nil
	})
}

// check that no block is open in both members, and no address given out by pools of both. What the first has is read before and after:
// it has at the time of the second what it has at both, since a block that begins to return never opens again.
func (w *world) check() {
	w.Helper()
	open := func(c *cluster) map[string]types.UID {
		out := map[string]types.UID{}
		blocks := c.blocks()
		for i := range blocks {
			b, err := carve.Read(&blocks[i])
			if err != nil {
				w.Fatal(err)
			}
			if wrong := carve.Check(b); len(wrong) > 0 {
				w.Fatal(wrong)
			}
			if b.Cluster == "" && blocks[i].Annotations[v1alpha1.AnnotationHubBlock] != lost {
				out[blocks[i].Name] = blocks[i].UID
			}
		}
		return out
	}
	a, b := w.members[0], w.members[1]
	before, there, after := open(a), open(b), open(a)
	for block, uid := range before {
		if _, two := there[block]; two && after[block] == uid {
			w.Fatalf("block %s is open in %s and in %s", block, a.name, b.name)
		}
	}
	listed := func(c *cluster) (out ipam.Ranges) {
		var pools v1alpha1.IPPoolList
		if err := c.admin.List(context.Background(), &pools); err != nil {
			w.Fatal(err)
		}
		for i := range pools.Items {
			if pools.Items[i].Spec.Network == w.network {
				out = append(out, ranges(&pools.Items[i])...)
			}
		}
		return ipam.NewRanges(out...)
	}
	if both := listed(a).Overlap(listed(b)).Overlap(listed(a)); len(both) > 0 {
		w.Fatalf("pools of %s and %s both give out %s", a.name, b.name, both)
	}
}
