package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// undoTimeout bounds the way back of a failed ADD, which goes on when its time is over.
const undoTimeout = 10 * time.Second

// add gives an interface its addresses. What the user has to know about a failure is an event on the pod, too.
func (a *Agent) add(c call) (*types100.Result, error) {
	conf, err := delegate.ParseConfig(c.Config)
	if err != nil {
		a.report(a.podOf(c), "BadNetworkConfiguration", err)
		return nil, badConfig{err}
	}
	args, err := delegate.ParseArgs(c.Args)
	if err != nil {
		return nil, badRequest{err}
	}
	patient, cancel := a.patient(c, args)
	defer cancel()
	pod, res, err := a.addAsked(patient, conf, args)
	if away(err) {
		res, err = a.addKnown(c, conf, args, err)
	}
	if err != nil && pod != nil && !errors.As(err, new(toRun)) {
		err = fmt.Errorf("interface %s of pod %s/%s: %w", c.IfName, pod.Namespace, pod.Name, err)
		a.report(pod, "AddressNotAssigned", err)
	}
	return res, err
}

// addAsked gives an interface its addresses by the API's word.
func (a *Agent) addAsked(c call, conf *delegate.Config, args delegate.Args) (*corev1.Pod, *types100.Result, error) {
	if err := a.awaitReady(c, args); err != nil {
		return nil, nil, err
	}
	pod, err := a.pods.pod(c, args)
	if err != nil {
		return nil, nil, err
	}
	defer a.lock.lock(c.ContainerID, c.IfName)()
	// And of a pod's interface one sandbox at a time: an ADD that a runtime gave up may be waiting for the API still, and would take the
	// address back from the sandbox that has it by now.
	defer a.lock.lock(string(uidOf(args, pod)), c.IfName)()
	if c.caller.Err() != nil {
		return pod, nil, fmt.Errorf("the plugin went away before its turn: %w", c.caller.Err())
	}
	res, err := a.addPod(c, conf, args, pod)
	return pod, res, err
}

func (a *Agent) addPod(c call, conf *delegate.Config, args delegate.Args, pod *corev1.Pod) (*types100.Result, error) {
	ns, err := a.pods.namespace(c, pod.Namespace)
	if err != nil {
		return nil, err
	}
	ask, warnings, err := nad.Resolve(nad.Input{
		PodAnnotations: pod.Annotations, NamespaceAnnotations: ns.Annotations,
		Namespace: pod.Namespace, IfName: c.IfName, Config: conf, IPs: args.IPs,
	})
	if err != nil {
		return nil, badRequest{err}
	}
	for _, w := range warnings {
		a.warn(pod, "AnnotationIgnored", w)
	}
	parent, err := parentOf(conf, c.MAC)
	if err != nil {
		return nil, err
	}
	holder := v1alpha1.LeaseHolder{
		Namespace: pod.Namespace, Pod: pod.Name, UID: uidOf(args, pod), Node: a.cfg.NodeName,
		ContainerID: c.ContainerID, Interface: c.IfName, Attachment: conf.Name,
		Parent: parent, MAC: c.MAC,
	}
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		holder.GracePeriodSeconds = *s
	}
	if err := a.pools.renew(c); err != nil {
		return nil, err
	}
	target, err := a.target(c, conf, pod, ns, ask)
	if err != nil {
		return nil, err
	}
	if err := a.pools.known(c); err != nil {
		return nil, err
	}
	claimant := claimantOf(pod, holder, ask)
	target.Kept = a.store.Kept(claimant)
	own := a.worthKeeping(a.ownLeases(holder), holder, target.Kept)
	for _, l := range own {
		if addr, err := netip.ParseAddr(l.Spec.Address); err == nil && !a.half(l, own) {
			target.Held[addr] = l.Spec.Pool
		}
	}
	t, err := a.obtain(c, ask, target, func() *transaction {
		return &transaction{Agent: a, req: c.Request, cniVersion: conf.CNIVersion, pod: pod, claimant: claimant, own: own, kept: map[string]bool{},
			rejected: map[string]string{}}
	})
	if err != nil {
		return nil, err
	}
	steer := parent != "" && t.steers(ask)
	var steered []netip.Prefix
	if steer {
		steered = a.steered(ask.Default)
	}
	res, err := result(t.leases, t.pools, t.given, ask, steered, conf.Type)
	if err != nil {
		return nil, errors.Join(err, t.undo(c))
	}
	guard, err := guarding(ask, t.pools, parent != "" && !a.cfg.NoServicePath)
	if err != nil {
		return nil, errors.Join(err, t.undo(c))
	}
	fast := steer && t.fast(ask)
	if err := t.keep(c, res, steer, fast, guard); err != nil {
		return nil, errors.Join(err, t.undo(c))
	}
	if parent != "" {
		t.silenceEarlier()
		if err := a.guard(pod, guarded(holder, c.NetNS, guard, t.leases), guard); err != nil {
			return nil, errors.Join(err, t.undo(c))
		}
		a.clash.attached(parent, t.pools)
		a.tenants.attaching(t.pools, t.leases)
		if err := a.path.Attach(c, a.endpoints(t.leases...)...); err != nil && steer {
			return nil, errors.Join(fmt.Errorf("service path: %w", err), t.undo(c))
		} else if err != nil {
			a.warn(pod, "ServicePathFailed", fmt.Sprintf("interface %s is not reachable from its own node: %v", c.IfName, err))
		}
	}
	if fast {
		a.hasten(holder, c.NetNS, t.pools[0].Network, res)
	}
	if c.caller.Err() != nil { // nobody hears the answer, and no DEL may come for what it gives
		return nil, errors.Join(fmt.Errorf("the plugin went away before its answer: %w", c.caller.Err()), t.undo(c))
	}
	return res, nil
}

