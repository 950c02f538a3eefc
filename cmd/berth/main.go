// Berth is the CNI IPAM plugin. It asks the node's berth-agent for addresses; all of its logic is in package delegate.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/berthdev/berth/delegate"
)

// version is set at link time.
var version = "dev"

func main() {
	debug.SetGCPercent(-1) // it lives for one request and ends before it has garbage worth collecting
	if err := delegate.Main("CNI IPAM plugin berth " + version); err != nil {
		if printErr := err.Print(); printErr != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}
