package agent

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/agent/journal"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// lapse of a lease: by the API's word it is this node's no longer, and nothing here gave it up. The controller has freed it, a person has
// deleted it, or the API was restored from a backup that is older.
//
//	by the journal                  the pod                 then
//	to be rebound                   –                       replay tells of its end
//	a sandbox's of the pod          has it by a newer one   nothing
//	unknown, or without a result    –                       forgotten
//	an ADD was answered with it     gone, or its node is    forgotten
//	an ADD was answered with it     lives                   claimed again; if it is another's by now, AddressLost
//	an ADD was answered with it     the API is away         the next sweep asks again
func (a *Agent) lapse(ctx context.Context, l *v1alpha1.IPLease) {
	h := ipam.HolderOn(l, a.cfg.NodeName)
	e := a.journal.OfLease(l.Name)
	if e != nil {
		if e.Rebind() {
			return
		}
		h = &e.Holder
	}
	if h == nil || has(a.store.HeldByPod(h.UID, h.Interface), l.Name) {
		return
	}
	switch uses, err := a.uses(ctx, e); {
	case uses:
		a.reclaim(ctx, e, l)
	case err == nil:
		a.journal.Void(l.Name)
	}
}

// uses says, by the API's own word, whether a pod lives that has what an ADD was answered with.
func (a *Agent) uses(ctx context.Context, e *journal.Entry) (bool, error) {
	if !e.Answered() || e.Holder.UID == "" {
		return false, nil
	}
	if gone, err := a.pods.gone(ctx, e.Holder.Namespace, e.Holder.Pod, string(e.Holder.UID)); err != nil || gone {
		return false, err
	}
	down, err := a.pods.nodeGone(ctx, e.Holder.Node) // for which the controller frees leases, again and again
	return err == nil && !down, err
}

// reclaim a lease for the interface that uses its address, now or as soon as the API answers: others would be given it, too.
func (a *Agent) reclaim(ctx context.Context, e *journal.Entry, l *v1alpha1.IPLease) {
	h := e.Holder
	a.log.Warn("the lease of a pod that lives was deleted or freed; it is claimed again",
		"lease", l.Name, "pod", h.Namespace+"/"+h.Pod, "interface", h.Interface)
	a.journal.Unbind(h.ContainerID, h.Interface, l.Name)
	if err := a.replayRebind(ctx, h); err != nil {
		a.log.Warn("claim a lease again; tried on", "every", replayEvery, "err", err)
	}
}

// reclaimed tells of a lease that was claimed again, and takes back to the path what was taken off it meanwhile.
func (a *Agent) reclaimed(ctx context.Context, e *journal.Entry, l *v1alpha1.IPLease) {
	h := e.Holder
	a.event(podOfHolder(&h), "AddressClaimedAgain", fmt.Sprintf("the lease of address %s, which interface %s uses, was deleted or freed by another; it is claimed again",
		l.Spec.Address, h.Interface))
	if err := a.resume(ctx, e); err != nil {
		a.log.Warn("service path of a lease claimed again", "lease", l.Name, "err", err)
	}
}

// resume the service path and the source guard of an interface that the journal knows.
func (a *Agent) resume(ctx context.Context, e *journal.Entry) error {
	h := e.Holder
	if err := a.path.Attach(ctx, a.endpoints(bindings(e)...)...); err != nil && e.Steered {
		return fmt.Errorf("service path: %w", err)
	} else if err != nil {
		a.log.Warn("interface is not reachable from its own node", "interface", h.Interface, "pod", h.Namespace+"/"+h.Pod, "err", err)
	}
	if h.Parent == "" || e.Guard == nil {
		return nil
	}
	return a.guard(podOfHolder(&h), guarded(h, e.NetNS, e.Guard, e.Leases), e.Guard)
}

// podOfHolder is the pod of a holder, for events: only its name is known.
func podOfHolder(h *v1alpha1.LeaseHolder) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: h.Namespace, Name: h.Pod, UID: h.UID}}
}
