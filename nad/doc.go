// Package nad reads what a pod asks for, interface by interface: from its annotations, its namespace's annotations, and the
// ipam section of the NetworkAttachmentDefinition. It is pure: no client, no clock.
//
// Which pools an interface uses is said in one of these places; the first that speaks of the interface counts:
//
//	pod annotation        berth.dev/subnet    by interface   "net1=office; net2=store"
//	pod annotation        berth.dev/ippools   by interface   "net1=zone-a,zone-b; net2=store"
//	pod annotation        berth.dev/subnet    every one      "office"
//	pod annotation        berth.dev/ippool    every one      "zone-a, zone-b"
//	namespace annotation  berth.dev/ippool    every one      "zone-a, zone-b"
//	NAD ipam section      ippools, ipv4, ipv6
//	nowhere               the pools marked default
//
// A Subnet is no pool: the interface uses the pool that the controller carves from it for the workload of the pod, and for nobody else
// (PoolName). How large that is, and whether it is kept without its workload, berth.dev/pool-size and berth.dev/pool-reclaim say (template.go).
//
// The annotations take JSON as well, which names pools by family: {"ipv4":["zone-a"],"ipv6":["zone-a6"]}, and in a list by
// interface [{"interface":"net1","ipv4":["zone-a"],"cleangateway":true}]. The annotations of Spiderpool are read too
// (ipam.spidernet.io/ippool, /ippools, /subnet, /subnets, /ippool-ip-number, /ippool-reclaim, /routes, and default-ipv4-ippool,
// default-ipv6-ippool of the namespace). If both are there the native ones count and the others are ignored, with a warning.
//
// Which addresses of them it gets may be said as well:
//
//	ips in the networks annotation, runtimeConfig, args or CNI_ARGS   these, all of them
//	pod annotation berth.dev/ips                                      one of these of each family: "10.6.1.5, 10.6.1.8-10.6.1.11",
//	                                                                  or by interface "net1=10.6.1.5,10.6.1.6; net2=10.7.1.5"
//
// Both for one interface are an error. As berth.dev/ippool, berth.dev/ips without interfaces is for every one.
//
// Whose an address is beyond the life of one pod (v1alpha1.LeaseIdentity) is said in one of these places; the first that is there
// counts, for it is the nearest to the interface:
//
//	ipam-claim-reference of the network in the networks annotation    that IPAMClaim
//	pod annotation berth.dev/identity                                 that name, for every interface of the pod
//	the pod's controller                                              its place in the StatefulSet, its VirtualMachineInstance
//
// The last is not read here but by the agent, from the pod's ownerReferences.
//
// What the interface may send as, beside its leases, or whether it is not kept to them at all, is said in berth.dev/allowed-addresses
// and berth.dev/source-guard of the pod, the latter in the ipam section, too. The pools may forbid both; that is the agent's to see.
//
// A pod whose connections to Services all have to go through the node, say for a service mesh that redirects them by the Service's address,
// has berth.dev/fast-mode: Disabled.
//
// Which tenant a pod is a guest of is said in berth.dev/netspace of the pod (or ipam.com/netspace). Whether that has guests, and whose
// the pod's namespace is, the agent knows.
//
// Every error is the user's, names the annotation and its value, and says what to write.
package nad

// Annotations of pods; PoolAnnotation of namespaces as well.
const (
	PoolAnnotation     = "berth.dev/ippool"
	PoolsAnnotation    = "berth.dev/ippools"
	IPsAnnotation      = "berth.dev/ips"
	IdentityAnnotation = "berth.dev/identity"
	RoutesAnnotation   = "berth.dev/routes"
	SteeringAnnotation = "berth.dev/steering"
	GuardAnnotation    = "berth.dev/source-guard"
	AllowedAnnotation  = "berth.dev/allowed-addresses"
	FastModeAnnotation = "berth.dev/fast-mode"
	NetspaceAnnotation = "berth.dev/netspace"
	SubnetAnnotation   = "berth.dev/subnet"
	SizeAnnotation     = "berth.dev/pool-size"
	ReclaimAnnotation  = "berth.dev/pool-reclaim"
)

// AccessVLANsAnnotation of nodes says which of their links are access ports of a VLAN: "eth1=910,eth2=911".
const AccessVLANsAnnotation = "berth.dev/access-vlans"

// foreignNetspace is read as NetspaceAnnotation is.
const foreignNetspace = "ipam.com/netspace"

// Annotations of Spiderpool that are read as they are.
const (
	spiderPool   = "ipam.spidernet.io/ippool"
	spiderPools  = "ipam.spidernet.io/ippools"
	spiderRoutes = "ipam.spidernet.io/routes"

	spiderSubnet  = "ipam.spidernet.io/subnet"
	spiderSubnets = "ipam.spidernet.io/subnets"
	spiderSize    = "ipam.spidernet.io/ippool-ip-number"
	spiderReclaim = "ipam.spidernet.io/ippool-reclaim"
	// of namespaces
	spiderIPv4 = "ipam.spidernet.io/default-ipv4-ippool"
	spiderIPv6 = "ipam.spidernet.io/default-ipv6-ippool"
)

// Annotations of Multus (Kubernetes Network Custom Resource Definition De-facto Standard, section 4.1).
const (
	networksAnnotation       = "k8s.v1.cni.cncf.io/networks"
	defaultNetworkAnnotation = "v1.multus-cni.io/default-network"
)
