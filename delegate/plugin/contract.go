// Package plugin is what the binary berth does: it checks what the CNI specification has a plugin check, asks the node agent, and hands
// the answer on. It is executed for each interface of each pod, so what counts is how little it is: its imports are few, none of them
// fmt, encoding/json, net or the CNI library, since the start of a program in Go takes the longer the more packages it has
// (TestThin; measured with Go 1.26: 0.6 ms for the CNI library, of 1.4 ms for an empty program). What needs more is the agent's:
// it reads the configuration and makes the result in the version asked for. The contract is at package delegate.
package plugin

// DefaultSocket is where the agent serves, unless the network configuration says otherwise ("socket" in its ipam section).
const DefaultSocket = "/run/berth/agent.sock"

// The paths of the verbs.
const (
	PathAdd    = "/v1/add"
	PathDel    = "/v1/del"
	PathCheck  = "/v1/check"
	PathStatus = "/v1/status"
	PathGC     = "/v1/gc"
)

// CodeNotAvailable is STATUS' own: the plugin cannot serve ADD (CNI spec 1.1.0, section "STATUS").
const CodeNotAvailable uint = 50
