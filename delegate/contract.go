// Package delegate is the CNI side of Berth: the contract between the plugin, which is package plugin below, and the node agent, and the
// network configuration that the plugin hands on.
//
// The contract is HTTP with JSON bodies over a unix socket that only root may open. Each verb is a POST of a Request:
//
//	path        answers 200 with                        may fail with (CNI error codes, CNI spec "Error")
//	/v1/add     a CNI result, of the cniVersion of the  7 bad configuration, 11 try again later, 100–103 and 106 below
//	            configuration, which is printed as it is
//	/v1/del     {}; not found is success                7, 11, 106
//	/v1/check   {}                                      7, 11, 105 the lease is not this sandbox's, 106
//	/v1/status  {}                                      50 the agent cannot serve
//	/v1/gc      {}                                      7, 11, 106
//
// Besides, GET /v1/state answers berth-agent doctor and trace what the agent wants of its node (agent/state).
//
// A failure is any other HTTP status with a CNI error object {code, msg, details} as its body; the message says what to do.
// The plugin hands it on as it is. If the agent does not answer, the plugin fails with 11 (50 for STATUS).
//
// DEL must succeed on a configuration that ADD would refuse, or a pod made with it never goes away.
//
// # Delegation
//
// The addresses of a delegate pool come from another IPAM plugin, which must run where the runtime runs plugins. So the agent says
// what to run and the plugin runs it. An answer with the status 202 is a list of Runs; the plugin runs them in their order and posts
// its Request again, with all outcomes since it started. The agent keeps nothing of a verb between two posts, and is the one who
// judges: the plugin does not look at what a delegate said.
//
//	verb    the agent asks for                  then, by the outcome, it
//	ADD     ADD of the next delegate pool in    records its addresses as leases and answers the result; or goes on to the next pool,
//	        the plan (DEL first, if it has      if the delegate failed, gave another family or not the address asked for, or gave one
//	        something for this interface)       that is bound already
//	ADD     DEL of a delegate whose addresses   goes on
//	        it does not use
//	DEL     DEL of each delegate that may have  frees the leases; those of a delegate that failed stay, and its error is the answer.
//	        something for this interface        One that is not on the node and of which nothing is recorded has given nothing
//	CHECK   CHECK of each delegate that leases  answers the first error; a delegate that knows no CHECK passes
//	        of this interface are from
//	GC      DEL for each interface of a dead    frees the leases; answers all errors
//	        sandbox, then GC of each delegate
//	        pool of this node
//	STATUS  STATUS of the delegates, if the     answers 50 if all of them fail
//	        network's pools have no other
//
// What an ADD has a delegate give is undone if the ADD fails in the end, be it that the agent is away: the plugin then runs DEL of
// each delegate of which it ran ADD. A delegate whose ADD fails gets its DEL at once (CNI spec 1.1.0, section 4). The agent notes on
// disk which delegate it is about to ask for, so that DEL finds it if the plugin dies meanwhile.
//
// # The result of ADD
//
// Main plugins apply it with ipam.ConfigureIface and compare it with the kernel at CHECK. So (plugins v1.9.1, TestRoutes):
//
//   - Routes are made in their order. A next hop outside of the subnet needs a route of its own before it:
//     {"dst": "169.254.1.1/32", "scope": 253}. A link-local IPv6 next hop needs none.
//   - That route must have no gw, and so the IPv4 addresses no gateway: a route without gw gets the gateway of the first
//     address of its family, and the kernel refuses it. A gw of 0.0.0.0 passes ADD, but CHECK does not find the route.
//   - A gateway in ips makes no route. One of IPv6 makes ADD wait for duplicate address detection, up to 2 s, unless
//     that is off, as plugin has it. So leave it out, and give every route its gw; only ptp needs a gateway in each address.
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

// PathState is what the plugin does not know.
const PathState = "/v1/state"

// CNI error codes of Berth's own. Codes from 100 are free for plugins (CNI spec 1.1.0, section "Error").
const (
	CodeNoPool       uint = 100 // no pool can serve this pod's interface
	CodeExhausted    uint = 101 // the pools that can serve it have no free address
	CodeAddressTaken uint = 102 // the address asked for is held by another
	CodeBadRequest   uint = 103 // an annotation or CNI argument is malformed or contradicts another
	CodeNotBound     uint = 105 // CHECK: the lease is absent or another sandbox's
	CodeDelegate     uint = 106 // the IPAM plugin of a delegate pool failed, or its result cannot be used
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
	// Ran is what came of the delegates that the agent has asked for, in order, see package plugin.
	Ran []Ran `json:"ran,omitempty"`
}

// Error is what the agent answers on failure.
type Error = types.Error
