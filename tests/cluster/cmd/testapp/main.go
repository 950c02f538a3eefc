// Command testapp is the application of the lab's tests and demonstrations: a
// server that says who asked, and the clients to ask it with, in one static
// binary. In a pod, run them with `kubectl exec POD -- testapp …`.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage: testapp COMMAND

  serve                                who asked: HTTP, UDP, SCTP :8080; UDP echo :8081, TCP echo :8082, TCP sink :8083
  get [--timeout 5s] [-4|-6] URL       fetch URL; exit 0 only for status 200
  udp [--timeout 2s] HOST:PORT [TEXT]  send a datagram, print the answer
  who [--timeout 5s] [--size 1] tcp|udp|sctp HOST:PORT    who asks, as the server sees it, as JSON
  pmtu [--timeout 2s] HOST:PORT        the MTU of the path, once datagrams have met a link that takes less than was known
  addrs                                addresses of this pod, as JSON
  routes                               routes of this pod
  bench-rr [-n 10000] [--udp] HOST:PORT      round trips to the echo server (:8082, with --udp :8081), as JSON
  bench-stream [-t 5s] [-P 1] HOST:PORT      throughput to the sink (:8083), as JSON
  sleep                                nothing, until stopped
`

// commands take their arguments and say what went wrong.
var commands = map[string]func(context.Context, []string) error{
	"serve":        serve,
	"get":          get,
	"udp":          udp,
	"who":          who,
	"pmtu":         pmtu,
	"addrs":        addrs,
	"routes":       routes,
	"bench-rr":     benchRR,
	"bench-stream": benchStream,
	"sleep": func(ctx context.Context, _ []string) error {
		<-ctx.Done()
		return nil
	},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	args := os.Args[1:]
	if len(args) == 0 {
		args = []string{"serve"}
	}
	command, ok := commands[args[0]]
	if !ok {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := command(ctx, args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testapp:", err)
		os.Exit(1)
	}
}
