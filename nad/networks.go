package nad

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	v1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"

	"github.com/berthdev/berth/delegate"
)

const (
	// defaultIfName is the CNI_IFNAME that container runtimes give to the pod's default network.
	defaultIfName = "eth0"
	// multusNamespace is where Multus looks for a default network that is named without namespace.
	multusNamespace = "kube-system"
	// ifNameLen is the kernel's IFNAMSIZ without the final zero byte.
	ifNameLen = 15
)

// Interface is one interface of a pod.
type Interface struct {
	Name string
	// NAD is "namespace/name" of the NetworkAttachmentDefinition; empty for the cluster's default network.
	NAD string
	// Default: it is the pod's default network, whose address is the pod's IP.
	Default bool
	// DefaultRoute: the pod's default route goes through it. At most one interface for each family; the default network
	// unless the networks annotation gives another a "default-route".
	DefaultRoute bool
	// Gateways of "default-route". Multus replaces the default routes of the interface by these.
	Gateways []netip.Addr
	// IPs asked for in the networks annotation. Multus does not pass those of the default network on in runtimeConfig.
	IPs []netip.Addr
	// Claim is its ipam-claim-reference: the name of an IPAMClaim in the pod's namespace.
	Claim string
}

// said is the annotation that tells of the interface.
func (i Interface) said() string {
	if i.Default {
		return defaultNetworkAnnotation
	}
	return networksAnnotation
}

// Interfaces lists the interfaces of a pod in the order in which Multus makes them: the default network, then the networks
// of the annotation. As in Multus (getIfname), one without a name is called net<n>, n being its position in that list.
//
// A cluster whose Multus configuration has defaultNetworks has more than this: they come before the pod's own networks and
// shift the numbers. Name the interfaces in the annotation there.
func Interfaces(podAnnotations map[string]string, namespace string) ([]Interface, error) {
	first := Interface{Name: defaultIfName, Default: true}
	if s, ok := podAnnotations[defaultNetworkAnnotation]; ok {
		networks, err := parseNetworks(s, multusNamespace)
		if err == nil && len(networks) != 1 {
			err = fmt.Errorf("names %d networks; name one", len(networks))
		}
		if err != nil {
			return nil, annotationError("pod", defaultNetworkAnnotation, s, err)
		}
		first.of(networks[0])
	}
	list := []Interface{first}

	s := podAnnotations[networksAnnotation]
	networks, err := parseNetworks(s, namespace)
	if err != nil {
		return nil, annotationError("pod", networksAnnotation, s, err)
	}
	for i, n := range networks {
		next := Interface{Name: fmt.Sprintf("net%d", i+1)}
		next.of(n)
		for _, other := range list {
			if other.Name == next.Name {
				return nil, annotationError("pod", networksAnnotation, s, fmt.Errorf("gives two interfaces the name %s", next.Name))
			}
		}
		list = append(list, next)
	}

	asked := false
	for i := range list {
		list[i].DefaultRoute = list[i].Gateways != nil
		asked = asked || list[i].DefaultRoute
	}
	list[0].DefaultRoute = list[0].DefaultRoute || !asked
	return list, nil
}

func (i *Interface) of(n network) {
	i.NAD = n.Namespace + "/" + n.Name
	if n.InterfaceRequest != "" {
		i.Name = n.InterfaceRequest
	}
	i.IPs, i.Gateways, i.Claim = n.ips, n.gateways, n.IPAMClaimReference
}

// network is one network selection element, with its addresses parsed.
type network struct {
	v1.NetworkSelectionElement
	ips, gateways []netip.Addr
}

// parseNetworks reads a networks annotation, in JSON or as "namespace/name@interface, …".
//
// It stands in for ParseNetworkAnnotation of the client library (v1.7.7), which panics on [null], and which refuses names of
// interfaces that Multus takes ("eth1.100"): a pod that Multus starts must not fail here.
func parseNetworks(s, namespace string) ([]network, error) {
	if s == "" {
		return nil, nil
	}
	var list []network
	if strings.ContainsAny(s, `[{"`) {
		var elements []json.RawMessage
		if err := json.Unmarshal([]byte(s), &elements); err != nil {
			return nil, fmt.Errorf("is no list in JSON: %w", err)
		}
		for _, e := range elements {
			n, err := parseElement(e)
			if err != nil {
				return nil, err
			}
			list = append(list, n)
		}
	} else {
		for item := range strings.SplitSeq(s, ",") {
			n, err := parseShort(strings.TrimSpace(item))
			if err != nil {
				return nil, err
			}
			list = append(list, n)
		}
	}
	for i := range list {
		n := &list[i]
		if n.Namespace == "" {
			n.Namespace = namespace
		}
		switch name := n.InterfaceRequest; {
		case n.Name == "":
			return nil, errors.New("has an element that names no network")
		case len(name) > ifNameLen || strings.ContainsAny(name, " \t\n\v\f\r/:") || name == "." || name == "..":
			return nil, fmt.Errorf("has the interface %q; a name has 1 to %d characters, and neither space nor / nor : among them", name, ifNameLen)
		}
	}
	return list, nil
}

func parseElement(data json.RawMessage) (network, error) {
	var n network
	if err := json.Unmarshal(data, &n.NetworkSelectionElement); err != nil {
		return n, fmt.Errorf("has the malformed element %s: %w", data, err)
	}
	// An older key, which Multus still reads.
	var old struct {
		Interface string `json:"interfaceRequest"`
	}
	if json.Unmarshal(data, &old) == nil && n.InterfaceRequest == "" {
		n.InterfaceRequest = old.Interface
	}
	for _, ip := range n.IPRequest {
		addr, err := delegate.ParseAddr(ip)
		if err != nil {
			return n, fmt.Errorf("network %s: ips: %w", n.Name, err)
		}
		n.ips = delegate.MergeAddrs(n.ips, addr)
	}
	for _, ip := range n.GatewayRequest {
		addr, ok := netip.AddrFromSlice(ip)
		if !ok {
			return n, fmt.Errorf("network %s: default-route: an empty address", n.Name)
		}
		n.gateways = append(n.gateways, addr.Unmap())
	}
	return n, nil
}

func parseShort(item string) (network, error) {
	var n network
	name, ifName, named := strings.Cut(item, "@")
	if ns, rest, ok := strings.Cut(name, "/"); ok {
		n.Namespace, name = strings.TrimSpace(ns), rest
		if n.Namespace == "" {
			return n, fmt.Errorf("has %q; write namespace/name", item)
		}
	}
	n.Name, n.InterfaceRequest = strings.TrimSpace(name), strings.TrimSpace(ifName)
	if strings.ContainsAny(n.Name, "/ ") || named && n.InterfaceRequest == "" {
		return n, fmt.Errorf("has %q; write name, namespace/name or namespace/name@interface, separated by commas", item)
	}
	return n, nil
}

// annotationError names the place, the annotation and its value: that on one line and between back quotes, since JSON is hard
// to read with each of its quotes escaped. Only a value with a back quote or an unprintable character in it is escaped.
func annotationError(of, key, value string, err error) error {
	return fmt.Errorf("%s annotation %s: %#q %w", of, key, short(strings.Join(strings.Fields(value), " ")), err)
}

// short keeps a message readable, since annotations may have 256 KiB.
func short(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
