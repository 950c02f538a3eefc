// Berth is the CNI IPAM plugin. It asks the node's berth-agent for addresses; all of its logic is in package delegate/plugin.
package main

import (
	"os"

	"github.com/berthdev/berth/delegate/plugin"
)

// version is set at link time.
var version = "dev"

func main() { os.Exit(plugin.Main("CNI IPAM plugin berth " + version)) }
