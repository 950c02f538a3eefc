package agent

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"path"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
	"github.com/berthdev/berth/nad"
)

// poolPatience is how long an ADD waits for a pool that the controller makes for the pod's workload, or makes larger.
var poolPatience = 5 * time.Second

// errAwaited: the pool of the pod's workload is on its way.
var errAwaited = errors.New("the workload's pool is not ready")

// awaited are the pools that may serve an interface whose pod asks for a pool of its workload: by Subnet, those of each of the pod's
// controllers, the topmost first. Which of them is the workload the controller knows, and makes one.
type awaited []awaitedPool

type awaitedPool struct {
	subnet string
	family ipam.Family
	names  []string
}

func awaitedOf(ask nad.Ask, target ipam.Target, ifName string) (out awaited) {
	for _, s := range []struct {
		subnet string
		family ipam.Family
	}{{ask.Subnets.Any, ""}, {ask.Subnets.IPv4, ipam.IPv4}, {ask.Subnets.IPv6, ipam.IPv6}} {
		if s.subnet == "" {
			continue
		}
		w := awaitedPool{subnet: s.subnet, family: s.family}
		for _, o := range slices.Backward(target.Owners) {
			w.names = append(w.names, nad.PoolName(o, target.Netspace, ifName, s.subnet))
		}
		out = append(out, w)
	}
	return out
}

// names of all of them.
func (w awaited) names() (out []string) {
	for _, p := range w {
		out = append(out, p.names...)
	}
	return out
}

// wants one pool for each Subnet. The error is errAwaited if one is not there.
func (w awaited) wants(p *pools, target ipam.Target) (out []ipam.Want, err error) {
	for _, a := range w {
		i := slices.IndexFunc(a.names, func(name string) bool { return p.named(name) != nil })
		if i < 0 {
			top := target.Owners[len(target.Owners)-1]
			return nil, fmt.Errorf("%w: berth-controller makes it for %s %s/%s, as pool %q of Subnet %q; see the events of that", errAwaited, top.Kind, top.Namespace, top.Name, a.names[0], a.subnet)
		}
		out = append(out, ipam.Want{Patterns: a.names[i : i+1], Family: a.family})
	}
	return out, nil
}

// ofWorkload says whether the pools that an interface may use are, or may be, of workloads, so that all of the pod's controllers count.
func (a *Agent) ofWorkload(ask nad.Ask, owners []v1alpha1.PoolOwner) bool {
	if ask.Subnets != (nad.Subnets{}) {
		return true
	}
	patterns := slices.Concat(ask.Any, ask.IPv4, ask.IPv6)
	if patterns == nil { // without being named, they serve nobody
		return false
	}
	return slices.ContainsFunc(a.pools.all(), func(p *ipam.Pool) bool {
		return p.Owner != nil && !p.OfWorkload(owners) && slices.ContainsFunc(patterns, func(pattern string) bool {
			ok, _ := path.Match(pattern, p.Name)
			return ok
		})
	})
}

// ownersFor an interface of a pod.
func (a *Agent) ownersFor(ctx context.Context, pod *corev1.Pod, ask nad.Ask) ([]v1alpha1.PoolOwner, error) {
	known := ownersOf(pod)
	if !a.ofWorkload(ask, known) {
		return known, nil
	}
	all, err := a.owners.chain(ctx, pod)
	if err == nil && len(all) == 0 && ask.Subnets != (nad.Subnets{}) {
		err = badRequest{fmt.Errorf("%s asks for a pool of the pod's workload, but nothing controls the pod; make it by a Deployment or another workload, or name a pool in %s",
			ask.Source, nad.PoolAnnotation)}
	}
	return all, err
}

// obtain addresses for an interface, each try by a transaction of its own. It tries again where a pool was edited meanwhile. Where the
// pod's workload has a pool that is not there yet, or is too small, it waits for the next change of that pool.
func (a *Agent) obtain(c call, ask nad.Ask, target ipam.Target, begin func() *transaction) (*transaction, error) {
	waits := awaitedOf(ask, target, c.IfName)
	patience, cancel := context.WithTimeout(c, poolPatience)
	defer cancel()
	for {
		changed, forget := a.pools.changes(waits.names())
		t := begin()
		err := t.try(c, ask, target, waits)
		if err == nil {
			forget()
			return t, nil
		}
		var soon <-chan time.Time
		switch over := patience.Err() != nil || c.caller.Err() != nil; {
		case !over && errors.Is(err, store.ErrPoolChanged) && !errors.Is(err, store.ErrUnavailable): // and nothing of the try is left
			soon = time.After(5 * time.Millisecond)
		case over || waits == nil || !mayHelp(err):
			forget()
			return nil, a.explain(c, waits, err)
		}
		select {
		case <-changed:
		case <-soon:
		case <-patience.Done(): // one more try: addresses may have become free
		case <-c.caller.Done():
		}
		forget()
	}
}

