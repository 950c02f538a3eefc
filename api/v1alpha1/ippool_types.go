package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// IPPool is a set of addresses of one network, with the pods, namespaces and nodes that it serves.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=ipp
// +kubebuilder:subresource:status
type IPPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   IPPoolSpec   `json:"spec"`
	Status IPPoolStatus `json:"status,omitempty"`
}

// IPPoolSpec is what a person writes.
type IPPoolSpec struct {
	// Network names the L2 domain, e.g. "vlan910". An address is unique within its network,
	// so isolated networks may use the same CIDR.
	//
	// +kubebuilder:default=default
	Network string `json:"network,omitempty"`

	// Subnets of the pool, of either family or both. A pod gets one address of each family that the pool has.
	Subnets []PoolSubnet `json:"subnets"`

	// NodeAffinity selects, by their labels, the nodes that the pool serves. Empty: all.
	NodeAffinity *metav1.LabelSelector `json:"nodeAffinity,omitempty"`
	// NamespaceAffinity selects, by their labels, the namespaces that the pool serves. Empty: all.
	NamespaceAffinity *metav1.LabelSelector `json:"namespaceAffinity,omitempty"`
	// PodAffinity selects, by their labels, the pods that the pool serves. Empty: all.
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
}

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

// PoolSubnet is one CIDR of a pool and the part of it that is given out.
type PoolSubnet struct {
	// CIDR of the subnet, without host bits, e.g. "10.6.0.0/16". Its length is the prefix length on the pod's interface.
	CIDR string `json:"cidr"`
	// IPs are the addresses to give out: single addresses, ranges "FIRST-LAST", or CIDRs (whole, every address of it).
	// Empty: the whole subnet but its network, broadcast (IPv4) or subnet-router anycast (IPv6) address and the gateway.
	IPs []string `json:"ips,omitempty"`
	// ExcludeIPs are never given out; same forms as IPs.
	ExcludeIPs []string `json:"excludeIPs,omitempty"`
	// Gateway of the subnet.
	Gateway string `json:"gateway,omitempty"`
	// Routes given to the pod with an address of this subnet.
	Routes []Route `json:"routes,omitempty"`
}

// Route is a route in the pod.
type Route struct {
	// Dst is a CIDR of the subnet's family.
	Dst string `json:"dst"`
	// GW is the next hop. Empty: the subnet's gateway.
	GW string `json:"gw,omitempty"`
}

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
	// Free and Total are the counts of all families as people read them: "250", or "250 + 2^64" style for dual stack.
	Free  string `json:"free,omitempty"`
	Total string `json:"total,omitempty"`
	// Conditions: Ready (the pool can give addresses), Overlapping (it shares addresses with another pool of its network),
	// Exhausted (a family has no free address).
	//
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// AddressCount counts the addresses of one family. Counts are decimal strings, since an IPv6 subnet exceeds int64.
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

// Condition types of an IPPool.
const (
	PoolReady       = "Ready"
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
