package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// IPPool is a set of addresses of one network, with the pods, namespaces and nodes that it serves.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=ipp
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.spec.network`
// +kubebuilder:printcolumn:name="Subnets",type=string,JSONPath=`.status.subnets`
// +kubebuilder:printcolumn:name="Free",type=string,JSONPath=`.status.free`
// +kubebuilder:printcolumn:name="Total",type=string,JSONPath=`.status.total`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Default",type=boolean,JSONPath=`.spec.default`,priority=1
// +kubebuilder:printcolumn:name="Disabled",type=boolean,JSONPath=`.spec.disabled`,priority=1
// +kubebuilder:printcolumn:name="IPv4-Free",type=string,JSONPath=`.status.ipv4.free`,priority=1
// +kubebuilder:printcolumn:name="IPv4-Bound",type=integer,JSONPath=`.status.ipv4.bound`,priority=1
// +kubebuilder:printcolumn:name="IPv6-Free",type=string,JSONPath=`.status.ipv6.free`,priority=1
// +kubebuilder:printcolumn:name="IPv6-Bound",type=integer,JSONPath=`.status.ipv6.bound`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule=`self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`,messageExpression=`'metadata.name "' + self.metadata.name + '" is not a DNS label (at most 63 characters of a-z, 0-9 and "-", no dot): leases carry it as a label value'`
type IPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   IPPoolSpec   `json:"spec"`
	Status IPPoolStatus `json:"status,omitempty"`
}

// IPPoolSpec is what a person writes.
//
// +kubebuilder:validation:XValidation:rule=`has(self.delegate) ? !has(self.subnet) && (!has(self.subnets) || self.subnets.size() == 0) : has(self.subnet) || has(self.subnets) && self.subnets.size() > 0`,messageExpression=`has(self.delegate) ? 'a pool with delegate has no subnets: the addresses are of the other plugin' : 'subnets is empty; name at least one CIDR, a Subnet to carve it from in subnet, or another IPAM plugin in delegate'`,fieldPath=".subnets"
// +kubebuilder:validation:XValidation:rule=`!has(self.pairing) || has(self.subnets) && self.subnets.size() == 2 && (!self.subnets.all(s, isCIDR(s.cidr)) || cidr(self.subnets[0].cidr).ip().family() != cidr(self.subnets[1].cidr).ip().family() && self.subnets.exists_one(a, self.subnets.exists(b, cidr(a.cidr).prefixLength() + 96 == cidr(b.cidr).prefixLength())))`,message=`pairing: index needs two subnets, one IPv4 and one IPv6, with equally many host bits, such as 10.6.0.0/24 and fd00:6::/120`,fieldPath=".pairing"
// +kubebuilder:validation:XValidation:rule=`(has(self.steering) && self.steering == 'Never') || !has(self.subnets) || !self.subnets.exists(s, has(s.gateway) && isIP(s.gateway) && string(ip(s.gateway)) in ['169.254.1.1', 'fe80::1'])`,messageExpression=`self.subnets.map(s, has(s.gateway) && isIP(s.gateway) && string(ip(s.gateway)) in ['169.254.1.1', 'fe80::1'], 'gateway ' + s.gateway + ' is the service gateway, which hides a router of that address from pods; name another address of the router, or, unless by macvlan in bridge mode, set steering: Never')[0]`,fieldPath=".subnets"
// +kubebuilder:validation:XValidation:rule=`(has(self.steering) && self.steering == 'Never') || !has(self.subnets) || !self.subnets.exists(s, has(s.routes) && s.routes.exists(r, has(r.gw) && isIP(r.gw) && string(ip(r.gw)) in ['169.254.1.1', 'fe80::1']))`,message=`a route gw is the service gateway, 169.254.1.1 or fe80::1, which hides a router of that address from pods; name another address of the router, or, unless by macvlan in bridge mode, set steering: Never`,fieldPath=".subnets"
// +kubebuilder:validation:XValidation:rule=`has(self.delegate) == has(oldSelf.delegate)`,message=`delegate cannot be changed: what it gave must be given back to it; make another pool`,fieldPath=".delegate"
// +kubebuilder:validation:XValidation:rule=`has(self.subnet) == has(oldSelf.subnet) && has(self.owner) == has(oldSelf.owner) && has(self.netspace) == has(oldSelf.netspace)`,message=`subnet, owner and netspace are said when the pool is made, or never; make another pool`
// +kubebuilder:validation:XValidation:rule=`has(self.subnet) == has(self.size)`,message=`subnet and size go together: how many addresses to carve from which Subnet`,fieldPath=".size"
// +kubebuilder:validation:XValidation:rule=`!has(self.default) || !self.default || !has(self.owner) && !has(self.netspace)`,message=`a pool of a workload or a netspace is no default pool: default pools serve everybody else`,fieldPath=".default"
type IPPoolSpec struct {
	// Network names the L2 domain, e.g. "vlan910". An address is unique within its network,
	// so isolated networks may use the same CIDR.
	//
	// +kubebuilder:default=default
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`,messageExpression=`'network "' + self + '" is not a DNS label (at most 63 characters of a-z, 0-9 and "-", no dot): leases are named NETWORK.ADDRESS'`
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'network cannot be changed (it is "' + oldSelf + '"): leases are named after it; make another pool'`
	Network string `json:"network,omitempty"`

	// Subnets of the pool, of either family or both. A pod gets one address of each family that the pool has.
	//
	// +kubebuilder:validation:MaxItems=8
	// +listType=atomic
	// +kubebuilder:validation:XValidation:rule=`self.all(a, !isCIDR(a.cidr) || self.filter(b, isCIDR(b.cidr) && cidr(a.cidr).containsCIDR(b.cidr)).size() == 1)`,messageExpression=`self.map(a, isCIDR(a.cidr) && self.filter(b, isCIDR(b.cidr) && cidr(a.cidr).containsCIDR(b.cidr)).size() > 1, 'subnet ' + a.cidr + ' overlaps or repeats another subnet of this pool; merge them')[0]`
	Subnets []PoolSubnet `json:"subnets,omitempty"`

	// Subnet has the controller carve the pool from the Subnet of that name, with Size addresses of each family; it writes subnets, vlan,
	// pairing and nodeAffinity then.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'subnet cannot be changed (it is "' + oldSelf + '"); make another pool'`
	Subnet string `json:"subnet,omitempty"`
	// Size is how many addresses of each family a pool with subnet shall have. When it falls, only free addresses return to the Subnet.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65536
	Size *int32 `json:"size,omitempty"`
	// VLAN that the parent of an interface must be on (IEEE 802.1Q) for the pool to serve it; absent: any.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4094
	VLAN *int32 `json:"vlan,omitempty"`
	// Owner is the workload whose the pool is alone: an application pool.
	//
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,message=`owner cannot be changed: its pods have addresses of the pool; make another pool`
	Owner *PoolOwner `json:"owner,omitempty"`
	// Keep an application pool when its workload is gone: one of the same name gets it back.
	Keep bool `json:"keep,omitempty"`
	// Netspace whose pods the pool serves alone.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'netspace cannot be changed (it is "' + oldSelf + '"); make another pool'`
	Netspace string `json:"netspace,omitempty"`

	// Delegate has another IPAM plugin choose the addresses, which Berth records as leases. Such a pool has no subnets.
	//
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,message=`delegate cannot be changed: what it gave must be given back to it; make another pool`
	Delegate *Delegate `json:"delegate,omitempty"`

	// Pairing "index" gives IPv4 and IPv6 addresses in pairs with the same offset in their subnets, 10.6.0.5 with fd00:6::5: one
	// computes the other. The pool then has one subnet of each family, with equally many host bits, and serves both families only.
	Pairing Pairing `json:"pairing,omitempty"`

	// Cooldown is how long a released address is not given to another pod while there are others, since neighbours may still have
	// its last holder in their caches. With no other left it is given all the same, with an event.
	//
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule=`self.matches('^([0-9]{1,5}(\\.[0-9]+)?h|[0-9]{1,7}(\\.[0-9]+)?m|[0-9]{1,9}(\\.[0-9]+)?m?s)+$')`,messageExpression=`'cooldown "' + self + '" is not a time such as 30s, 5m or 1h30m, at most 99999h'`
	Cooldown *metav1.Duration `json:"cooldown,omitempty"`

	// ReservedFor is how long an address stays Reserved for an identity (a StatefulSet's pod, a virtual machine, an IPAMClaim, the
	// annotation berth.dev/identity) that has no pod. Absent: as long as the identity's object exists; for the annotation, which has none,
	// the controller's --reserve-for. 0s: the pool keeps no address for anyone.
	//
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule=`self.matches('^([0-9]{1,5}(\\.[0-9]+)?h|[0-9]{1,7}(\\.[0-9]+)?m|[0-9]{1,9}(\\.[0-9]+)?m?s)+$')`,messageExpression=`'reservedFor "' + self + '" is not a time such as 30s, 12h or 720h, at most 99999h'`
	ReservedFor *metav1.Duration `json:"reservedFor,omitempty"`

	// NodeAffinity selects, by their labels, the nodes that the pool serves. Empty: all.
	//
	// +kubebuilder:validation:XValidation:rule=`!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn'] ? has(e.values) && e.values.size() > 0 : e.operator in ['Exists', 'DoesNotExist'] && (!has(e.values) || e.values.size() == 0))`,message=`nodeAffinity: operators are In and NotIn (with values), Exists and DoesNotExist (without values)`
	NodeAffinity *metav1.LabelSelector `json:"nodeAffinity,omitempty"`
	// NamespaceAffinity selects, by their labels, the namespaces that the pool serves. Empty: all.
	//
	// +kubebuilder:validation:XValidation:rule=`!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn'] ? has(e.values) && e.values.size() > 0 : e.operator in ['Exists', 'DoesNotExist'] && (!has(e.values) || e.values.size() == 0))`,message=`namespaceAffinity: operators are In and NotIn (with values), Exists and DoesNotExist (without values)`
	NamespaceAffinity *metav1.LabelSelector `json:"namespaceAffinity,omitempty"`
	// PodAffinity selects, by their labels, the pods that the pool serves. Empty: all.
	//
	// +kubebuilder:validation:XValidation:rule=`!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn'] ? has(e.values) && e.values.size() > 0 : e.operator in ['Exists', 'DoesNotExist'] && (!has(e.values) || e.values.size() == 0))`,message=`podAffinity: operators are In and NotIn (with values), Exists and DoesNotExist (without values)`
	PodAffinity *metav1.LabelSelector `json:"podAffinity,omitempty"`

	// Default pools serve the pods that name no pool.
	Default bool `json:"default,omitempty"`
	// Disabled pools give out no address. What they have given stays bound.
	Disabled bool `json:"disabled,omitempty"`

	// Steering says whether a pod with an address of this pool gets routes to Services, overlay pods and its own
	// node through vmac. Auto: only where the macvlan interface is the pod's default network.
	//
	// +kubebuilder:default=Auto
	Steering Steering `json:"steering,omitempty"`

	// FastMode says whether sockets of pods with an address of this pool connect to backends of Services themselves, where a pod
	// reaches the backend without its node. Disabled: all of a Service goes through the node. A pod and a node can turn it off, too.
	//
	// +kubebuilder:default=Enabled
	FastMode FastMode `json:"fastMode,omitempty"`

	// SourceGuard says whether a pod's interface may send as its leases only. Enabled: unless the pod or its network says otherwise.
	// Required: whatever they say; who cannot be guarded gets no address of this pool.
	//
	// +kubebuilder:default=Enabled
	SourceGuard SourceGuard `json:"sourceGuard,omitempty"`
}

