// Command pause does nothing, for ever: it is the first process of every pod's
// sandbox and of every node of the lab.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// Ignored, the kernel reaps the orphans that a first process inherits.
	signal.Ignore(syscall.SIGCHLD)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	<-c
}
