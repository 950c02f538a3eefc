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

// NewLease is the lease by whose creation holder claims a.
func NewLease(p *Pool, a netip.Addr, holder v1alpha1.LeaseHolder, now time.Time) *v1alpha1.IPLease {
	l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: LeaseName(p.Network, a)}}
	l.Spec.Network = p.Network
	l.Spec.Address = a.String()
	Bind(l, p, holder, now)
	return l
}

// Bind gives a free lease to holder, or a bound one to a newer sandbox of the same pod.
func Bind(l *v1alpha1.IPLease, p *Pool, holder v1alpha1.LeaseHolder, now time.Time) {
	l.Spec.Pool = p.Name
	l.Spec.Phase = v1alpha1.LeaseBound
	l.Spec.Holder = &holder
	at := metav1.NewTime(now)
	l.Spec.BoundAt, l.Spec.ReleasedAt = &at, nil
	if l.Labels == nil {
		l.Labels = map[string]string{}
	}
	a, _ := netip.ParseAddr(l.Spec.Address)
	l.Labels[v1alpha1.LabelPool] = p.Name
	l.Labels[v1alpha1.LabelNode] = LabelValue(holder.Node)
	l.Labels[v1alpha1.LabelNamespace] = holder.Namespace
	l.Labels[v1alpha1.LabelFamily] = string(FamilyOf(a))
}

// Release frees a bound lease. Its holder stays, as the last one.
func Release(l *v1alpha1.IPLease, now time.Time) {
	at := metav1.NewTime(now)
	l.Spec.Phase = v1alpha1.LeaseReleased
	l.Spec.ReleasedAt = &at
}

// LabelValue shortens what is too long for a label value (63 characters; node names may have 253) so that it stays unique.
func LabelValue(s string) string {
	const limit = 63
	if len(s) <= limit {
		return s
	}
	return fmt.Sprintf("%s-%016x", strings.TrimRight(s[:limit-17], "-."), Seed(s))
}

// SameSandbox says whether the lease is bound to this interface of this sandbox.
func SameSandbox(l *v1alpha1.IPLease, containerID, ifName string) bool {
	h := l.Spec.Holder
	return l.Spec.Phase == v1alpha1.LeaseBound && h != nil && h.ContainerID == containerID && h.Interface == ifName
}
