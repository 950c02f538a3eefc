// Package ipam is the core of Berth: pools, candidates, the choice of an address, and the life of a lease. It decides and
// does nothing: no client, no netlink, no clock. Package ipam/store acts on its decisions.
package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Family is an address family.
type Family string

// The families, as Kubernetes writes them.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
)

// Families in the order in which results list them.
var Families = []Family{IPv4, IPv6}

// FamilyOf an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// DefaultCooldown of pools that do not say, that of the CRD.
const DefaultCooldown = 30 * time.Second

// Pool is an IPPool made ready for choosing.
type Pool struct {
	Name     string
	Network  string
	Kind     Kind
	Default  bool
	Steering v1alpha1.Steering
	Guard    v1alpha1.SourceGuard
	// FastMode: sockets may connect to backends of Services themselves.
	FastMode bool
	Deleting bool

	// Owner is the workload whose the pool is alone; nil: no workload's.
	Owner *v1alpha1.PoolOwner
	// Netspace whose pods it serves alone; "": those of none.
	Netspace string
	// VLAN that the parent of an interface must be on; 0: any.
	VLAN int32

	// Cooldown of released addresses.
	Cooldown time.Duration
	// ReservedFor bounds how long an address is kept for an identity without a pod; negative: no bound of the pool's.
	ReservedFor time.Duration
	// Delegate is the IPAM plugin that chooses the addresses; nil: Berth does.
	Delegate *v1alpha1.Delegate

	// Refusal is why the pool gives out no address at all; "" if it may.
	Refusal string

	subnets []Subnet
	ranges  map[Family]Ranges
	paired  bool

	nodes, namespaces, pods labels.Selector
}

// Subnet is one CIDR of a pool.
type Subnet struct {
	Prefix  netip.Prefix
	Gateway netip.Addr // zero: none
	Routes  []Route
	ranges  Ranges
}

// Route is given to pods with an address of the subnet. GW is the subnet's gateway where the route names none.
type Route struct {
	Dst netip.Prefix
	GW  netip.Addr
}

// Compile checks all of a pool's spec and makes it ready. The API server refuses most malformed pools already (CEL); the error
// here names field, value and remedy for the rest.
func Compile(p *v1alpha1.IPPool) (*Pool, error) {
	out := &Pool{
		Name:     p.Name,
		Network:  networkOf(p),
		Kind:     KindOf(p),
		Default:  p.Spec.Default,
		Steering: p.Spec.Steering,
		Guard:    cmp.Or(p.Spec.SourceGuard, v1alpha1.SourceGuardEnabled),
		FastMode: p.Spec.FastMode != v1alpha1.FastModeDisabled,
		Deleting: p.DeletionTimestamp != nil,
		ranges:   map[Family]Ranges{},
		Cooldown: DefaultCooldown, ReservedFor: -1,
		Delegate: p.Spec.Delegate,
		Owner:    p.Spec.Owner,
		Netspace: p.Spec.Netspace,
	}
	if p.Spec.VLAN != nil {
		out.VLAN = *p.Spec.VLAN
	}
	if p.Spec.Cooldown != nil {
		out.Cooldown = p.Spec.Cooldown.Duration
	}
	if p.Spec.ReservedFor != nil {
		out.ReservedFor = p.Spec.ReservedFor.Duration
	}
	if out.Steering == "" {
		out.Steering = v1alpha1.SteeringAuto
	}
	switch {
	case out.Deleting:
		out.Refusal = "is being deleted"
	case p.Spec.Disabled:
		out.Refusal = "is disabled"
	}
	for i, ps := range p.Spec.Subnets {
		s, err := compileSubnet(ps)
		if err == nil && out.Steering != v1alpha1.SteeringNever {
			err = s.shadowed()
		}
		if err != nil {
			return nil, fmt.Errorf("pool %q: subnets[%d].%w", p.Name, i, err)
		}
		for _, o := range out.subnets {
			if o.Prefix.Overlaps(s.Prefix) {
				return nil, fmt.Errorf("pool %q: subnets[%d].cidr: %s overlaps %s of the same pool", p.Name, i, s.Prefix, o.Prefix)
			}
		}
		out.subnets = append(out.subnets, s)
		f := FamilyOf(s.Prefix.Addr())
		out.ranges[f] = normalize(append(out.ranges[f], s.ranges...))
	}
	switch {
	case out.Delegate == nil && len(out.subnets) == 0 && p.Spec.Subnet != "":
		out.Refusal = cmp.Or(out.Refusal, fmt.Sprintf("has no address of subnet %q yet; see its condition Carved", p.Spec.Subnet))
	case out.Delegate == nil && len(out.subnets) == 0:
		return nil, fmt.Errorf("pool %q: subnets: empty; name at least one CIDR", p.Name)
	case out.Delegate != nil && len(out.subnets) > 0:
		return nil, fmt.Errorf("pool %q: delegate: a pool with delegate has no subnets", p.Name)
	}
	if p.Spec.Pairing != "" && (p.Spec.Subnet == "" || len(out.subnets) > 0) {
		if err := out.pair(); err != nil {
			return nil, fmt.Errorf("pool %q: pairing: %w", p.Name, err)
		}
	}
	for _, a := range []struct {
		field string
		from  *metav1.LabelSelector
		to    *labels.Selector
	}{
		{"nodeAffinity", p.Spec.NodeAffinity, &out.nodes},
		{"namespaceAffinity", p.Spec.NamespaceAffinity, &out.namespaces},
		{"podAffinity", p.Spec.PodAffinity, &out.pods},
	} {
		*a.to = labels.Everything()
		if a.from == nil {
			continue
		}
		sel, err := metav1.LabelSelectorAsSelector(a.from)
		if err != nil {
			return nil, fmt.Errorf("pool %q: %s: %w", p.Name, a.field, err)
		}
		*a.to = sel
	}
	return out, nil
}

