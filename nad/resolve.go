package nad

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/berthdev/berth/delegate"
)

// Ask is what one interface of one pod asks for. At most one of Any and the pair IPv4, IPv6 is set; neither means the pools
// marked default.
type Ask struct {
	// Source is where the pools were said, for messages: "pod annotation berth.dev/ippools", "namespace annotation …", "NAD
	// ipam section"; empty: nowhere.
	Source string
	// Any has pool patterns in order; each pool gives an address of each family that it has.
	Any []string
	// IPv4 and IPv6 have pool patterns in order for one family. If only one is set, the interface gets no address of the other.
	IPv4, IPv6 []string
	// Subnets that the pools of the pod's workload are carved from, which serve the interface then; with them, none of the above is set.
	Subnets Subnets
	// IPs asked for, each once: the pod gets all of them.
	IPs []netip.Addr
	// Fixed are the addresses of the pod's template (berth.dev/ips), each once, in the written order: the pod gets one of each
	// family that is among them. They are never there together with IPs.
	Fixed []netip.Addr
	// Claim is the name of an IPAMClaim in the pod's namespace (ipam-claim-reference), Identity that of the annotation
	// berth.dev/identity. See the package comment for which counts.
	Claim, Identity string
	// Netspace that the pod names, and NetspaceSource the annotation where, for messages.
	Netspace, NetspaceSource string
	// Routes beside those of the pools: first the network's, then the pod's.
	Routes []Route
	// Steering is "", "Auto", "Always" or "Never"; the empty one leaves it to the pool.
	Steering string
	// SourceGuard is "", "Enabled" or "Disabled"; the empty one leaves it to the pool. GuardSource is where that was said, for messages.
	SourceGuard, GuardSource string
	// Allowed are prefixes that the interface may send as beside its leases.
	Allowed []netip.Prefix
	// NoFastMode: sockets leave Services to the node.
	NoFastMode bool
	// NoDefaultRoute: no default route through this interface, whatever its pool says (Spiderpool's "cleangateway").
	NoDefaultRoute bool
	// DefaultRoute: the interface is the one that the pod's default route goes through, by its networks annotation.
	DefaultRoute bool
	// Default: the interface is the pod's default network.
	Default bool
}

// Input is what is known of one interface of one pod.
type Input struct {
	PodAnnotations, NamespaceAnnotations map[string]string
	// Namespace of the pod: that of networks named without one.
	Namespace string
	// IfName is CNI_IFNAME.
	IfName string
	// Config has the ipam section and asked-for addresses; nil if it is not known.
	Config *delegate.Config
	// IPs asked for in CNI_ARGS.
	IPs []netip.Addr
}

