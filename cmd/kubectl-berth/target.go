package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// target is what is connected to: an address and port, or a Service.
type target struct {
	address         netip.AddrPort // not valid: a Service
	namespace, name string
	port            string          // number or name; "" for the only one
	protocol        corev1.Protocol // "" for TCP, or what the Service has
}

// parseTarget of the forms
//
//	[svc/][NAMESPACE/]NAME[:PORT][/PROTOCOL]   PROTOCOL after a PORT only, else it would be a name
//	ADDRESS:PORT[/PROTOCOL]
func parseTarget(s string) (t target, err error) {
	rest := s
	if i := strings.LastIndex(s, "/"); i >= 0 && strings.Contains(s[:i], ":") {
		t.protocol, rest = corev1.Protocol(strings.ToUpper(s[i+1:])), s[:i]
		if !slices.Contains([]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}, t.protocol) {
			return t, fmt.Errorf("%q: protocol %q is none of tcp, udp, sctp", s, s[i+1:])
		}
	}
	if a, err := netip.ParseAddrPort(rest); err == nil {
		t.address = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		return t, nil
	}
	if a, err := netip.ParseAddr(rest); err == nil {
		return t, fmt.Errorf("%q has no port, as in %s", s, netip.AddrPortFrom(a, 80))
	}
	for _, kind := range []string{"svc/", "service/", "services/"} {
		if after, ok := strings.CutPrefix(rest, kind); ok {
			rest = after
			break
		}
	}
	t.name, t.port, _ = strings.Cut(rest, ":")
	namespace, name, two := strings.Cut(t.name, "/")
	if two {
		t.namespace, t.name = namespace, name
	}
	// Neither name has a dot: who writes one means an address, or a name of DNS.
	if t.name == "" || two && t.namespace == "" || strings.ContainsAny(t.namespace+t.name, "/. ") {
		return t, fmt.Errorf("%q is neither SERVICE[:PORT][/PROTOCOL], with NAMESPACE/ before it if need be, nor ADDRESS:PORT[/PROTOCOL]", s)
	}
	return t, nil
}

// resolve to ADDRESS:PORT/PROTOCOL for each cluster IP, and the ready endpoints as far as they can be read.
func (t target) resolve(ctx context.Context, c cluster, namespace string) (frontends []string, endpoints []netip.AddrPort, err error) {
	if t.address.IsValid() {
		protocol := t.protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		return []string{fmt.Sprintf("%s/%s", t.address, protocol)}, nil, nil
	}
	if t.namespace != "" {
		namespace = t.namespace
	}
	svc, err := c.service(ctx, namespace, t.name)
	if err != nil {
		return nil, nil, fmt.Errorf("Service %s/%s: %w", namespace, t.name, err)
	}
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return nil, nil, fmt.Errorf("Service %s/%s is a name for %s and has no address; name an address and port", namespace, t.name, svc.Spec.ExternalName)
	case svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == "":
		return nil, nil, fmt.Errorf("Service %s/%s has no cluster IP: its clients connect to endpoints; name one of them with its port", namespace, t.name)
	}
	port, err := t.portOf(svc)
	if err != nil {
		return nil, nil, err
	}
	addresses := svc.Spec.ClusterIPs
	if len(addresses) == 0 {
		addresses = []string{svc.Spec.ClusterIP}
	}
	for _, s := range addresses {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, nil, fmt.Errorf("Service %s/%s: cluster IP: %w", namespace, t.name, err)
		}
		frontends = append(frontends, fmt.Sprintf("%s/%s", netip.AddrPortFrom(a, uint16(port.Port)), protocolOf(port)))
	}
	all, err := c.slices(ctx, namespace, t.name)
	if err != nil {
		return frontends, nil, nil // the agent says what it does not know
	}
	return frontends, ready(all, port), nil
}

func protocolOf(p corev1.ServicePort) corev1.Protocol {
	if p.Protocol == "" {
		return corev1.ProtocolTCP
	}
	return p.Protocol
}

// portOf the Service that is meant. Of a number that is there twice, TCP is.
func (t target) portOf(svc *corev1.Service) (corev1.ServicePort, error) {
	var there []string
	var found []corev1.ServicePort
	for _, p := range svc.Spec.Ports {
		text := fmt.Sprintf("%d/%s", p.Port, strings.ToLower(string(protocolOf(p))))
		if p.Name != "" {
			text = p.Name + " (" + text + ")"
		}
		there = append(there, text)
		if (t.port == "" || t.port == p.Name || t.port == strconv.Itoa(int(p.Port))) && (t.protocol == "" || t.protocol == protocolOf(p)) {
			found = append(found, p)
		}
	}
	name := svc.Namespace + "/" + svc.Name
	switch {
	case len(found) == 0:
		return corev1.ServicePort{}, fmt.Errorf("Service %s has no port %s; it has %s", name, strings.Trim(t.port+"/"+strings.ToLower(string(t.protocol)), "/"), strings.Join(there, ", "))
	case len(found) > 1 && t.port == "":
		return corev1.ServicePort{}, fmt.Errorf("Service %s has several ports; name one of %s", name, strings.Join(there, ", "))
	}
	if i := slices.IndexFunc(found, func(p corev1.ServicePort) bool { return protocolOf(p) == corev1.ProtocolTCP }); i >= 0 {
		return found[i], nil
	}
	return found[0], nil
}

// ready endpoints of a port.
func ready(all []discoveryv1.EndpointSlice, port corev1.ServicePort) (out []netip.AddrPort) {
	for _, s := range all {
		for _, p := range s.Ports {
			if p.Port == nil || p.Name == nil && port.Name != "" || p.Name != nil && *p.Name != port.Name || p.Protocol != nil && *p.Protocol != protocolOf(port) {
				continue
			}
			for _, e := range s.Endpoints {
				if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 {
					continue
				}
				if a, err := netip.ParseAddr(e.Addresses[0]); err == nil {
					out = append(out, netip.AddrPortFrom(a, uint16(*p.Port)))
				}
			}
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

// podOf is the node of a pod, and its NAMESPACE/NAME.
func podOf(ctx context.Context, c cluster, namespace, arg string) (node, name string, err error) {
	name = arg
	if kind, rest, ok := strings.Cut(arg, "/"); ok {
		if !slices.Contains([]string{"pod", "pods", "po"}, kind) {
			return "", "", fmt.Errorf("%q is not pod/NAME; its namespace is -n", arg)
		}
		name = rest
	}
	pod, err := c.pod(ctx, namespace, name)
	if err != nil {
		return "", "", fmt.Errorf("pod %s/%s: %w", namespace, name, err)
	}
	name = namespace + "/" + name
	switch {
	case pod.Spec.NodeName == "":
		return "", "", fmt.Errorf("pod %s is on no node yet", name)
	case pod.Spec.HostNetwork:
		return "", "", fmt.Errorf("pod %s has the network of its node: nothing of it goes by Berth", name)
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return "", "", fmt.Errorf("pod %s has finished (%s)", name, pod.Status.Phase)
	}
	return pod.Spec.NodeName, name, nil
}
