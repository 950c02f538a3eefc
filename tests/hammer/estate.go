package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

// The Subnets of a run. The pools carved from them want more, at times, than there is.
const (
	subnetPlan = "plan" // IPv4
	subnetTwin = "twin" // IPv4 and IPv6 addresses in pairs
)

// Pools that are carved: for everybody, and for the pods of a netspace.
const (
	carvedPrefix = "carved-"
	tenantPrefix = "carvedtenant-"
	mostCarved   = 8 // addresses of one
)

func subnetSpecs() []*v1alpha1.Subnet {
	subnet := func(name string, cidrs ...string) *v1alpha1.Subnet {
		s := &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.SubnetSpec{Network: network}}
		for _, c := range cidrs {
			s.Spec.CIDRs = append(s.Spec.CIDRs, v1alpha1.SubnetCIDR{CIDR: c})
		}
		return s
	}
	twin := subnet(subnetTwin, "10.9.0.0/27", "fd00:9::/123")
	twin.Spec.Pairing = v1alpha1.PairingIndex
	return []*v1alpha1.Subnet{subnet(subnetPlan, "10.8.0.224/28", "10.8.1.0/28"), twin} // of two blocks
}

// twins are all pairs of the Subnet that has pairs, as a pool.
func twins() *v1alpha1.IPPool {
	return &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: subnetTwin}, Spec: v1alpha1.IPPoolSpec{
		Network: network, Pairing: v1alpha1.PairingIndex, Subnets: []v1alpha1.PoolSubnet{subnet("10.9.0.0/27"), subnet("fd00:9::/123")}}}
}

// estate is one name of pools that are carved: what users do to it.
type estate struct {
	*world
	rng      *rand.Rand
	name     string
	netspace string
}

func (w *world) newEstates() (out []*estate) {
	for i := range w.agents {
		e := &estate{world: w, rng: w.random("estate", i), name: fmt.Sprintf("%s%d", carvedPrefix, i)}
		if i%4 == 3 {
			e.name, e.netspace = fmt.Sprintf("%s%d", tenantPrefix, i), poolTenant
		}
		out = append(out, e)
	}
	return out
}

// run until there are no more operations: the pool is made, of whichever Subnet, gets larger and smaller, and is deleted; it is gone when
// its leases are.
func (e *estate) run(ctx context.Context) {
	for e.more(ctx) {
		subnet, size := []string{subnetPlan, subnetTwin}[e.rng.IntN(2)], 1+e.rng.Int32N(mostCarved)
		if e.rng.IntN(40) == 0 {
			e.remove(ctx)
		} else {
			e.want(ctx, subnet, size)
		}
		pause(ctx, time.Duration(e.rng.Int64N(int64(400*time.Millisecond))))
	}
}

// want a size of it.
func (e *estate) want(ctx context.Context, subnet string, size int32) {
	p, err := e.pools.Get(ctx, e.name, metav1.GetOptions{})
	switch {
	case isNotFound(err):
		p = &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: e.name}, Spec: v1alpha1.IPPoolSpec{Network: network, Subnet: subnet, Size: &size, Netspace: e.netspace}}
		if _, err = e.pools.Create(ctx, p, metav1.CreateOptions{}); err == nil {
			e.history.add(Event{Kind: Object, Note: fmt.Sprintf("pool %s of Subnet %s made, size %d", e.name, subnet, size)})
		}
	case err == nil && p.DeletionTimestamp == nil:
		p.Spec.Size = &size
		if _, err = e.pools.Update(ctx, p, metav1.UpdateOptions{}); err == nil {
			e.history.add(Event{Kind: Object, Note: fmt.Sprintf("pool %s has size %d", e.name, size)})
		}
	}
}

func (e *estate) remove(ctx context.Context) {
	if err := e.pools.Delete(ctx, e.name, metav1.DeleteOptions{}); err == nil {
		e.history.add(Event{Kind: Object, Note: fmt.Sprintf("pool %s deleted", e.name)})
	}
}

// returned: the Subnets have all that was carved from them, once their pools are gone; and a pool made then gives all that it wants.
func (w *world) returned(ctx context.Context, estates []*estate) error {
	w.say("quiet: the pools that were carved go, and their Subnets have all again")
	for _, e := range estates {
		if err := w.insist(ctx, func() error { return unlessGone(w.pools.Delete(ctx, e.name, metav1.DeleteOptions{})) }); err != nil {
			return err
		}
	}
	if err := w.eventually(ctx, "no block is left", func() (string, error) {
		list, err := w.blocks.List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) == 0 {
			return "", err
		}
		return fmt.Sprintf("%s has %+v", list.Items[0].Name, list.Items[0].Spec.Parts), nil
	}); err != nil {
		return err
	}
	for i, subnet := range []string{subnetPlan, subnetTwin} {
		estates[i].want(ctx, subnet, mostCarved)
		if err := w.eventually(ctx, "pool "+estates[i].name+" is carved", func() (string, error) {
			p, err := w.pools.Get(ctx, estates[i].name, metav1.GetOptions{})
			if err != nil || meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.PoolCarved) {
				return "", err
			}
			return fmt.Sprintf("%+v", p.Status.Conditions), nil
		}); err != nil {
			return err
		}
		if err := w.fill(ctx, estates[i].name); err != nil {
			return err
		}
	}
	return w.trace.through(ctx)
}

// eventually, within some patience, nothing is amiss; else it is a violation.
func (w *world) eventually(ctx context.Context, what string, amiss func() (string, error)) error {
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	last := "nothing was heard of it"
	for patient.Err() == nil {
		wrong, err := amiss()
		if err == nil && wrong == "" {
			return nil
		}
		if last = wrong; err != nil {
			last = err.Error()
		}
		pause(patient, 200*time.Millisecond)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.history.violate(Event{Kind: Object}, fmt.Sprintf("%s: not so after %s: %s", what, patience, last))
	return nil
}
