package ipam

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

// LeaseName is the name of the lease of an address, which is its lock: IPv4 as it is, IPv6 with all eight groups, without leading
// zeros, and "-" for ":", since names of custom resources allow no colon.
func LeaseName(network string, a netip.Addr) string {
	if a.Is4() {
		return network + "." + a.String()
	}
	var b strings.Builder
	b.WriteString(network)
	sep := byte('.')
	raw := a.As16()
	for i := 0; i < 16; i += 2 {
		b.WriteByte(sep)
		fmt.Fprintf(&b, "%x", uint16(raw[i])<<8|uint16(raw[i+1]))
		sep = '-'
	}
	return b.String()
}

// ParseLeaseName is the inverse of LeaseName.
func ParseLeaseName(name string) (network string, a netip.Addr, err error) {
	network, text, ok := strings.Cut(name, ".")
	if ok {
		if strings.Contains(text, "-") {
			text = strings.ReplaceAll(text, "-", ":")
		}
		a, err = netip.ParseAddr(text)
	}
	if !ok || err != nil || LeaseName(network, a) != name {
		return "", netip.Addr{}, fmt.Errorf("%q is not a lease name <network>.<address>", name)
	}
	return network, a, nil
}

// NewLease is the lease by whose creation c claims a.
func NewLease(p *Pool, a netip.Addr, c Claimant, now time.Time) *v1alpha1.IPLease {
	l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: LeaseName(p.Network, a)}}
	l.Spec.Network = p.Network
	l.Spec.Address = a.String()
	Bind(l, p, c, now)
	return l
}

// Bind gives a free lease to c, or a bound one of its identity whose holder is gone. An operator's reservation for c stays one.
func Bind(l *v1alpha1.IPLease, p *Pool, c Claimant, now time.Time) {
	at := metav1.NewTime(now)
	holder := c.Holder
	l.Spec.Pool = p.Name
	l.Spec.Phase = v1alpha1.LeaseBound
	l.Spec.Holder, l.Spec.Next = &holder, nil
	l.Spec.BoundAt, l.Spec.ReleasedAt, l.Spec.Conflict = &at, nil, nil
	if !ofOperator(l.Spec.Identity) || !c.May(l.Spec.Identity) {
		l.Spec.Identity = nil
		if p.Keeps() && c.Identity != nil {
			identity := *c.Identity
			l.Spec.Identity = &identity
		}
	}
	label(l)
}

// Rebind gives what a sandbox of the pod holds to a newer sandbox of the same pod.
func Rebind(l *v1alpha1.IPLease, holder v1alpha1.LeaseHolder, now time.Time) {
	at := metav1.NewTime(now)
	if n := l.Spec.Next; n != nil && n.UID == holder.UID {
		l.Spec.Next = &holder
	} else {
		l.Spec.Holder, l.Spec.BoundAt = &holder, &at
	}
	label(l)
}

// Share gives a bound lease a second holder, see Claimant.Shares.
func Share(l *v1alpha1.IPLease, holder v1alpha1.LeaseHolder) {
	l.Spec.Next = &holder
	label(l)
}

// Release takes the lease from the sandbox that h names. The address goes to the next holder if there is one, else it is kept for the
// identity if there is one, else it is free; its holder stays, as the last one.
func Release(l *v1alpha1.IPLease, h *v1alpha1.LeaseHolder, now time.Time) {
	at := metav1.NewTime(now)
	switch {
	case l.Spec.Next != nil && sameSandbox(l.Spec.Next, h.ContainerID, h.Interface):
		l.Spec.Next = nil
	case l.Spec.Next != nil:
		l.Spec.Holder, l.Spec.Next, l.Spec.BoundAt = l.Spec.Next, nil, &at
	case l.Spec.Identity != nil:
		l.Spec.Phase, l.Spec.ReleasedAt = v1alpha1.LeaseReserved, &at
	default:
		l.Spec.Phase, l.Spec.ReleasedAt = v1alpha1.LeaseReleased, &at
	}
	label(l)
}

// Drop takes the lease from the sandbox that h names, and keeps it for nobody but whom a person has named: the identity has not come to
// use the address, or has another by now.
func Drop(l *v1alpha1.IPLease, h *v1alpha1.LeaseHolder, now time.Time) {
	Release(l, h, now)
	if l.Spec.Phase == v1alpha1.LeaseReserved && !ofOperator(l.Spec.Identity) {
		Unreserve(l, now)
	}
}

// Unreserve gives up a Reserved lease whose identity has ended.
func Unreserve(l *v1alpha1.IPLease, now time.Time) {
	if l.Spec.ReleasedAt == nil {
		at := metav1.NewTime(now)
		l.Spec.ReleasedAt = &at
	}
	l.Spec.Phase, l.Spec.Identity = v1alpha1.LeaseReleased, nil
	label(l)
}

