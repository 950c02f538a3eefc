package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptrace"
	"slices"
	"sync/atomic"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/agent/journal"
	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
)

// apiPatience is how long a verb waits for the API, or for the agent to be ready, where the journal can answer it too.
var apiPatience = 5 * time.Second

// patient bounds an ADD that the journal can answer.
func (a *Agent) patient(c call, args delegate.Args) (call, context.CancelFunc) {
	if a.journal.Known(c.ContainerID, c.IfName, types.UID(args.UID)) == nil {
		return c, func() {}
	}
	ctx, cancel := context.WithTimeout(c.Context, apiPatience)
	c.Context = ctx
	return c, cancel
}

// awaitReady waits for the agent to be ready as long as an ADD may.
func (a *Agent) awaitReady(c call, args delegate.Args) error {
	if a.isReady() {
		return nil
	}
	if a.journal.Known(c.ContainerID, c.IfName, types.UID(args.UID)) == nil {
		return errNotReady
	}
	select {
	case <-a.ready:
		return nil
	case <-c.Done():
		return errNotReady
	}
}

// away says whether an ADD failed for want of the API's word.
func away(err error) bool {
	return errors.Is(err, errNotReady) || errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

// addKnown answers an ADD without the API: to a sandbox that was answered before, and to a newer one of the same pod, whose lease is
// rebound when the API answers again. Anybody else gets cause.
func (a *Agent) addKnown(c call, conf *delegate.Config, args delegate.Args, cause error) (*types100.Result, error) {
	defer a.lock.lock(c.ContainerID, c.IfName)()
	found := a.journal.Known(c.ContainerID, c.IfName, types.UID(args.UID))
	if found == nil {
		return nil, cause
	}
	parent, err := parentOf(conf, c.MAC)
	if err != nil {
		return nil, err
	}
	h := found.Holder
	h.ContainerID, h.Attachment, h.Parent, h.MAC = c.ContainerID, conf.Name, parent, c.MAC
	e, err := a.journal.Adopt(h, c.NetNS)
	if err != nil || e == nil { // not durable, or told to the API as free a moment ago
		return nil, errors.Join(cause, err)
	}
	res := &types100.Result{}
	if err := json.Unmarshal(e.Result, res); err != nil {
		return nil, fmt.Errorf("result of interface %s of sandbox %s in the journal: %w", c.IfName, c.ContainerID, err)
	}
	if err := a.resume(c, e); err != nil {
		return nil, err
	}
	if e.Fast {
		a.hasten(e.Holder, e.NetNS, networkOf(e.Leases), res)
	}
	a.metrics.known.Inc()
	a.log.Warn("ADD answered from the journal", "pod", h.Namespace+"/"+h.Pod, "interface", c.IfName, "rebind", e.Rebind(), "cause", cause)
	return res, nil
}

// bindings are the leases of an entry as they are once the API has acknowledged them.
func bindings(e *journal.Entry) []*v1alpha1.IPLease {
	out := make([]*v1alpha1.IPLease, len(e.Leases))
	for i, l := range e.Leases {
		out[i] = l
		if !e.Holds(l) {
			out[i] = l.DeepCopy()
			ipam.Rebind(out[i], e.Holder, time.Time{})
		}
	}
	return out
}

// keep what an ADD gives, so that it can be given again without the API. It is known at once, and in the file soon: the API has it, so
// that a node without power until then loses nothing, but that the pod, which has not begun, waits for the API.
func (t *transaction) keep(c call, res *types100.Result, steered, fast bool, guard *journal.Guard) error {
	e := &journal.Entry{Holder: t.claimant.Holder, NetNS: c.NetNS, Steered: steered, Fast: fast, Guard: guard}
	for _, l := range t.leases {
		l = l.DeepCopy()
		l.ManagedFields = nil
		e.Leases = append(e.Leases, l)
	}
	if len(t.given.pools) == 0 { // what a delegate gave to one sandbox, no other may have
		var err error
		if e.Result, err = json.Marshal(res); err != nil {
			return err
		}
	}
	if len(e.Leases) > 0 {
		t.journal.Put(e)
	}
	return nil
}

// heldBy are the leases of a sandbox's interface, by the API's word and by the journal's: a lease that is to be rebound is the newer
// sandbox's already.
func (a *Agent) heldBy(containerID, ifName string) []*v1alpha1.IPLease {
	var held []*v1alpha1.IPLease
	known := map[string]bool{}
	for _, l := range a.store.HeldBySandbox(containerID, ifName) {
		if e := a.journal.OfLease(l.Name); e != nil && (e.Holder.ContainerID != containerID || e.Holder.Interface != ifName) {
			continue
		}
		held, known[l.Name] = append(held, l), true
	}
	if e := a.journal.Interface(containerID, ifName); e != nil {
		for _, l := range e.Leases {
			if !known[l.Name] {
				held = append(held, l)
			}
		}
	}
	return held
}

// knows says whether the journal has heard of a sandbox's interface: what it has, that it has given up what it had, or that a newer
// sandbox of the pod has that by now.
func (a *Agent) knows(containerID, ifName string) bool {
	if a.journal.Interface(containerID, ifName) != nil {
		return true
	}
	for _, r := range a.journal.Releases() {
		if r.Holder.ContainerID == containerID && r.Holder.Interface == ifName {
			return true
		}
	}
	for _, e := range a.journal.Entries() {
		if slices.ContainsFunc(e.Leases, func(l *v1alpha1.IPLease) bool { return ipam.SameSandbox(l, containerID, ifName) }) {
			return true
		}
	}
	return false
}

// bound are the leases of this node as they are once the API has acknowledged what the journal holds.
func (a *Agent) bound() (out []*v1alpha1.IPLease) {
	for _, l := range a.store.Bound() {
		if a.journal.Released(l.Name) {
			continue
		}
		if e := a.journal.OfLease(l.Name); e != nil && e.Rebind() {
			l = l.DeepCopy()
			ipam.Rebind(l, e.Holder, time.Time{})
		}
		out = append(out, l)
	}
	return out
}

// overheard tells whether the API may have heard a request of ctx: one that got no connection was not sent.
func overheard(ctx context.Context) (context.Context, func() bool) {
	var heard atomic.Bool
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { heard.Store(true) }}), heard.Load
}

// setPrefixes of the service path, and keep them for a start without the API.
func (a *Agent) setPrefixes(p path.Prefixes) {
	a.path.SetPrefixes(p)
	a.serving.setCIDRs(p.Services)
	if data, err := json.Marshal(p); err == nil {
		a.journal.SetNode(journal.KeyPrefixes, data)
	}
}

// resumePrefixes of the last run, as far as they are not configured, so that the service path can be made before the API answers.
func (a *Agent) resumePrefixes() {
	var p path.Prefixes
	if raw := a.journal.Node(journal.KeyPrefixes); raw == nil {
		return
	} else if err := json.Unmarshal(raw, &p); err != nil {
		a.log.Warn("service path prefixes in the journal", "err", err)
		return
	}
	if a.cfg.ServiceCIDRs != nil {
		p.Services = a.cfg.ServiceCIDRs
	}
	if a.cfg.PodCIDRs != nil {
		p.Pods = a.cfg.PodCIDRs
	}
	p.User = a.cfg.SteerCIDRs
	a.path.SetPrefixes(p)
	a.serving.setCIDRs(p.Services)
}
