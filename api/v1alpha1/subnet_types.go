package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Subnet is the address plan of one network: the total from which pools are carved, out of which they grow, and to which they return.
// No address is given to a pod from it directly.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=bsn
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.spec.network`
// +kubebuilder:printcolumn:name="VLAN",type=integer,JSONPath=`.spec.vlan`
// +kubebuilder:printcolumn:name="CIDRs",type=string,JSONPath=`.status.cidrs`
// +kubebuilder:printcolumn:name="Free",type=string,JSONPath=`.status.free`
// +kubebuilder:printcolumn:name="Total",type=string,JSONPath=`.status.total`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Netspace",type=string,JSONPath=`.spec.netspace`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule=`self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`,messageExpression=`'metadata.name "' + self.metadata.name + '" is not a DNS label (at most 63 characters of a-z, 0-9 and "-", no dot): pools and blocks name it'`
type Subnet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   SubnetSpec   `json:"spec"`
	Status SubnetStatus `json:"status,omitempty"`
}

// SubnetSpec is what a person writes.
//
// +kubebuilder:validation:XValidation:rule=`!has(self.pairing) || self.cidrs.size() == 2 && (!self.cidrs.all(s, isCIDR(s.cidr)) || cidr(self.cidrs[0].cidr).ip().family() != cidr(self.cidrs[1].cidr).ip().family() && self.cidrs.exists_one(a, self.cidrs.exists(b, cidr(a.cidr).prefixLength() + 96 == cidr(b.cidr).prefixLength())))`,message=`pairing: index needs two cidrs, one IPv4 and one IPv6, with equally many host bits, such as 10.6.0.0/16 and fd00:6::/112`,fieldPath=".pairing"
// +kubebuilder:validation:XValidation:rule=`has(self.pairing) == has(oldSelf.pairing)`,message=`pairing cannot be changed: pools are carved by it; make another subnet`,fieldPath=".pairing"
// +kubebuilder:validation:XValidation:rule=`!has(self.pairing) || !has(oldSelf.pairing) || !oldSelf.cidrs.all(o, isCIDR(o.cidr)) || !self.cidrs.all(n, isCIDR(n.cidr)) || oldSelf.cidrs.all(o, self.cidrs.exists(n, cidr(n.cidr).ip() == cidr(o.cidr).ip()))`,message=`the cidrs of a paired subnet cannot begin elsewhere: pairs are of equal offsets; make another subnet`,fieldPath=".cidrs"
//
// +kubebuilder:validation:XValidation:rule=`!has(self.attachments) || has(self.parent)`,message=`attachments need a parent, the host link that their interfaces are on; name it in parent, or remove attachments`,fieldPath=".attachments"
// +kubebuilder:validation:XValidation:rule=`!has(self.attachments) || !has(self.netspace)`,message=`a subnet of a netspace is attached in the netspace's namespaces; remove attachments`,fieldPath=".attachments"
// +kubebuilder:validation:XValidation:rule=`(has(self.hub) && self.hub) == (has(oldSelf.hub) && oldSelf.hub)`,message=`hub cannot be changed: blocks are claimed by it; make another subnet`,fieldPath=".hub"
type SubnetSpec struct {
	// Network names the L2 domain, as in IPPool.
	//
	// +kubebuilder:default=default
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`,messageExpression=`'network "' + self + '" is not a DNS label (at most 63 characters of a-z, 0-9 and "-", no dot): blocks are named NETWORK.ADDRESS'`
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'network cannot be changed (it is "' + oldSelf + '"): blocks are named after it; make another subnet'`
	Network string `json:"network,omitempty"`
	// VLAN of the network (IEEE 802.1Q). Pools carved from the subnet have it, too.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4094
	VLAN *int32 `json:"vlan,omitempty"`
	// CIDRs of the subnet, of either family or both.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +listType=atomic
	// +kubebuilder:validation:XValidation:rule=`self.all(a, !isCIDR(a.cidr) || self.filter(b, isCIDR(b.cidr) && cidr(a.cidr).containsCIDR(b.cidr)).size() == 1)`,messageExpression=`self.map(a, isCIDR(a.cidr) && self.filter(b, isCIDR(b.cidr) && cidr(a.cidr).containsCIDR(b.cidr)).size() > 1, 'cidr ' + a.cidr + ' overlaps or repeats another one of this subnet; merge them')[0]`
	CIDRs []SubnetCIDR `json:"cidrs"`
	// Pairing of the pools carved from the subnet, as in IPPool.
	Pairing Pairing `json:"pairing,omitempty"`
	// Netspace whose the subnet is alone: its pools are carved for that netspace only.
	//
	// +kubebuilder:validation:MaxLength=63
	Netspace string `json:"netspace,omitempty"`
	// NodeAffinity selects the nodes that are on the network. Empty: all. Pools carved from the subnet have it, too.
	//
	// +kubebuilder:validation:XValidation:rule=`!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn'] ? has(e.values) && e.values.size() > 0 : e.operator in ['Exists', 'DoesNotExist'] && (!has(e.values) || e.values.size() == 0))`,message=`nodeAffinity: operators are In and NotIn (with values), Exists and DoesNotExist (without values)`
	NodeAffinity *metav1.LabelSelector `json:"nodeAffinity,omitempty"`
	// Parent is the host link on the network, on all of these nodes: the macvlan parent of attachments made for the subnet, such as bond0.910.
	//
	// +kubebuilder:validation:MaxLength=15
	Parent string `json:"parent,omitempty"`
	// Attachments has the controller keep a NetworkAttachmentDefinition of the subnet's name in these namespaces: macvlan on Parent, with
	// addresses of the pools carved from the subnet that are no workload's.
	Attachments *Attachments `json:"attachments,omitempty"`
	// Hub: the subnet is a copy of the hub's of the same name, and its blocks are claimed there first.
	Hub bool `json:"hub,omitempty"`
	// Clusters that may have blocks of the subnet, in a hub. Empty: all of its members.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=set
	Clusters []string `json:"clusters,omitempty"`
}