func networkOf(p *v1alpha1.IPPool) string { return cmp.Or(p.Spec.Network, "default") }

// CompileOrRefuse compiles a pool; one with an error is a pool that refuses everybody, and says why.
func CompileOrRefuse(p *v1alpha1.IPPool) *Pool {
	out, err := Compile(p)
	if err != nil {
		none := labels.Nothing()
		return &Pool{Name: p.Name, Network: networkOf(p), Kind: KindOf(p), Owner: p.Spec.Owner, Netspace: p.Spec.Netspace,
			Deleting: p.DeletionTimestamp != nil, Refusal: "is malformed: " + err.Error(),
			nodes: none, namespaces: none, pods: none}
	}
	return out
}

func compileSubnet(ps v1alpha1.PoolSubnet) (s Subnet, err error) {
	if s.Prefix, err = ParseCIDR(ps.CIDR); err != nil {
		return s, fmt.Errorf("cidr: %w", err)
	}
	if ps.Gateway != "" {
		if s.Gateway, err = parseAddr(ps.Gateway); err != nil {
			return s, fmt.Errorf("gateway: %w", err)
		}
		if s.Gateway.Is4() != s.Prefix.Addr().Is4() {
			return s, fmt.Errorf("gateway: %s is not of the family of %s", s.Gateway, s.Prefix)
		}
	}
	for i, r := range ps.Routes {
		route, err := compileRoute(r, s)
		if err != nil {
			return s, fmt.Errorf("routes[%d].%w", i, err)
		}
		s.Routes = append(s.Routes, route)
	}
	included, err := parseRanges("ips", ps.IPs, s.Prefix)
	if err != nil {
		return s, err
	}
	excluded, err := parseRanges("excludeIPs", ps.ExcludeIPs, s.Prefix)
	if err != nil {
		return s, err
	}
	if len(included) == 0 {
		included = usable(s.Prefix)
		for _, gw := range append(s.gateways(), serviceGateways...) {
			excluded = normalize(append(excluded, Range{gw, gw}))
		}
	}
	s.ranges = included.Subtract(excluded)
	if s.Gateway.IsValid() && s.ranges.Contains(s.Gateway) {
		return s, fmt.Errorf("gateway: %s is inside ips; exclude it", s.Gateway)
	}
	for _, gw := range serviceGateways {
		if s.ranges.Contains(gw) {
			return s, fmt.Errorf("ips: the service gateway, %s, is inside; exclude it", gw)
		}
	}
	return s, nil
}

// WholeSubnet is what a pool that names no ips may give out of a subnet.
func WholeSubnet(ps v1alpha1.PoolSubnet) (Ranges, error) {
	ps.IPs, ps.ExcludeIPs = nil, nil
	s, err := compileSubnet(ps)
	if err == nil {
		err = s.shadowed()
	}
	return s.ranges, err
}

