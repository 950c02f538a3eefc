package service

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	netutils "k8s.io/utils/net"
)

// ProxyNameLabel on a Service says that it is served by somebody else.
const ProxyNameLabel = "service.kubernetes.io/service-proxy-name"

// DefaultAffinity is how long ClientIP affinity lasts if a Service does not say.
const DefaultAffinity = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second

// Spec is what is kept of a Service object, small, since there may be ten thousands. It is not changed once made.
type Spec struct {
	Name    string // namespace/name
	Created int64  // in seconds, since the epoch

	clusterIPs  []netip.Addr // one of a family
	externalIPs []netip.Addr // of these families only, as all that follows
	balancerIPs []netip.Addr
	sources     []netip.Prefix // none of a family: all clients of it
	ports       []specPort

	affinity      time.Duration
	internalLocal bool
	externalLocal bool
}

type specPort struct {
	name     string
	port     uint16
	nodePort uint16 // 0: none
	protocol Protocol
}

// ReadSpec of a Service. It is nil if the Service has no frontends: headless, ExternalName, somebody else's. What is wrong in the object
// is left out; the errors say what and why.
func ReadSpec(s *corev1.Service) (*Spec, []error) {
	if _, others := s.Labels[ProxyNameLabel]; others || s.Spec.Type == corev1.ServiceTypeExternalName ||
		s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil, nil
	}
	out := &Spec{Name: s.Namespace + "/" + s.Name, Created: s.CreationTimestamp.Unix()}
	var bad faults
	out.readAddresses(s, &bad)
	out.readPorts(s, &bad)
	if len(out.clusterIPs) == 0 || len(out.ports) == 0 {
		return nil, bad.list
	}
	if p := s.Spec.InternalTrafficPolicy; p != nil {
		out.internalLocal = *p == corev1.ServiceInternalTrafficPolicyLocal
	}
	external := s.Spec.Type == corev1.ServiceTypeLoadBalancer || s.Spec.Type == corev1.ServiceTypeNodePort || len(s.Spec.ExternalIPs) > 0
	out.externalLocal = external && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		out.affinity = DefaultAffinity
		if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil && *c.ClientIP.TimeoutSeconds > 0 {
			out.affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	return out, bad.list
}

func (s *Spec) readAddresses(o *corev1.Service, bad *faults) {
	cluster := o.Spec.ClusterIPs
	if len(o.Spec.IPFamilies) == 0 || len(cluster) == 0 {
		cluster = []string{o.Spec.ClusterIP} // as Services were before they had two
	}
	for i, text := range cluster {
		a, err := parseFrontend(text)
		if err == nil && i < len(o.Spec.IPFamilies) && o.Spec.IPFamilies[i] != familyOf(a) {
			err = fmt.Errorf("%s is not of ipFamilies[%d], %s", a, i, o.Spec.IPFamilies[i])
		}
		if err == nil && s.has(a.Is4()) {
			err = fmt.Errorf("%s is the second one of its family", a)
		}
		if err != nil {
			bad.add("clusterIPs[%d]: %w", i, err)
			continue
		}
		s.clusterIPs = append(s.clusterIPs, a)
	}
	add := func(to *[]netip.Addr, text, field string, i int) {
		a, err := parseFrontend(text)
		switch {
		case err != nil:
			bad.add("%s[%d]: %w", field, i, err)
		case s.has(a.Is4()) && !slices.Contains(*to, a): // one of another family is no fault: load balancers give both
			*to = append(*to, a)
		}
	}
	for i, text := range o.Spec.ExternalIPs {
		add(&s.externalIPs, text, "externalIPs", i)
	}
	for i, ing := range o.Status.LoadBalancer.Ingress {
		if ing.IP != "" && (ing.IPMode == nil || *ing.IPMode == corev1.LoadBalancerIPModeVIP) {
			add(&s.balancerIPs, ing.IP, "status.loadBalancer.ingress", i)
		}
	}
	s.readSources(o, bad)
}