// Attachments says which namespaces get a NetworkAttachmentDefinition: those named, and those selected.
//
// +kubebuilder:validation:XValidation:rule=`has(self.namespaces) && self.namespaces.size() > 0 || has(self.namespaceSelector)`,message=`attachments names no namespace; write namespaces, namespaceSelector, or both ({} selects all)`
type Attachments struct {
	// Namespaces by name.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=set
	Namespaces []string `json:"namespaces,omitempty"`
	// NamespaceSelector selects further ones by their labels.
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
}

// SubnetCIDR is one CIDR of a subnet.
//
// +kubebuilder:validation:XValidation:rule=`!isCIDR(self.cidr) || !has(self.reserved) || self.reserved.all(e, e.split('-', 2).all(a, isIP(a) ? cidr(self.cidr).containsIP(a) : !isCIDR(a) || cidr(self.cidr).containsCIDR(a)))`,messageExpression=`self.reserved.map(e, !e.split('-', 2).all(a, isIP(a) ? cidr(self.cidr).containsIP(a) : !isCIDR(a) || cidr(self.cidr).containsCIDR(a)), 'reserved entry ' + e + ' is not inside the cidr ' + self.cidr)[0]`,fieldPath=".reserved"
// +kubebuilder:validation:XValidation:rule=`!isCIDR(self.cidr) || !has(self.gateway) || !isIP(self.gateway) || cidr(self.cidr).containsIP(self.gateway) || (cidr(self.cidr).ip().family() == 6 && ip(self.gateway).family() == 6 && ip(self.gateway).isLinkLocalUnicast())`,messageExpression=`'gateway ' + self.gateway + ' is not inside the cidr ' + self.cidr + (cidr(self.cidr).ip().family() == 6 ? ' (nor link-local)' : "") + '; name the address that the router has there'`,fieldPath=".gateway"
// +kubebuilder:validation:XValidation:rule=`!has(self.gateway) || !isIP(self.gateway) || !(string(ip(self.gateway)) in ['169.254.1.1', 'fe80::1'])`,messageExpression=`'gateway ' + self.gateway + ' is the service gateway, which hides a router of that address from pods; name another address of the router'`,fieldPath=".gateway"
// +kubebuilder:validation:XValidation:rule=`has(self.gateway) || !has(self.routes) || self.routes.all(r, has(r.gw))`,messageExpression=`self.routes.map(r, !has(r.gw), 'route to ' + r.dst + ' has no gw, and the cidr has no gateway; set one of them')[0]`,fieldPath=".routes"
type SubnetCIDR struct {
	// CIDR, without host bits.
	//
	// +kubebuilder:validation:MaxLength=43
	// +kubebuilder:validation:XValidation:rule=`isCIDR(self)`,messageExpression=`'cidr "' + self + '" is not ADDRESS/LENGTH, e.g. 10.6.0.0/16'`
	// +kubebuilder:validation:XValidation:rule=`!isCIDR(self) || cidr(self) == cidr(self).masked()`,messageExpression=`[string(cidr(self).masked())].map(s, 'cidr ' + self + ' has host bits; write ' + s)[0]`
	// +kubebuilder:validation:XValidation:rule=`!isCIDR(self) || cidr(self).ip().isGlobalUnicast() || (cidr(self).ip().family() == 4 && cidr(self).ip().isLinkLocalUnicast())`,messageExpression=`'cidr ' + self + ' is not a range of unicast addresses that can be routed to a pod'`
	CIDR string `json:"cidr"`
	// Gateway of the pools carved from it.
	//
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule=`isIP(self)`,messageExpression=`'gateway "' + self + '" is not an address'`
	Gateway string `json:"gateway,omitempty"`
	// Routes of the pools carved from it.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Routes []Route `json:"routes,omitempty"`
	// Reserved addresses are never carved: an address, FIRST-LAST or a CIDR.
	//
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:MaxLength=79
	// +kubebuilder:validation:items:XValidation:rule=`!(self.contains(':') && self.contains('.')) && (isIP(self) || isCIDR(self) || (self.split('-', 2).size() == 2 && self.split('-', 2).all(a, isIP(a))))`,messageExpression=`'reserved entry "' + self + '" is not an address, FIRST-LAST or a CIDR, e.g. 10.6.1.7, 10.6.1.10-10.6.1.20 or 10.6.2.0/24'`
	// +kubebuilder:validation:items:XValidation:rule=`!isCIDR(self) || cidr(self) == cidr(self).masked()`,messageExpression=`[string(cidr(self).masked())].map(s, 'reserved entry ' + self + ' has host bits; write ' + s)[0]`
	// +listType=atomic
	Reserved []string `json:"reserved,omitempty"`
}

