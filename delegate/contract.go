// Package delegate is the CNI side of Berth: the contract between the plugin, which is package plugin below, and the node agent, and the
// network configuration that the plugin hands on.
//
// The contract is HTTP with JSON bodies over a unix socket that only root may open. Each verb is a POST of a Request:
//
//	path        answers 200 with                        may fail with (CNI error codes, CNI spec "Error")
//	/v1/add     a CNI result, of the cniVersion of the  7 bad configuration, 11 try again later, 100–103 below
//	            configuration, which is printed as it is
//	/v1/del     {}; not found is success                7, 11
//	/v1/check   {}                                      7, 11, 105 the lease is not this sandbox's
//	/v1/status  {}                                      50 the agent cannot serve
//	/v1/gc      {}                                      7, 11
//
// A failure is any other HTTP status with a CNI error object {code, msg, details} as its body; the message says what to do.
// The plugin hands it on as it is. If the agent does not answer, the plugin fails with 11 (50 for STATUS).
//
// DEL must succeed on a configuration that ADD would refuse, or a pod made with it never goes away.
//
// # The result of ADD
//
// Main plugins apply it with ipam.ConfigureIface and compare it with the kernel at CHECK. So (plugins v1.9.1, TestRoutes):
//
//   - Routes are made in their order. A next hop outside of the subnet needs a route of its own before it:
//     {"dst": "169.254.1.1/32", "scope": 253}. A link-local IPv6 next hop needs none.
//   - That route must have no gw, and so the IPv4 addresses no gateway: a route without gw gets the gateway of the first
//     address of its family, and the kernel refuses it. A gw of 0.0.0.0 passes ADD, but CHECK does not find the route.
//   - A gateway in ips makes no route. One of IPv6 makes ADD wait for duplicate address detection, up to 2 s. So leave it
//     out, and give every route its gw; only ptp needs a gateway in each address.
//   - interfaces and ips[].interface are the main plugin's to set.
package delegate

import (
	"encoding/json"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/berthdev/berth/delegate/plugin"
)

// What the plugin knows, too.
const (
	DefaultSocket = plugin.DefaultSocket

	PathAdd    = plugin.PathAdd
	PathDel    = plugin.PathDel
	PathCheck  = plugin.PathCheck
	PathStatus = plugin.PathStatus
	PathGC     = plugin.PathGC

	CodeNotAvailable = plugin.CodeNotAvailable
)

// CNI error codes of Berth's own. Codes from 100 are free for plugins (CNI spec 1.1.0, section "Error").
const (
	CodeNoPool       uint = 100 // no pool can serve this pod's interface
	CodeExhausted    uint = 101 // the pools that can serve it have no free address
	CodeAddressTaken uint = 102 // the address asked for is held by another
	CodeBadRequest   uint = 103 // an annotation or CNI argument is malformed or contradicts another
	CodeNotBound     uint = 105 // CHECK: the lease is absent or another sandbox's
)

// Request is what the plugin tells the agent: the CNI parameters as they came, and what it saw in the pod's namespace.
type Request struct {
	// ContainerID, NetNS and IfName are CNI_CONTAINERID, CNI_NETNS and CNI_IFNAME. Empty for STATUS and GC.
	ContainerID string `json:"containerID,omitempty"`
	NetNS       string `json:"netns,omitempty"`
	IfName      string `json:"ifName,omitempty"`
	// Args is CNI_ARGS as it came: "K=V;K=V".
	Args string `json:"args,omitempty"`
	// Config is the network configuration from stdin.
	Config json.RawMessage `json:"config"`
	// MAC of IfName in NetNS, if the main plugin has made the link before it called IPAM ADD (macvlan has).
	MAC string `json:"mac,omitempty"`
}

// Error is what the agent answers on failure.
type Error = types.Error