// PoolOwner is a workload: the topmost controller of its pods.
type PoolOwner struct {
	// APIVersion and Kind of the workload, such as apps/v1 and Deployment.
	//
	// +kubebuilder:validation:MaxLength=253
	APIVersion string `json:"apiVersion"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Kind string `json:"kind"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// Delegate is another IPAM plugin, which the plugin berth runs for the addresses of a pool (CNI spec 1.1.0, section 4: delegation).
type Delegate struct {
	// Type is the name of its binary in CNI_PATH: dhcp, host-local, static, whereabouts, …
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[A-Za-z0-9][-A-Za-z0-9_.]*$') && self != 'berth'`,messageExpression=`'delegate type "' + self + '" is not the name of another IPAM plugin, such as dhcp'`
	Type string `json:"type"`
	// Config is the rest of its ipam section.
	//
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	Config *runtime.RawExtension `json:"config,omitempty"`
}

// Pairing of the families of a pool.
//
// +kubebuilder:validation:Enum=index
type Pairing string

// PairingIndex gives addresses of the same offset in their subnets together.
const PairingIndex Pairing = "index"

// Steering is when the routes of the service path are given to a pod.
//
// +kubebuilder:validation:Enum=Auto;Always;Never
type Steering string

// The values of Steering.
const (
	SteeringAuto   Steering = "Auto"
	SteeringAlways Steering = "Always"
	SteeringNever  Steering = "Never"
)

// The service gateway: where there is a vmac, the node itself, so no router and no pod may have these addresses there.
// They are those of package bpf.
const (
	ServiceGateway4 = "169.254.1.1"
	ServiceGateway6 = "fe80::1"
)

// PoolSubnet is one CIDR of a pool and the part of it that is given out.
//
// +kubebuilder:validation:XValidation:rule=`!isCIDR(self.cidr) || !has(self.ips) || self.ips.all(e, e.split('-', 2).all(a, isIP(a) ? cidr(self.cidr).containsIP(a) : !isCIDR(a) || cidr(self.cidr).containsCIDR(a)))`,messageExpression=`self.ips.map(e, !e.split('-', 2).all(a, isIP(a) ? cidr(self.cidr).containsIP(a) : !isCIDR(a) || cidr(self.cidr).containsCIDR(a)), 'ips entry ' + e + ' is not inside the subnet ' + self.cidr)[0]`,fieldPath=".ips"
// +kubebuilder:validation:XValidation:rule=`!isCIDR(self.cidr) || !has(self.excludeIPs) || self.excludeIPs.all(e, e.split('-', 2).all(a, isIP(a) ? cidr(self.cidr).containsIP(a) : !isCIDR(a) || cidr(self.cidr).containsCIDR(a)))`,messageExpression=`self.excludeIPs.map(e, !e.split('-', 2).all(a, isIP(a) ? cidr(self.cidr).containsIP(a) : !isCIDR(a) || cidr(self.cidr).containsCIDR(a)), 'excludeIPs entry ' + e + ' is not inside the subnet ' + self.cidr)[0]`,fieldPath=".excludeIPs"
// +kubebuilder:validation:XValidation:rule=`!isCIDR(self.cidr) || !has(self.gateway) || !isIP(self.gateway) || cidr(self.cidr).containsIP(self.gateway) || (cidr(self.cidr).ip().family() == 6 && ip(self.gateway).family() == 6 && ip(self.gateway).isLinkLocalUnicast())`,messageExpression=`'gateway ' + self.gateway + ' is not inside the subnet ' + self.cidr + (cidr(self.cidr).ip().family() == 6 ? ' (nor link-local, fe80::/10)' : "")`,fieldPath=".gateway"
// +kubebuilder:validation:XValidation:rule=`!isCIDR(self.cidr) || !has(self.gateway) || !isIP(self.gateway) || cidr(self.cidr).ip().family() == 6 || cidr(self.cidr).prefixLength() > 30 || !(cidr(self.cidr).masked().ip() == ip(self.gateway))`,messageExpression=`'gateway ' + self.gateway + ' is the network address of ' + self.cidr`,fieldPath=".gateway"
// +kubebuilder:validation:XValidation:rule=`!has(self.gateway) || !isIP(self.gateway) || !has(self.ips) || !self.ips.exists(e, (isIP(e) ? ip(e) == ip(self.gateway) : isCIDR(e) ? cidr(e).containsIP(self.gateway) : e.split('-', 2).size() == 2 && e.split('-', 2).all(a, isIP(a) && !(a.contains('.') && a.contains(':')) && ip(a).family() == ip(self.gateway).family()) && ![[e.split('-', 2)[0], self.gateway, e.split('-', 2)[1]].map(a, a.lowerAscii().replace('.', ':').replace('::', ':0:0:0:0:0:0:0:0:'.substring(0, 17 - 2 * a.lowerAscii().replace('.', ':').split(':', 9).filter(g, g != "").size())).split(':', 11).filter(g, g != "").map(g, '0000'.substring(g.size()) + g).map(g, '0123456789abcdef'.indexOf(g.substring(0, 1)) * 4096 + '0123456789abcdef'.indexOf(g.substring(1, 2)) * 256 + '0123456789abcdef'.indexOf(g.substring(2, 3)) * 16 + '0123456789abcdef'.indexOf(g.substring(3, 4))))].exists(l, [[0, 1, 2, 3, 4, 5, 6, 7].filter(i, i < l[0].size() && l[0][i] != l[1][i])].exists(d, d.size() > 0 && l[0][d[0]] > l[1][d[0]]) || [[0, 1, 2, 3, 4, 5, 6, 7].filter(i, i < l[1].size() && l[1][i] != l[2][i])].exists(d, d.size() > 0 && l[1][d[0]] > l[2][d[0]])))) || (has(self.excludeIPs) && self.excludeIPs.exists(e, (isIP(e) ? ip(e) == ip(self.gateway) : isCIDR(e) ? cidr(e).containsIP(self.gateway) : e.split('-', 2).size() == 2 && e.split('-', 2).all(a, isIP(a) && !(a.contains('.') && a.contains(':')) && ip(a).family() == ip(self.gateway).family()) && ![[e.split('-', 2)[0], self.gateway, e.split('-', 2)[1]].map(a, a.lowerAscii().replace('.', ':').replace('::', ':0:0:0:0:0:0:0:0:'.substring(0, 17 - 2 * a.lowerAscii().replace('.', ':').split(':', 9).filter(g, g != "").size())).split(':', 11).filter(g, g != "").map(g, '0000'.substring(g.size()) + g).map(g, '0123456789abcdef'.indexOf(g.substring(0, 1)) * 4096 + '0123456789abcdef'.indexOf(g.substring(1, 2)) * 256 + '0123456789abcdef'.indexOf(g.substring(2, 3)) * 16 + '0123456789abcdef'.indexOf(g.substring(3, 4))))].exists(l, [[0, 1, 2, 3, 4, 5, 6, 7].filter(i, i < l[0].size() && l[0][i] != l[1][i])].exists(d, d.size() > 0 && l[0][d[0]] > l[1][d[0]]) || [[0, 1, 2, 3, 4, 5, 6, 7].filter(i, i < l[1].size() && l[1][i] != l[2][i])].exists(d, d.size() > 0 && l[1][d[0]] > l[2][d[0]])))))`,messageExpression=`'gateway ' + self.gateway + ' is inside the ips to give out; add it to excludeIPs'`,fieldPath=".gateway"
// +kubebuilder:validation:XValidation:rule=`!isCIDR(self.cidr) || !has(self.routes) || self.routes.all(r, !isCIDR(r.dst) || cidr(r.dst).ip().family() == cidr(self.cidr).ip().family())`,messageExpression=`self.routes.map(r, isCIDR(r.dst) && cidr(r.dst).ip().family() != cidr(self.cidr).ip().family(), 'route to ' + r.dst + ' is of another family than the subnet ' + self.cidr)[0]`,fieldPath=".routes"
// +kubebuilder:validation:XValidation:rule=`!isCIDR(self.cidr) || !has(self.routes) || self.routes.all(r, !has(r.gw) || !isIP(r.gw) || cidr(self.cidr).containsIP(r.gw) || (cidr(self.cidr).ip().family() == 6 && ip(r.gw).family() == 6 && ip(r.gw).isLinkLocalUnicast()))`,messageExpression=`self.routes.map(r, has(r.gw) && isIP(r.gw) && !cidr(self.cidr).containsIP(r.gw) && !(cidr(self.cidr).ip().family() == 6 && ip(r.gw).family() == 6 && ip(r.gw).isLinkLocalUnicast()), 'route gw ' + r.gw + ' is not inside the subnet ' + self.cidr)[0]`,fieldPath=".routes"
// +kubebuilder:validation:XValidation:rule=`has(self.gateway) || !has(self.routes) || self.routes.all(r, has(r.gw))`,messageExpression=`self.routes.map(r, !has(r.gw), 'route to ' + r.dst + ' has no gw, and the subnet has no gateway; set one of them')[0]`,fieldPath=".routes"
type PoolSubnet struct {
	// CIDR of the subnet, without host bits, e.g. "10.6.0.0/16". Its length is the prefix length on the pod's interface.
	//
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule=`isCIDR(self)`,messageExpression=`'cidr "' + self + '" is not ADDRESS/LENGTH, e.g. 10.6.0.0/16 or 2001:db8::/64'`
	// +kubebuilder:validation:XValidation:rule=`!isCIDR(self) || cidr(self) == cidr(self).masked()`,messageExpression=`[string(cidr(self).masked())].map(s, 'cidr ' + self + ' has host bits; write ' + s)[0]`
	// +kubebuilder:validation:XValidation:rule=`!isCIDR(self) || cidr(self).ip().isGlobalUnicast() || (cidr(self).ip().family() == 4 && cidr(self).ip().isLinkLocalUnicast())`,messageExpression=`'cidr ' + self + ' is not a range of unicast addresses that can be routed to a pod'`
	CIDR string `json:"cidr"`
	// IPs are the addresses to give out: single addresses, ranges "FIRST-LAST", or CIDRs (whole, every address of it).
	// Empty: the whole subnet but its network, broadcast (IPv4) or subnet-router anycast (IPv6) address, the gateway,
	// the next hops of routes and the service gateway.
	//
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +kubebuilder:validation:items:MaxLength=79
	// +kubebuilder:validation:items:XValidation:rule=`!(self.contains(':') && self.contains('.')) && (isIP(self) || isCIDR(self) || (self.split('-', 2).size() == 2 && self.split('-', 2).all(a, isIP(a))))`,messageExpression=`'ips entry "' + self + '" is not an address, FIRST-LAST or a CIDR, e.g. 10.6.1.7, 10.6.1.10-10.6.1.20 or 10.6.2.0/24'`
	// +kubebuilder:validation:items:XValidation:rule=`!isCIDR(self) || cidr(self) == cidr(self).masked()`,messageExpression=`[string(cidr(self).masked())].map(s, 'ips entry ' + self + ' has host bits; write ' + s)[0]`
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).size() != 2 || !self.split('-', 2).all(a, isIP(a)) || ip(self.split('-', 2)[0]).family() == ip(self.split('-', 2)[1]).family()`,messageExpression=`'ips entry ' + self + ' mixes IPv4 and IPv6'`
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).size() != 2 || !self.split('-', 2).all(a, isIP(a)) || ip(self.split('-', 2)[0]).family() != ip(self.split('-', 2)[1]).family() || (self.contains('.') && self.contains(':')) || ![self.split('-', 2).map(a, a.lowerAscii().replace('.', ':').replace('::', ':0:0:0:0:0:0:0:0:'.substring(0, 17 - 2 * a.lowerAscii().replace('.', ':').split(':', 9).filter(g, g != '').size())).split(':', 11).filter(g, g != '').map(g, '0000'.substring(g.size()) + g).map(g, '0123456789abcdef'.indexOf(g.substring(0, 1)) * 4096 + '0123456789abcdef'.indexOf(g.substring(1, 2)) * 256 + '0123456789abcdef'.indexOf(g.substring(2, 3)) * 16 + '0123456789abcdef'.indexOf(g.substring(3, 4))))].exists(l, [[0, 1, 2, 3, 4, 5, 6, 7].filter(i, i < l[0].size() && l[0][i] != l[1][i])].exists(d, d.size() > 0 && l[0][d[0]] > l[1][d[0]]))`,messageExpression=`'ips entry ' + self + ' is reversed; write ' + self.split('-', 2)[1] + '-' + self.split('-', 2)[0]`
	IPs []string `json:"ips,omitempty"`
	// ExcludeIPs are never given out; same forms as IPs.
	//
	// +kubebuilder:validation:MaxItems=128
	// +listType=atomic
	// +kubebuilder:validation:items:MaxLength=79
	// +kubebuilder:validation:items:XValidation:rule=`!(self.contains(':') && self.contains('.')) && (isIP(self) || isCIDR(self) || (self.split('-', 2).size() == 2 && self.split('-', 2).all(a, isIP(a))))`,messageExpression=`'excludeIPs entry "' + self + '" is not an address, FIRST-LAST or a CIDR, e.g. 10.6.1.7, 10.6.1.10-10.6.1.20 or 10.6.2.0/24'`
	// +kubebuilder:validation:items:XValidation:rule=`!isCIDR(self) || cidr(self) == cidr(self).masked()`,messageExpression=`[string(cidr(self).masked())].map(s, 'excludeIPs entry ' + self + ' has host bits; write ' + s)[0]`
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).size() != 2 || !self.split('-', 2).all(a, isIP(a)) || ip(self.split('-', 2)[0]).family() == ip(self.split('-', 2)[1]).family()`,messageExpression=`'excludeIPs entry ' + self + ' mixes IPv4 and IPv6'`
	// +kubebuilder:validation:items:XValidation:rule=`self.split('-', 2).size() != 2 || !self.split('-', 2).all(a, isIP(a)) || ip(self.split('-', 2)[0]).family() != ip(self.split('-', 2)[1]).family() || (self.contains('.') && self.contains(':')) || ![self.split('-', 2).map(a, a.lowerAscii().replace('.', ':').replace('::', ':0:0:0:0:0:0:0:0:'.substring(0, 17 - 2 * a.lowerAscii().replace('.', ':').split(':', 9).filter(g, g != '').size())).split(':', 11).filter(g, g != '').map(g, '0000'.substring(g.size()) + g).map(g, '0123456789abcdef'.indexOf(g.substring(0, 1)) * 4096 + '0123456789abcdef'.indexOf(g.substring(1, 2)) * 256 + '0123456789abcdef'.indexOf(g.substring(2, 3)) * 16 + '0123456789abcdef'.indexOf(g.substring(3, 4))))].exists(l, [[0, 1, 2, 3, 4, 5, 6, 7].filter(i, i < l[0].size() && l[0][i] != l[1][i])].exists(d, d.size() > 0 && l[0][d[0]] > l[1][d[0]]))`,messageExpression=`'excludeIPs entry ' + self + ' is reversed; write ' + self.split('-', 2)[1] + '-' + self.split('-', 2)[0]`
	ExcludeIPs []string `json:"excludeIPs,omitempty"`
	// Gateway of the subnet.
	//
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule=`isIP(self) && !(self.contains(':') && self.contains('.'))`,messageExpression=`'gateway "' + self + '" is not an address'`
	Gateway string `json:"gateway,omitempty"`
	// Routes given to the pod with an address of this subnet.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Routes []Route `json:"routes,omitempty"`
}

// Route is a route in the pod.
type Route struct {
	// Dst is a CIDR of the subnet's family.
	//
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule=`isCIDR(self)`,messageExpression=`'route dst "' + self + '" is not ADDRESS/LENGTH, e.g. 172.16.0.0/12, or 0.0.0.0/0 for the default route'`
	// +kubebuilder:validation:XValidation:rule=`!isCIDR(self) || cidr(self) == cidr(self).masked()`,messageExpression=`[string(cidr(self).masked())].map(s, 'route dst ' + self + ' has host bits; write ' + s)[0]`
	Dst string `json:"dst"`
	// GW is the next hop. Empty: the subnet's gateway.
	//
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule=`isIP(self)`,messageExpression=`'route gw "' + self + '" is not an address'`
	GW string `json:"gw,omitempty"`
}

// SourceGuard is whether a pod's interface is kept to the addresses and the MAC of its leases.
//
// +kubebuilder:validation:Enum=Enabled;Disabled;Required
type SourceGuard string

// The values of SourceGuard.
const (
	SourceGuardEnabled  SourceGuard = "Enabled"
	SourceGuardDisabled SourceGuard = "Disabled"
	SourceGuardRequired SourceGuard = "Required"
)

// FastMode is whether sockets of pods connect to backends of Services themselves.
//
// +kubebuilder:validation:Enum=Enabled;Disabled
type FastMode string

// The values of FastMode.
const (
	FastModeEnabled  FastMode = "Enabled"
	FastModeDisabled FastMode = "Disabled"
)

// IPPoolStatus is written by the controller.
type IPPoolStatus struct {
	// ObservedGeneration is the generation that the rest of the status speaks of.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Subnets lists the CIDRs, for people.
	Subnets string `json:"subnets,omitempty"`
	// IPv4 counts; absent if the pool has no IPv4 subnet.
	IPv4 *AddressCount `json:"ipv4,omitempty"`
	// IPv6 counts; absent if the pool has no IPv6 subnet.
	IPv6 *AddressCount `json:"ipv6,omitempty"`
	// Free and Total are the counts of all families as people read them: "250", or "250 + 2^64" style for dual stack; "-" in a pool
	// with delegate, of which only the other plugin knows them.
	Free  string `json:"free,omitempty"`
	Total string `json:"total,omitempty"`
	// Conditions: Ready (the pool can give addresses), Carved (a pool with subnet has its size), Overlapping (it shares addresses with another pool of its network),
	// Exhausted (a family has no free address).
	//
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// AddressCount counts the addresses of one family. Counts are decimal strings, since an IPv6 subnet exceeds int64. In a pool with
// delegate they are "-", and a family without lease is absent.
type AddressCount struct {
	Total string `json:"total"`
	Free  string `json:"free"`
	// Bound addresses, in use by a pod's interface.
	Bound int64 `json:"bound"`
	// Reserved addresses, kept for an identity.
	Reserved int64 `json:"reserved,omitempty"`
	// Quarantined addresses, answered for by someone else on the wire.
	Quarantined int64 `json:"quarantined,omitempty"`
}

// FinalizerInUse keeps a deleted pool until none of its addresses is bound or reserved.
const FinalizerInUse = "berth.dev/in-use"

// Condition types of an IPPool.
const (
	PoolReady       = "Ready"
	PoolCarved      = "Carved"
	PoolOverlapping = "Overlapping"
	PoolExhausted   = "Exhausted"
)

// IPPoolList is a list of IPPools.
//
// +kubebuilder:object:root=true
type IPPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPPool `json:"items"`
}