// target is what the interface is to the pools.
func (a *Agent) target(ctx context.Context, conf *delegate.Config, pod *corev1.Pod, ns *corev1.Namespace, ask nad.Ask) (ipam.Target, error) {
	owners, err := a.ownersFor(ctx, pod, ask)
	if err != nil {
		return ipam.Target{}, err
	}
	t := ipam.Target{
		NodeName: a.cfg.NodeName, Namespace: pod.Namespace, Pod: pod.Name,
		NodeLabels: a.pods.thisNode().Labels, NamespaceLabels: ns.Labels, PodLabels: pod.Labels,
		Owners: owners, Held: map[netip.Addr]string{},
	}
	n, err := a.netspaces.of(ns, ask)
	if err != nil {
		return t, err
	}
	if n != nil {
		t.Netspace, t.NetspaceDeleting = n.Name, n.Deleting
	}
	if a.pools.anyVLAN() {
		t.Parent, err = a.vlanOf(conf)
	}
	return t, err
}

// silenceEarlier sandboxes of the pod, whose addresses the interface has now.
func (t *transaction) silenceEarlier() {
	for _, l := range t.own {
		if h := ipam.HolderOn(l, t.cfg.NodeName); h != nil && h.ContainerID != t.claimant.Holder.ContainerID {
			t.silence(sandbox{h.ContainerID, h.Interface}, []*v1alpha1.IPLease{l})
		}
	}
}

// uidOf a pod: the kubelet's word, which differs from the API's for static pods.
func uidOf(args delegate.Args, pod *corev1.Pod) types.UID {
	if args.UID != "" {
		return types.UID(args.UID)
	}
	return pod.UID
}

// Standings of what an interface holds, the best first.
const (
	answered   = iota // an ADD was answered with it, by the journal; or there is no journal
	claimed           // by this very sandbox, whose ADD is tried again
	unanswered        // by an earlier sandbox of the pod: the claim landed when its ADD had been given up
)

func (a *Agent) standing(l *v1alpha1.IPLease, h v1alpha1.LeaseHolder) int {
	switch {
	case !a.journal.Keeps() || a.journal.OfLease(l.Name) != nil:
		return answered
	case ipam.SameSandbox(l, h.ContainerID, h.Interface):
		return claimed
	}
	return unanswered
}

// ownLeases of the interface: those of this very sandbox (an ADD tried again) and of an earlier sandbox of the same pod.
func (a *Agent) ownLeases(h v1alpha1.LeaseHolder) []*v1alpha1.IPLease {
	own := a.store.HeldBySandbox(h.ContainerID, h.Interface)
	for _, l := range a.store.HeldByPod(h.UID, h.Interface) {
		if !has(own, l.Name) {
			own = append(own, l)
		}
	}
	return own
}