// Resolve says what the interface asks for. Warnings are for events on the pod. An error is the user's (CNI error code 103)
// and says what to change.
func Resolve(in Input) (Ask, []string, error) {
	interfaces, err := Interfaces(in.PodAnnotations, in.Namespace)
	if err != nil {
		return Ask{}, nil, err
	}
	var warnings []string
	warn := func(format string, args ...any) {
		if w := fmt.Sprintf(format, args...); !slices.Contains(warnings, w) {
			warnings = append(warnings, w)
		}
	}
	if err := ofPods.check("pod", in.PodAnnotations); err != nil {
		return Ask{}, nil, err
	}

	var ask Ask
	places := "runtimeConfig, args or CNI_ARGS" // that ask for IPs
	for _, i := range interfaces {
		if i.Name == in.IfName {
			ask.Default, ask.DefaultRoute, ask.Claim = i.Default, i.DefaultRoute, i.Claim
			ask.IPs = delegate.MergeAddrs(ask.IPs, i.IPs...)
			if i.IPs != nil {
				places = "annotation " + i.said()
			}
			if err := checkClaim(i, in.PodAnnotations); err != nil {
				return Ask{}, nil, err
			}
		}
	}
	ask.IPs = delegate.MergeAddrs(ask.IPs, in.IPs...)
	if c := in.Config; c != nil {
		ask.IPs = delegate.MergeAddrs(ask.IPs, c.IPs...)
		ask.Steering = c.IPAM.Steering
		if ask.SourceGuard = c.IPAM.SourceGuard; ask.SourceGuard != "" {
			ask.GuardSource = "sourceGuard of the NAD ipam section"
		}
		ask.NoDefaultRoute = c.IPAM.NoDefaultRoute
		for _, r := range c.IPAM.Routes {
			ask.Routes = append(ask.Routes, Route{Route: r})
		}
	}
	if s, ok := in.PodAnnotations[IPsAnnotation]; ok {
		ask.Fixed, err = ipsOf(in.IfName, s, interfaces)
		if err == nil && ask.Fixed != nil && ask.IPs != nil {
			err = fmt.Errorf("is for interface %s too, for which ips in %s ask for %s; leave one of the two out", in.IfName, places, join(ask.IPs))
		}
		if err != nil {
			return Ask{}, nil, annotationError("pod", IPsAnnotation, s, err)
		}
	}
	if s, ok := in.PodAnnotations[IdentityAnnotation]; ok {
		ask.Identity = strings.TrimSpace(s)
		if err := checkName(ask.Identity); err != nil {
			return Ask{}, nil, annotationError("pod", IdentityAnnotation, s, err)
		}
	}
	if ask.Netspace, ask.NetspaceSource, err = netspaceOf(in.PodAnnotations, warn); err != nil {
		return Ask{}, nil, err
	}
	if s, ok := in.PodAnnotations[SteeringAnnotation]; ok {
		if ask.Steering, err = delegate.ParseSteering(strings.TrimSpace(s)); err != nil {
			return Ask{}, nil, fmt.Errorf("pod annotation %s: %w", SteeringAnnotation, err)
		}
	}
	if s, ok := in.PodAnnotations[GuardAnnotation]; ok {
		if ask.SourceGuard, err = delegate.ParseSourceGuard(strings.TrimSpace(s)); err != nil {
			return Ask{}, nil, fmt.Errorf("pod annotation %s: %w", GuardAnnotation, err)
		}
		ask.GuardSource = "pod annotation " + GuardAnnotation
	}
	if s, ok := in.PodAnnotations[AllowedAnnotation]; ok {
		if ask.Allowed, err = parseAllowed(s); err != nil {
			return Ask{}, nil, annotationError("pod", AllowedAnnotation, s, err)
		}
	}
	if s, ok := in.PodAnnotations[FastModeAnnotation]; ok {
		if ask.NoFastMode, err = parseFastMode(s); err != nil {
			return Ask{}, nil, annotationError("pod", FastModeAnnotation, s, err)
		}
	}
	if key := pick(in.PodAnnotations, warn, []string{RoutesAnnotation}, []string{spiderRoutes}); key != nil {
		value := in.PodAnnotations[key[0]]
		routes, err := parseRoutes(value)
		if err != nil {
			return Ask{}, nil, annotationError("pod", key[0], value, err)
		}
		ask.Routes = append(ask.Routes, routes...)
	}

	if carve, ok, err := carveOf(in.PodAnnotations, in.IfName, interfaces, warn); err != nil {
		return Ask{}, nil, err
	} else if ok {
		if _, _, err := sizeOf(in.PodAnnotations, warn); err != nil {
			return Ask{}, nil, err
		}
		ask.Source, ask.Subnets = carve.source, carve.Subnets
		return ask, warnings, nil
	}
	p, source, err := resolvePools(in, interfaces, warn)
	if err != nil {
		return Ask{}, nil, err
	}
	ask.Source, ask.Any, ask.IPv4, ask.IPv6 = source, p.any, p.ipv4, p.ipv6
	if p.noDefaultRoute != nil {
		ask.NoDefaultRoute = *p.noDefaultRoute
	}
	return ask, warnings, nil
}