// Disown takes the lease from its identity: a pod that holds it does so to its own end.
func Disown(l *v1alpha1.IPLease, now time.Time) {
	if l.Spec.Phase == v1alpha1.LeaseReserved {
		Unreserve(l, now)
		return
	}
	l.Spec.Identity = nil
	label(l)
}

// Quarantine takes a free address out of use; lease nil is one never used.
func Quarantine(l *v1alpha1.IPLease, p *Pool, a netip.Addr, c v1alpha1.LeaseConflict) *v1alpha1.IPLease {
	if l == nil {
		l = &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: LeaseName(p.Network, a)}}
		l.Spec.Network, l.Spec.Address, l.Spec.Pool = p.Network, a.String(), p.Name
	}
	l.Spec.Phase, l.Spec.Conflict, l.Spec.Identity = v1alpha1.LeaseQuarantined, &c, nil
	label(l)
	return l
}

// Unquarantine makes a quarantined address free, and its cooldown begin.
func Unquarantine(l *v1alpha1.IPLease, now time.Time) {
	at := metav1.NewTime(now)
	l.Spec.Phase, l.Spec.ReleasedAt, l.Spec.Conflict = v1alpha1.LeaseReleased, &at, nil
}

// Contest notes that somebody else was seen to use the address.
func Contest(l *v1alpha1.IPLease, c v1alpha1.LeaseConflict) {
	l.Spec.Conflict = &c
	label(l)
}

// ofOperator says whether a person has made the reservation, who alone ends it.
func ofOperator(i *v1alpha1.LeaseIdentity) bool { return i != nil && i.Ends == "" }

// label repeats in labels what the server narrows lists and watches by.
func label(l *v1alpha1.IPLease) {
	if l.Labels == nil {
		l.Labels = map[string]string{}
	}
	set := func(key, value string) {
		if value == "" {
			delete(l.Labels, key)
		} else {
			l.Labels[key] = value
		}
	}
	a, _ := netip.ParseAddr(l.Spec.Address)
	set(v1alpha1.LabelPool, l.Spec.Pool)
	set(v1alpha1.LabelFamily, string(FamilyOf(a)))
	if h := l.Spec.Holder; h != nil {
		set(v1alpha1.LabelNode, LabelValue(h.Node))
		set(v1alpha1.LabelNamespace, h.Namespace)
	}
	next := ""
	if l.Spec.Next != nil {
		next = LabelValue(l.Spec.Next.Node)
	}
	set(v1alpha1.LabelNextNode, next)
	identity := ""
	if l.Spec.Identity != nil {
		identity = IdentityHash(l.Spec.Identity)
	}
	set(v1alpha1.LabelIdentity, identity)
}

// Unlabel takes off what label puts on.
func Unlabel(l *v1alpha1.IPLease) {
	for _, key := range []string{v1alpha1.LabelPool, v1alpha1.LabelFamily, v1alpha1.LabelNode, v1alpha1.LabelNamespace,
		v1alpha1.LabelNextNode, v1alpha1.LabelIdentity} {
		delete(l.Labels, key)
	}
	if len(l.Labels) == 0 {
		l.Labels = nil
	}
}

// IdentityHash is the label value by which the server finds the leases of an identity, and few others.
func IdentityHash(i *v1alpha1.LeaseIdentity) string {
	return fmt.Sprintf("%016x", Seed(i.Kind, i.Namespace, i.Name, i.Pod, i.Interface))
}

// LabelValue shortens what is too long for a label value (63 characters; node names may have 253) so that it stays unique.
func LabelValue(s string) string {
	const limit = 63
	if len(s) <= limit {
		return s
	}
	return fmt.Sprintf("%s-%016x", strings.TrimRight(s[:limit-17], "-."), Seed(s))
}

// Holders of a bound lease: one, or two while a virtual machine migrates.
func Holders(l *v1alpha1.IPLease) []*v1alpha1.LeaseHolder {
	var out []*v1alpha1.LeaseHolder
	if l.Spec.Phase != v1alpha1.LeaseBound {
		return nil
	}
	for _, h := range []*v1alpha1.LeaseHolder{l.Spec.Holder, l.Spec.Next} {
		if h != nil {
			out = append(out, h)
		}
	}
	return out
}

// HolderOn is the holder of a bound lease that is on the node; nil if none is.
func HolderOn(l *v1alpha1.IPLease, node string) *v1alpha1.LeaseHolder {
	for _, h := range Holders(l) {
		if h.Node == node {
			return h
		}
	}
	return nil
}

// SameSandbox says whether the lease is bound to this interface of this sandbox.
func SameSandbox(l *v1alpha1.IPLease, containerID, ifName string) bool {
	for _, h := range Holders(l) {
		if sameSandbox(h, containerID, ifName) {
			return true
		}
	}
	return false
}

func sameSandbox(h *v1alpha1.LeaseHolder, containerID, ifName string) bool {
	return h.ContainerID == containerID && h.Interface == ifName
}