// worthKeeping are those of the interface's leases that are not unanswered ones of a family of which it has better, or of which an address
// is kept for it; by their standing.
func (a *Agent) worthKeeping(own []*v1alpha1.IPLease, h v1alpha1.LeaseHolder, kept map[netip.Addr]string) []*v1alpha1.IPLease {
	better := map[ipam.Family]bool{}
	for addr := range kept {
		better[ipam.FamilyOf(addr)] = true
	}
	of := [unanswered + 1][]*v1alpha1.IPLease{}
	for _, l := range own {
		n := a.standing(l, h)
		of[n] = append(of[n], l)
		if n != unanswered {
			better[familyOf(l)] = true
		}
	}
	of[unanswered] = slices.DeleteFunc(of[unanswered], func(l *v1alpha1.IPLease) bool { return better[familyOf(l)] })
	return slices.Concat(of[:]...)
}

// half says whether a lease is half of a pair, of a claim that came to nothing: no ADD was answered with it, as far as the journal knows. So
// it is nothing that the interface has and keeps without the other half, as it would if its pool was paired later.
func (a *Agent) half(l *v1alpha1.IPLease, own []*v1alpha1.IPLease) bool {
	p := a.pools.named(l.Spec.Pool)
	if p == nil || !p.Paired() || !a.journal.Keeps() || a.journal.OfLease(l.Name).Answered() {
		return false
	}
	return !slices.ContainsFunc(own, func(o *v1alpha1.IPLease) bool { return o.Spec.Pool == l.Spec.Pool && familyOf(o) != familyOf(l) })
}

// familyOf a lease's address; "" if that is none.
func familyOf(l *v1alpha1.IPLease) ipam.Family {
	addr, err := netip.ParseAddr(l.Spec.Address)
	if err != nil {
		return ""
	}
	return ipam.FamilyOf(addr)
}

func has(leases []*v1alpha1.IPLease, name string) bool {
	return slices.ContainsFunc(leases, func(l *v1alpha1.IPLease) bool { return l.Name == name })
}

// all errors in one line.
func all(errs []error) error {
	args := make([]any, len(errs))
	for i, err := range errs {
		args[i] = err
	}
	return fmt.Errorf(strings.TrimSuffix(strings.Repeat("%w; ", len(errs)), "; "), args...)
}

// release leases even if ctx has ended.
func (a *Agent) release(ctx context.Context, leases []*v1alpha1.IPLease, free func(context.Context, *v1alpha1.IPLease) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return a.sideBySide(len(leases), func(i int) error { return free(ctx, leases[i]) })
}

// errUnfinished is the answer of a write that came to no end: its goroutine was ended.
var errUnfinished = errors.New("a write came to no end")

// sideBySide does n writes at once, and waits for all: one failure must not leave another write in doubt. The last, which is mostly
// the only one, needs no goroutine of its own, nor to grow its stack.
func (a *Agent) sideBySide(n int, write func(i int) error) error {
	errs := slices.Repeat([]error{errUnfinished}, n)
	do := func(i int) { errs[i] = a.caught(func() error { return write(i) })() }
	var others sync.WaitGroup
	for i := range n - 1 {
		others.Go(func() { do(i) })
	}
	if n > 0 {
		do(n - 1)
	}
	others.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// steers says whether the interface gets the routes of the service path: as the pod or its network asks, else as the pools do.
// Auto: where it is the pod's default network, which has no other way to Services.
func (t *transaction) steers(ask nad.Ask) bool {
	mode := v1alpha1.Steering(ask.Steering)
	if mode == "" && len(t.pools) > 0 {
		mode = t.pools[0].Steering
	}
	return mode == v1alpha1.SteeringAlways || mode != v1alpha1.SteeringNever && ask.Default
}

// steered prefixes for an interface. One that is not the pod's default network gets no route to overlay pods: the pod is in the
// overlay itself, and a route of the same length as its own would make the way there a matter of chance.
func (a *Agent) steered(isDefault bool) []netip.Prefix {
	all := a.path.Steered()
	if isDefault {
		return all
	}
	overlay := a.network.overlay()
	return slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return slices.Contains(overlay, p) })
}

func wantsOf(ask nad.Ask) []ipam.Want {
	var out []ipam.Want
	if ask.Any != nil {
		out = append(out, ipam.Want{Patterns: ask.Any})
	}
	if ask.IPv4 != nil {
		out = append(out, ipam.Want{Patterns: ask.IPv4, Family: ipam.IPv4})
	}
	if ask.IPv6 != nil {
		out = append(out, ipam.Want{Patterns: ask.IPv6, Family: ipam.IPv6})
	}
	return out
}