func (s *Spec) readSources(o *corev1.Service, bad *faults) {
	open := map[bool]bool{} // families all of whose clients may come
	for i, text := range o.Spec.LoadBalancerSourceRanges {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		_, n, err := netutils.ParseCIDRSloppy(text)
		if err != nil {
			bad.add("loadBalancerSourceRanges[%d]: %q is not a CIDR", i, text)
			continue
		}
		p := prefixOf(n)
		if p.Bits() == 0 {
			open[p.Addr().Is4()] = true
		}
		s.sources = append(s.sources, p)
	}
	s.sources = slices.DeleteFunc(s.sources, func(p netip.Prefix) bool { return open[p.Addr().Is4()] || !s.has(p.Addr().Is4()) })
	slices.SortFunc(s.sources, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	s.sources = slices.Compact(s.sources)
}

func (s *Spec) readPorts(o *corev1.Service, bad *faults) {
	for i, p := range o.Spec.Ports {
		protocol, ok := protocolOf(p.Protocol)
		switch {
		case !ok:
			bad.add("ports[%d]: protocol %q is none of TCP, UDP, SCTP", i, p.Protocol)
		case !isPort(p.Port):
			bad.add("ports[%d]: port %d is not 1 to 65535", i, p.Port)
		case p.NodePort != 0 && !isPort(p.NodePort):
			bad.add("ports[%d]: nodePort %d is not 1 to 65535", i, p.NodePort)
		case slices.ContainsFunc(s.ports, func(o specPort) bool { return o.name == p.Name && o.protocol == protocol }):
			bad.add("ports[%d]: a second port with name %q and protocol %s", i, p.Name, protocol)
		case slices.ContainsFunc(s.ports, func(o specPort) bool {
			return o.protocol == protocol && (int32(o.port) == p.Port || p.NodePort != 0 && int32(o.nodePort) == p.NodePort)
		}):
			bad.add("ports[%d]: port %d or nodePort %d is another port's of protocol %s", i, p.Port, p.NodePort, protocol)
		default:
			s.ports = append(s.ports, specPort{p.Name, uint16(p.Port), uint16(p.NodePort), protocol})
		}
	}
}

// has says whether the Service has a cluster IP of the family.
func (s *Spec) has(is4 bool) bool {
	return slices.ContainsFunc(s.clusterIPs, func(a netip.Addr) bool { return a.Is4() == is4 })
}

// sourcesOf a family; nil: all.
func (s *Spec) sourcesOf(is4 bool) (out []netip.Prefix) {
	for _, p := range s.sources {
		if p.Addr().Is4() == is4 {
			out = append(out, p)
		}
	}
	return out
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// Protocols of ports; none means TCP, as the API server's defaulting.
func protocolOf(p corev1.Protocol) (Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return TCP, true
	case corev1.ProtocolUDP:
		return UDP, true
	case corev1.ProtocolSCTP:
		return SCTP, true
	}
	return 0, false
}

func isPort(p int32) bool { return p > 0 && p <= 65535 }

// parse as the API server and kube-proxy do, which take leading zeros for decimal and IPv4-mapped addresses for IPv4.
func parse(text string) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(text))
	if !ok {
		return a, fmt.Errorf("%q is not an IP address", text)
	}
	return a.Unmap(), nil
}

// parseFrontend refuses addresses that are never a Service's, and whose capture would harm a pod: its own loopback, the segment's.
func parseFrontend(text string) (netip.Addr, error) {
	a, err := parse(text)
	if err == nil && special(a) != "" {
		err = fmt.Errorf("%s is %s", a, special(a))
	}
	return a, err
}

// special says what an address is that neither a Service nor an endpoint may have; "" for any other.
func special(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "unspecified"
	case a.IsLoopback():
		return "loopback"
	case a.IsLinkLocalUnicast():
		return "link-local"
	case a.IsMulticast():
		return "multicast"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "broadcast"
	}
	return ""
}

func prefixOf(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits).Masked()
}

// faults of one object; a few say what is the matter.
type faults struct{ list []error }

const maxFaults = 8

func (f *faults) add(format string, args ...any) {
	if len(f.list) < maxFaults {
		f.list = append(f.list, fmt.Errorf(format, args...))
	}
}