// resolvePools goes through the table of the package comment.
func resolvePools(in Input, interfaces []Interface, warn func(string, ...any)) (p pools, source string, err error) {
	pod := in.PodAnnotations
	for _, key := range pick(pod, warn, []string{PoolsAnnotation, PoolAnnotation}, []string{spiderPools, spiderPool}) {
		source = "pod annotation " + key
		if key == PoolAnnotation || key == spiderPool {
			if p, err = parsePool(pod[key]); err != nil {
				err = annotationError("pod", key, pod[key], err)
			}
			return p, source, err
		}
		p, ok, err := poolsOf(in.IfName, pod[key], interfaces)
		if err != nil {
			return pools{}, "", annotationError("pod", key, pod[key], err)
		}
		if ok {
			return p, source, nil
		}
	}

	ns := in.NamespaceAnnotations
	if err := ofNamespaces.check("namespace", ns); err != nil {
		return pools{}, "", err
	}
	switch keys := pick(ns, warn, []string{PoolAnnotation}, []string{spiderIPv4, spiderIPv6}); {
	case keys == nil:
	case keys[0] == PoolAnnotation:
		if p, err = parsePool(ns[PoolAnnotation]); err != nil {
			err = annotationError("namespace", PoolAnnotation, ns[PoolAnnotation], err)
		}
		return p, "namespace annotation " + PoolAnnotation, err
	default:
		p, err = spiderNamespace(ns, keys)
		return p, "namespace annotation " + strings.Join(keys, " and "), err
	}

	if c := in.Config; c != nil && (c.IPAM.Pools != nil || c.IPAM.IPv4 != nil || c.IPAM.IPv6 != nil) {
		return pools{any: c.IPAM.Pools, ipv4: c.IPAM.IPv4, ipv6: c.IPAM.IPv6}, "NAD ipam section", nil
	}
	return pools{}, "", nil
}

// poolsOf finds the entry for ifName in an ippools annotation. None is no error: the next place may say more.
func poolsOf(ifName, value string, interfaces []Interface) (pools, bool, error) {
	entries, err := parsePools(value)
	if err != nil {
		return pools{}, false, err
	}
	var named []string
	for _, e := range entries {
		named = append(named, e.ifName)
	}
	if named[0] == "" {
		return poolsByOrder(ifName, entries, namesOf(interfaces))
	}
	if err := checkNamed(named, ifName, interfaces); err != nil {
		return pools{}, false, err
	}
	for _, e := range entries {
		if e.ifName == ifName {
			return e.pools, true, nil
		}
	}
	return pools{}, false, nil
}

// checkNamed refuses an annotation that speaks of an interface which the pod does not have.
func checkNamed(named []string, ifName string, interfaces []Interface) error {
	has := namesOf(interfaces)
	for _, name := range named {
		if name != ifName && !slices.Contains(has, name) { // the runtime may know one that the annotations do not tell of
			return fmt.Errorf("names interface %s, but the pod has %s; correct it, or name the interface in %s (NETWORK@%s)",
				name, strings.Join(has, ", "), networksAnnotation, name)
		}
	}
	return nil
}

func namesOf(interfaces []Interface) (names []string) {
	for _, i := range interfaces {
		names = append(names, i.Name)
	}
	return names
}

// poolsByOrder gives the entries of Spiderpool's list without interface names to the interfaces in their order. There,
// that is the order of the interfaces that Spiderpool serves. Berth takes all of them, or all but the default network
// (which is then a cluster network such as Calico's), whichever the number of entries fits.
func poolsByOrder(ifName string, entries []entry, names []string) (pools, bool, error) {
	switch len(entries) {
	case len(names):
	case len(names) - 1:
		names = names[1:]
	default:
		return pools{}, false, fmt.Errorf("has %d entries without interface, but the pod has %s; name the interface in each entry",
			len(entries), strings.Join(names, ", "))
	}
	for i, name := range names {
		if name == ifName {
			return entries[i].pools, true, nil
		}
	}
	return pools{}, false, nil
}

func spiderNamespace(ns map[string]string, keys []string) (p pools, err error) {
	for _, key := range keys {
		list, err := parseList(ns[key])
		if err != nil {
			return pools{}, annotationError("namespace", key, ns[key], err)
		}
		if key == spiderIPv4 {
			p.ipv4 = list
		} else {
			p.ipv6 = list
		}
	}
	return p, nil
}

// pick gives those of the native keys that are there, in their order; else those of the foreign keys. Of foreign keys beside
// native ones it warns.
func pick(annotations map[string]string, warn func(string, ...any), native, foreign []string) []string {
	have := func(keys []string) (found []string) {
		for _, k := range keys {
			if _, ok := annotations[k]; ok {
				found = append(found, k)
			}
		}
		return found
	}
	n, f := have(native), have(foreign)
	if n == nil {
		return f
	}
	if f != nil {
		warn("annotation %s is ignored, since %s is set too", strings.Join(f, " and "), strings.Join(n, " and "))
	}
	return n
}