// SubnetStatus is written by the controller.
type SubnetStatus struct {
	// ObservedGeneration is the generation that the rest of the status speaks of.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// CIDRs lists the CIDRs, for people.
	CIDRs string `json:"cidrs,omitempty"`
	// IPv4 and IPv6 count addresses; absent for a family that the subnet has not.
	IPv4 *SubnetCount `json:"ipv4,omitempty"`
	IPv6 *SubnetCount `json:"ipv6,omitempty"`
	// Free and Total of both families, as people read them.
	Free  string `json:"free,omitempty"`
	Total string `json:"total,omitempty"`
	// Pools carved from the subnet.
	Pools int64 `json:"pools,omitempty"`
	// Clusters that have blocks of the subnet, in a hub.
	//
	// +listType=map
	// +listMapKey=name
	Clusters []ClusterBlocks `json:"clusters,omitempty"`
	// Conditions: Ready (pools can be carved from it), Attached (its attachments are there), InStep (it is as the hub's),
	// Disputed (another cluster holds blocks of it, too).
	//
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ClusterBlocks says how many blocks of a subnet another cluster has.
type ClusterBlocks struct {
	// Name of the cluster.
	Name string `json:"name"`
	// Blocks with addresses of the subnet, of 256 addresses each.
	Blocks int64 `json:"blocks"`
}

// SubnetCount counts the addresses of one family, in decimal.
type SubnetCount struct {
	// Total that may be carved: neither reserved, nor gateway, network or broadcast address.
	Total string `json:"total"`
	// Free ones, which nobody has.
	Free string `json:"free"`
	// Carved ones, which a pool, or a subnet made from this one, has.
	Carved string `json:"carved"`
	// Returning ones came back not long ago, and are kept from others for a while.
	Returning string `json:"returning,omitempty"`
}

// Condition types of a Subnet.
const (
	SubnetReady = "Ready"
	// Attached: the NetworkAttachmentDefinitions of its attachments are there. A Netspace has it, too.
	Attached = "Attached"
	// SubnetInStep: a copy of a hub's Subnet is as the hub's is, and blocks can be claimed.
	SubnetInStep = "InStep"
	// SubnetDisputed: more than one cluster holds a block of it.
	SubnetDisputed = "Disputed"
)

// SubnetList is a list of Subnets.
//
// +kubebuilder:object:root=true
type SubnetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Subnet `json:"items"`
}
