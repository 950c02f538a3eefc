package service

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// serviceOf "YAML of its spec", default/web.
func serviceOf(t testing.TB, spec string) *corev1.Service {
	t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	// What surrounds the spec is in the same document, so that tables stay short.
	var all struct {
		corev1.ServiceSpec `json:",inline"`
		Ingress            []corev1.LoadBalancerIngress `json:"ingress"`
		Labels             map[string]string            `json:"labels"`
	}
	if err := yaml.UnmarshalStrict([]byte("{"+spec+"}"), &all); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	s.Spec, s.Status.LoadBalancer.Ingress, s.Labels = all.ServiceSpec, all.Ingress, all.Labels
	return s
}

// sliceOf "NAME PORTS: ADDRESS WORD...; ..." of Service default/web. A port is name=number or name=number/PROTOCOL, a word ready (the
// default), notready, terminating (and serving), gone, on=NODE, zones=A,B, nodes=A,B.
func sliceOf(t testing.TB, text string) *discoveryv1.EndpointSlice {
	t.Helper()
	head, list, _ := strings.Cut(text, ": ")
	fields := strings.Fields(head)
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: fields[0], Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}}
	for _, f := range fields[1:] {
		name, rest, _ := strings.Cut(f, "=")
		number, protocol, _ := strings.Cut(rest, "/")
		p := discoveryv1.EndpointPort{Name: &name}
		if protocol != "" {
			p.Protocol = (*corev1.Protocol)(&protocol)
		}
		var n int32
		if _, err := fmt.Sscan(number, &n); err == nil {
			p.Port = &n
		}
		s.Ports = append(s.Ports, p)
	}
	for _, one := range strings.Split(list, "; ") {
		words := strings.Fields(one)
		if len(words) == 0 {
			continue
		}
		if strings.Contains(words[0], ":") && !strings.HasPrefix(words[0], "::ffff:") {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
		s.Endpoints = append(s.Endpoints, endpointOf(t, words))
	}
	return s
}

func endpointOf(t testing.TB, words []string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{words[0]}}
	conditions := func(ready, serving, terminating bool) {
		e.Conditions = discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
	}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "ready":
			conditions(true, true, false)
		case "notready":
			conditions(false, false, false)
		case "terminating":
			conditions(false, true, true)
		case "published": // publishNotReadyAddresses, while it ends
			conditions(true, true, true)
		case "gone":
			conditions(false, false, true)
		case "on":
			e.NodeName = &value
		case "zones", "nodes":
			if e.Hints == nil {
				e.Hints = &discoveryv1.EndpointHints{}
			}
			for _, name := range strings.Split(value, ",") {
				if key == "zones" {
					e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: name})
				} else {
					e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: name})
				}
			}
		default:
			t.Fatalf("endpoint %q: word %q", words, w)
		}
	}
	return e
}

// nodeOf "NAME ZONE ADDRESS...".
func nodeOf(text string) *Node {
	f := strings.Fields(text)
	n := &Node{Name: f[0], Zone: strings.Trim(f[1], "-")}
	for _, a := range f[2:] {
		n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
	}
	return n
}

// poolOf "NETWORK CIDR RANGE...".
func poolOf(t interface {
	Helper()
	Fatal(...any)
}, text string) *ipam.Pool {
	t.Helper()
	f := strings.Fields(text)
	p, err := ipam.Compile(&v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: f[0]}, Spec: v1alpha1.IPPoolSpec{
		Network: f[0], Subnets: []v1alpha1.PoolSubnet{{CIDR: f[1], IPs: f[2:]}}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// show a Service, a line for each Port.
func show(s Service) (out []string) {
	for _, p := range s.Ports {
		var b strings.Builder
		b.WriteString(p.Name + ":")
		for _, f := range p.Frontends {
			fmt.Fprintf(&b, " %s", f)
		}
		b.WriteString(" ->")
		for i, e := range slices.Concat(p.Backends, p.Staying) {
			if i == len(p.Backends) {
				b.WriteString(" staying")
			}
			fmt.Fprintf(&b, " %s", netip.AddrPortFrom(e.Address, e.Port))
			if e.Network != "" {
				b.WriteString("@" + e.Network)
			}
			if e.Node {
				b.WriteString("!node")
			}
		}
		if p.Drop {
			b.WriteString(" drop")
		}
		if p.Affinity != 0 {
			fmt.Fprintf(&b, " affinity=%s", p.Affinity)
		}
		if p.Sources != nil {
			fmt.Fprintf(&b, " from=%s", p.Sources)
		}
		if p.Steered != "" {
			fmt.Fprintf(&b, " steered=%q", p.Steered)
		}
		out = append(out, b.String())
	}
	return out
}

func texts(errs []error) (out []string) {
	for _, err := range errs {
		out = append(out, err.Error())
	}
	return out
}
