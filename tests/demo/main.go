// Command demo shows what Berth does, on a real Kubernetes of two nodes in two zones on this machine. It tells each step, and
// stops at the first thing that is not so. Everything it types a user can type, too.
//
//	go run ./tests/demo [flags] [up|down]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("demo", flag.ContinueOnError)
	var d demo
	f.StringVar(&d.name, "name", os.Getenv("LAB_NAME"), "name of the lab, to run several side by side")
	f.StringVar(&d.dir, "dir", os.Getenv("LAB_DIR"), "directory of the lab")
	if err := f.Parse(args); err != nil {
		return err
	}
	for _, file := range []string{"bin/lab", "dist/image.tar", "deploy/install.yaml"} {
		if _, err := os.Stat(file); err != nil && f.Arg(0) != "down" {
			return fmt.Errorf("%w: run make demo in the top directory, which builds it", err)
		}
	}
	switch strings.Join(f.Args(), " ") {
	case "down":
		return d.run(ctx, "down")
	case "", "up":
		return d.up(ctx)
	}
	return fmt.Errorf("no command %q: want [flags] up or down", f.Args())
}

var steps = []struct {
	title, why string
	do         func(*demo, context.Context) error
}{
	{"A cluster", "Two real Kubernetes nodes on this machine, each in a zone with a subnet of its own, a router between them.\n" +
		"Multus is there: it gives pods more networks than the one of the cluster.", (*demo).cluster},
	{"Berth", "A CNI plugin for addresses, an agent on each node, and a controller. One manifest installs all.", (*demo).install},
	{"Pools", "A pool says which addresses may be given out, and on which nodes: here one for each zone.", (*demo).pools},
	{"The network", "A network definition names the nodes' link, for all zones at once. Of addresses it says nothing but\n" +
		`"ipam": {"type": "berth"}.`, (*demo).network},
	{"The application", "quotes has macvlan as its second interface; orders has nothing else. Both name both pools.", (*demo).application},
	{"Every pod has an address of its zone", "Each address is held by an IPLease, an object whose name is the lock.", (*demo).addresses},
	{"Pods reach each other by address", "On the physical network, across zones, each seen under its own address, so that a\n" +
		"firewall can know it. No overlay, no translation.", (*demo).eachOther},
	{"Pods reach Services by name", "What macvlan alone cannot do: its pods are cut off from their own node, and so from Services\n" +
		"and DNS. Berth's eBPF program on vmac hands this traffic to the node, and counts it.", (*demo).services},
	{"Pods reach their own node", "Log collectors, node agents: all addresses of the node answer.", (*demo).ownNode},
	{"The node reaches its pods", "And so the kubelet's probes pass.", (*demo).fromNode},
	{"Deleting the application frees its addresses", "A lease that is Released is free, and remembers who had it.", (*demo).deletion},
	{"The application again", "So that there is something to look at.", (*demo).application},
}

// up runs all steps, and leaves the cluster as it is then.
func (d *demo) up(ctx context.Context) error {
	begin := time.Now()
	for i, s := range steps {
		say("\n%s\n%s", bold(fmt.Sprintf("%d. %s", i+1, s.title)), s.why)
		if err := s.do(d, ctx); err != nil {
			if ctx.Err() == nil && d.env != "" {
				d.closer(ctx)
			}
			return fmt.Errorf("step %d, %q, is not so: %w", i+1, s.title, err)
		}
	}
	say("\n%s in %s. The cluster is up. To look around:\n", bold("All of it is so"), time.Since(begin).Round(time.Second))
	d.hints(
		"kubectl get ippools,ipleases",
		"kubectl -n demo get pods -o wide",
		"kubectl -n demo exec deploy/orders -- testapp get http://quotes",
		"kubectl -n demo exec ds/quotes -- ip route",
		"make demo-down   # stops it")
	return nil
}

// closer shows what helps to understand a failure.
func (d *demo) closer(ctx context.Context) {
	say("\n%s. The cluster as it is:", bold("Not so"))
	_ = kubectl(ctx, "get pods -A -o wide")
	_ = kubectl(ctx, "-n demo get events --field-selector involvedObject.kind=Pod,type=Warning,reason!=Unhealthy --sort-by .lastTimestamp | tail -n 6")
	say("\nTo look closer (the cluster stays up until make demo-down):\n")
	d.hints(
		"kubectl get ippools,ipleases -o wide",
		"kubectl -n demo describe pods",
		"kubectl -n berth-system logs daemonset/berth-agent --all-pods --prefix --tail 50\n")
}