// mayHelp says whether another version of a pool may serve where this one did not.
func mayHelp(err error) bool {
	return errors.Is(err, errAwaited) || errors.Is(err, ipam.ErrExhausted)
}

// try once.
func (t *transaction) try(c call, ask nad.Ask, target ipam.Target, waits awaited) error {
	wants := wantsOf(ask)
	if waits != nil {
		var err error
		if wants, err = waits.wants(t.Agent.pools, target); err != nil {
			return err
		}
	}
	plan, err := t.plan(c, ask, wants, target)
	if why := t.Agent.pools.unfinished(wants); waits != nil && why != "" && errors.Is(err, ipam.ErrNoPool) {
		return fmt.Errorf("%w: %s", errAwaited, why)
	}
	if err != nil {
		return err
	}
	if err := t.run(c, plan); err != nil {
		return errors.Join(err, t.undo(c))
	}
	return nil
}

// explain what was waited for in vain.
func (a *Agent) explain(ctx context.Context, waits awaited, err error) error {
	if !mayHelp(err) {
		return err
	}
	for _, w := range waits {
		i := slices.IndexFunc(w.names, func(name string) bool { return a.pools.named(name) != nil })
		if i >= 0 {
			if why := a.pools.unready(w.names[i]); why != "" {
				return fmt.Errorf("%w (waited %s; pool %q: %s)", err, poolPatience, w.names[i], why)
			}
			continue
		}
		if _, missing := a.owners.client.Resource(v1alpha1.GroupVersion.WithResource("subnets")).Get(ctx, w.subnet, metav1.GetOptions{}); apierrors.IsNotFound(missing) {
			return fmt.Errorf("%w; Subnet %q does not exist: correct the annotation of the pod template, or create it", err, w.subnet)
		}
	}
	if waits == nil {
		return err
	}
	return fmt.Errorf("%w (waited %s)", err, poolPatience)
}

// changes tells once one of these pools changes. Who waits no longer forgets.
func (p *pools) changes(names []string) (changed <-chan struct{}, forget func()) {
	c := make(chan struct{}, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		p.awaited[name] = append(p.awaited[name], c)
	}
	return c, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, name := range names {
			p.awaited[name] = slices.DeleteFunc(p.awaited[name], func(other chan<- struct{}) bool { return other == c })
			if len(p.awaited[name]) == 0 {
				delete(p.awaited, name)
			}
		}
	}
}

// stir who waits for a pool; p.mu is held.
func (p *pools) stir(name string) {
	for _, c := range p.awaited[name] {
		select {
		case c <- struct{}{}:
		default: // it is awake
		}
	}
}

// unfinished says which of the pools of wants is on its way, and how far; "" if none is.
func (p *pools) unfinished(wants []ipam.Want) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range wants {
		for _, name := range w.Patterns {
			switch c := p.pools[name]; {
			case c == nil:
			case c.Deleting:
				return fmt.Sprintf("pool %q is being deleted, and is made anew once nobody has an address of it", name)
			case c.growing != "":
				return c.growing
			}
		}
	}
	return ""
}

// unready says why the controller cannot carve a pool; "" if it can.
func (p *pools) unready(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.pools[name]; c != nil {
		return c.unready
	}
	return ""
}

// growing says how far a pool is from the size that it is to have; "" if it is not, or is carved from nothing.
func growing(p *v1alpha1.IPPool, c *ipam.Pool) string {
	if p.Spec.Subnet == "" || p.Spec.Size == nil {
		return ""
	}
	want := big.NewInt(int64(*p.Spec.Size))
	families := c.Families()
	for _, f := range families {
		if n := c.Ranges(f).Count(); n.Cmp(want) < 0 {
			return fmt.Sprintf("pool %q has %s of %s %s addresses of Subnet %q", p.Name, n, want, f, p.Spec.Subnet)
		}
	}
	if len(families) == 0 {
		return fmt.Sprintf("pool %q has none of %s addresses of Subnet %q", p.Name, want, p.Spec.Subnet)
	}
	return ""
}

// unreadyOf says why the controller cannot carve a pool, if so.
func unreadyOf(p *v1alpha1.IPPool) string {
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.PoolCarved)
	if c == nil || c.Status != metav1.ConditionFalse || c.Message == "" {
		return ""
	}
	return c.Message
}
