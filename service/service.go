// Package service says what the Services of a cluster mean to the macvlan pods of one node. It is pure: no client, no maps,
// no clock. Who carries it out (bpf/sock at the pod's socket, agent/proxy in nftables) takes one Service at a time, so that the
// cost of a change does not depend on how many Services there are.
//
//	Spec    what is kept of a Service object                  ReadSpec
//	Slice   what is kept of an EndpointSlice                  ReadSlice
//	View    what a node knows of nodes, its zone and pools    NewView
//	Claims  which Service has a frontend that several name    Claims.Replace
//	        all of them together                              Build
//
// The rules are those of kube-proxy 1.36 (pkg/proxy: serviceport.go, endpointslicecache.go, topology.go, nftables/proxier.go):
//
//	of a Service                                   frontends                     backends
//	ExternalName; no cluster IP, or None;
//	  label service.kubernetes.io/service-proxy-name  none
//	clusterIPs, by ipFamilies                         address and port           by internalTrafficPolicy
//	externalIPs, of a family with a cluster IP        address and port           by externalTrafficPolicy
//	status.loadBalancer, likewise, not ipMode Proxy   address and port           by externalTrafficPolicy
//	nodePort, likewise                                unspecified and node port  by externalTrafficPolicy
//
//	policy    endpoints of the same port name and protocol, each address and port once, not terminating ones first
//	Cluster   those ready that the hints leave (see hinted); no one ready anywhere: those serving and terminating
//	Local     those ready on this node, whatever the hints; none: those serving and terminating on it; none, but some
//	          elsewhere: Drop
//
// UDP that has begun stays with its endpoint while that serves (pkg/proxy/conntrack/cleanup.go), as TCP does by itself: with one that
// terminates, and with one that policy or hints leave to others by now.
//
// Where it differs is in docs/architecture.md, "Services".
package service

import (
	"fmt"
	"net/netip"
	"time"
)

// Protocol is the number that IP has for it.
type Protocol uint8

const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("Protocol(%d)", uint8(p))
}

// Frontend is what clients of a Service address. Of a NodePort the address is unspecified, 0.0.0.0 or ::, and stands for each
// address of each node.
type Frontend struct {
	Address  netip.Addr
	Port     uint16
	Protocol Protocol
}

func (f Frontend) String() string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(f.Address, f.Port), f.Protocol)
}

// NodePort says whether the frontend stands for the addresses of nodes.
func (f Frontend) NodePort() bool { return f.Address.IsUnspecified() }

// Backend is where a connection may go to. How a macvlan pod reaches it without its node's help:
//
//	Network  Node   it is                               directly reached by
//	name     false  a macvlan pod's, of a pool           pods of that network
//	""       true   an address of another node itself    every pod with a way to it on the underlay
//	""       false  anything else: an overlay pod,       none: through vmac and the node
//	                this node, beyond the cluster
type Backend struct {
	Address netip.Addr
	Port    uint16
	Network string
	Node    bool
}

// Port is what one port of a Service means for some of its frontends, of one IP family. Policies may give external frontends other
// backends than the cluster IP; then the port is there twice.
type Port struct {
	Name      string // of the port; may be empty
	Frontends []Frontend
	Backends  []Backend      // for new connections, by readiness, policy and topology; sorted. None: refuse, or Drop
	Staying   []Backend      // where UDP that has begun stays: endpoints that serve, but get nothing new; sorted
	Drop      bool           // without Backends: no answer. Policy Local, and endpoints elsewhere only; Steered says so, too
	Affinity  time.Duration  // ClientIP affinity lasts that long after the last connection; 0 for none
	Sources   []netip.Prefix // only clients in them may use it (loadBalancerSourceRanges); nil for all

	// Steered says why the socket must leave these frontends alone, so that connections go through the node; "" if it need not.
	Steered string
}

// Service is what one Service means: all its ports, of both families. A headless one has none.
type Service struct {
	Name  string // namespace/name
	Ports []Port
}
