package delegate

import (
	"encoding/json"

	"github.com/berthdev/berth/delegate/plugin"
)

// StatusRun is the HTTP status of an answer that is a list of Runs.
const StatusRun = plugin.StatusRun

// Run is another IPAM plugin to be run, a delegate.
type Run struct {
	// Pool that it is run for.
	Pool string `json:"pool"`
	// Type is the name of its binary in CNI_PATH.
	Type string `json:"type"`
	// Command is its CNI_COMMAND.
	Command string `json:"command"`
	// ContainerID and IfName name the interface of a dead sandbox, in GC. Empty: that of the request, in its namespace.
	ContainerID string `json:"containerID,omitempty"`
	IfName      string `json:"ifName,omitempty"`
	// Config is its stdin: the network configuration with its ipam section. It is not repeated in the outcome.
	Config json.RawMessage `json:"config,omitempty"`
	// Why the agent undoes what the delegate gave.
	Why string `json:"why,omitempty"`
}

// Ran is what came of a Run.
type Ran struct {
	Run
	// Result is what an ADD printed.
	Result json.RawMessage `json:"result,omitempty"`
	// Error is the delegate's own, or what kept it from running; nil: success.
	Error *Error `json:"error,omitempty"`
	// Absent: there is no such plugin in CNI_PATH, so nothing was run.
	Absent bool `json:"absent,omitempty"`
}