// serviceGateways are no pod's, and no router's where there is a vmac.
var serviceGateways = []netip.Addr{
	netip.MustParseAddr(v1alpha1.ServiceGateway4),
	netip.MustParseAddr(v1alpha1.ServiceGateway6),
}

// shadowed says which router of the subnet a pod with steering would never find: at its address is vmac. Children of a macvlan
// in bridge mode find vmac there with every value of steering, but a pool does not know who uses it.
func (s Subnet) shadowed() error {
	const remedy = "is the service gateway, which hides a router of that address from pods; name another address of the router, or, unless by macvlan in bridge mode, set steering: Never"
	if slices.Contains(serviceGateways, s.Gateway) {
		return fmt.Errorf("gateway: %s %s", s.Gateway, remedy)
	}
	for i, r := range s.Routes {
		if slices.Contains(serviceGateways, r.GW) {
			return fmt.Errorf("routes[%d].gw: %s %s", i, r.GW, remedy)
		}
	}
	return nil
}

// gateways of the subnet and its routes: routers, whose addresses no pod may have.
func (s Subnet) gateways() []netip.Addr {
	var out []netip.Addr
	if s.Gateway.IsValid() {
		out = append(out, s.Gateway)
	}
	for _, r := range s.Routes {
		out = append(out, r.GW)
	}
	return out
}

func compileRoute(r v1alpha1.Route, s Subnet) (out Route, err error) {
	if out.Dst, err = ParseCIDR(r.Dst); err != nil {
		return out, fmt.Errorf("dst: %w", err)
	}
	out.GW = s.Gateway
	if r.GW != "" {
		if out.GW, err = parseAddr(r.GW); err != nil {
			return out, fmt.Errorf("gw: %w", err)
		}
	}
	if is4 := s.Prefix.Addr().Is4(); out.Dst.Addr().Is4() != is4 || out.GW.IsValid() && out.GW.Is4() != is4 {
		return out, fmt.Errorf("dst: route %s via %s is not of the family of the subnet %s", out.Dst, out.GW, s.Prefix)
	}
	if !out.GW.IsValid() {
		return out, fmt.Errorf("gw: route to %s has no gateway, nor has the subnet %s", out.Dst, s.Prefix)
	}
	return out, nil
}

// usable is the whole subnet but the addresses that no host may have: network and broadcast (RFC 1122 section 3.2.1.3; a /31 has
// neither, RFC 3021) and the subnet-router anycast address (RFC 4291 section 2.6.1; a /127 does without, RFC 6164).
func usable(p netip.Prefix) Ranges {
	from, to := p.Addr(), last(p)
	if p.Bits() >= p.Addr().BitLen()-1 {
		return Ranges{{from, to}}
	}
	if p.Addr().Is4() {
		return Ranges{{from.Next(), to.Prev()}}
	}
	return Ranges{{from.Next(), to}}
}

// Families that the pool has addresses of, IPv4 first.
func (p *Pool) Families() []Family { return p.families(Target{}) }

// families that the pool has addresses of, or of which the target holds one of it.
func (p *Pool) families(t Target) []Family {
	var out []Family
	for _, f := range Families {
		if len(p.ranges[f]) > 0 || t.holds(p, f) {
			out = append(out, f)
		}
	}
	return out
}

// mayHave says whether the pool may have addresses of family f; "": of any. Of a delegate pool only its plugin knows.
func (p *Pool) mayHave(f Family) bool { return f == "" || p.Delegate != nil || len(p.ranges[f]) > 0 }

// With is a delegate pool with the subnets of what its plugin gave to one interface.
func (p *Pool) With(subnets ...Subnet) *Pool {
	out := *p
	out.subnets = subnets
	return &out
}

// Keeps says whether the pool keeps addresses for identities. What a delegate gave goes back to it.
func (p *Pool) Keeps() bool { return p.ReservedFor != 0 && p.Delegate == nil }

// Ranges of one family that the pool gives out.
func (p *Pool) Ranges(f Family) Ranges { return p.ranges[f] }

// Subnets of the pool.
func (p *Pool) Subnets() []Subnet { return p.subnets }

// Contains says whether the pool gives out a.
func (p *Pool) Contains(a netip.Addr) bool { return p.ranges[FamilyOf(a)].Contains(a) }

// SubnetOf an address.
func (p *Pool) SubnetOf(a netip.Addr) (Subnet, bool) {
	for _, s := range p.subnets {
		if s.Prefix.Contains(a) {
			return s, true
		}
	}
	return Subnet{}, false
}
