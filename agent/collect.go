package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// sweepEvery is the time between looks at the leases of this node, and a sixth more at random: agents start together.
const sweepEvery = 60 * time.Second

// Why a lease is kept although its pod is gone.
const (
	doubtNoPodUID     = "NoPodUID"     // who it is for is not known
	doubtNetNSUnknown = "NetNSUnknown" // the journal does not know the sandbox's network namespace, or it is where this agent cannot look
	doubtNetNSExists  = "NetNSExists"  // the sandbox may still run
)

// errRestored ends the agent: what it knows, and from which version its watches go on, is of no use. It is started again, and learns anew.
var errRestored = errors.New("the Kubernetes API knows less than it has told: it was restored from a backup")

// sweep frees, until ctx ends, the leases of this node whose pods and sandboxes are gone: at once, and then every minute.
func (a *Agent) sweep(ctx context.Context) error {
	for {
		if back, err := a.store.Restored(ctx); err == nil && back {
			return errRestored
		}
		if err := a.sweepOnce(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("leases of pods that are gone", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery + rand.N(sweepEvery/6)):
		}
	}
}

// sweepOnce looks at each lease of this node.
//
//	pod, by the watch     network namespace    then
//	lives                 –                    kept
//	gone or finished      exists, not known    kept, in doubt; the controller judges by the pod alone
//	gone or finished      gone                 suspect; at a second look, 30 s later or more: the pod's end by a live GET → freed
func (a *Agent) sweepOnce(ctx context.Context) error {
	a.tidy(ctx)
	doubts := map[string]int{doubtNoPodUID: 0, doubtNetNSUnknown: 0, doubtNetNSExists: 0}
	doubted := map[string]bool{}
	var errs []error
	for _, l := range a.store.Bound() {
		h := ipam.HolderOn(l, a.cfg.NodeName)
		if h == nil || a.journal.Released(l.Name) {
			continue
		}
		if h.UID != "" && a.pods.seemsLive(h.Namespace, h.Pod, string(h.UID)) {
			a.orphans.clear(l.Name)
			continue
		}
		if why := a.doubt(h); why != "" {
			a.orphans.clear(l.Name)
			doubts[why]++
			doubted[l.Name] = true
			if !a.doubted[l.Name] {
				a.leaseEvent(l, corev1.EventTypeWarning, why, "Keep", fmt.Sprintf("pod %s/%s is not seen any more, but its sandbox %s may be: "+
					"the address stays bound until a DEL, or until the controller finds the pod gone", h.Namespace, h.Pod, h.ContainerID))
			}
			continue
		}
		if a.orphans.twice(l.Name, h.ContainerID, a.cfg.Now()) {
			errs = append(errs, a.collect(ctx, l, h))
		}
	}
	a.doubted = doubted
	for why, n := range doubts {
		a.metrics.inDoubt.WithLabelValues(why).Set(float64(n))
	}
	return errors.Join(errs...)
}

// doubt says why a holder's sandbox may still be there; "" if it is gone.
func (a *Agent) doubt(h *v1alpha1.LeaseHolder) string {
	if h.UID == "" {
		return doubtNoPodUID
	}
	e := a.journal.Interface(h.ContainerID, h.Interface)
	if e == nil || e.NetNS == "" {
		return doubtNetNSUnknown
	}
	path, ok := a.seen(e.NetNS)
	if !ok {
		return doubtNetNSUnknown
	}
	if _, err := os.Stat(a.netNS); err != nil {
		return doubtNetNSUnknown
	}
	switch _, err := os.Lstat(path); {
	case err == nil:
		return doubtNetNSExists
	case errors.Is(err, fs.ErrNotExist):
		return ""
	}
	return doubtNetNSUnknown
}

// seen is where this agent sees the network namespace that CNI_NETNS names. containerd and CRI-O have a name for each namespace in one
// directory, under one of two names, and remove it with the sandbox. A path elsewhere, such as that of a process, may be one that this
// agent does not see.
func (a *Agent) seen(netNS string) (path string, ok bool) {
	dir, name := filepath.Split(netNS)
	if dir = strings.TrimPrefix(dir, "/var"); dir != "/run/netns/" || name == "" {
		return "", false
	}
	return filepath.Join(a.netNS, name), true
}

// collect a lease twice found without a sandbox, if its pod is gone.
func (a *Agent) collect(ctx context.Context, l *v1alpha1.IPLease, h *v1alpha1.LeaseHolder) error {
	if h.UID == "" || a.doubt(h) == doubtNetNSExists {
		return nil // live, as far as anybody knows
	}
	why, err := a.pods.end(ctx, h.Namespace, h.Pod, string(h.UID))
	if err != nil || why == "" {
		return err
	}
	defer a.lock.lock(h.ContainerID, h.Interface)()
	if e := a.journal.OfLease(l.Name); e != nil && (e.Holder.ContainerID != h.ContainerID || e.Holder.Interface != h.Interface) {
		return nil // a newer sandbox's
	}
	a.log.Info("free an address without a sandbox", "address", l.Spec.Address, "pod", h.Namespace+"/"+h.Pod, "reason", why)
	if err := a.giveUp(ctx, []*v1alpha1.IPLease{l}, a.store.Release); err != nil {
		return err
	}
	a.orphans.clear(l.Name)
	a.metrics.released.WithLabelValues(why).Inc()
	a.leaseEvent(l, corev1.EventTypeNormal, why, "Release", fmt.Sprintf("freed by the agent of its node: pod %s/%s (UID %s) and its sandbox %s are gone",
		h.Namespace, h.Pod, h.UID, h.ContainerID))
	return nil
}

// tidy drops from the journal what is this node's no longer, by the API's own word.
func (a *Agent) tidy(ctx context.Context) {
	for _, e := range a.journal.Entries() {
		if e.Rebind() {
			continue // replay tells of its end
		}
		held := map[string]bool{}
		for _, l := range a.store.HeldBySandbox(e.Holder.ContainerID, e.Holder.Interface) {
			held[l.Name] = true
		}
		for _, l := range e.Leases {
			if held[l.Name] {
				continue
			}
			switch now, err := a.store.Verify(ctx, l); {
			case err != nil || now != nil:
			case has(a.store.HeldByPod(e.Holder.UID, e.Holder.Interface), l.Name): // a newer sandbox's
				a.journal.Lost(e.Holder.ContainerID, e.Holder.Interface, l.Name)
			default:
				a.lapse(ctx, l)
			}
		}
	}
}

func (a *Agent) leaseEvent(l *v1alpha1.IPLease, kind, reason, action, note string) {
	l = l.DeepCopy()
	l.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("IPLease"))
	a.events.Eventf(l, nil, kind, reason, action, "%s", note)
}
