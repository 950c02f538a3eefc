package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// answer of the application.
type answer struct{ Hostname, Node, Remote string }

// get a URL from inside a pod; anything but status 200 is an error.
func (d *demo) get(ctx context.Context, from pod, args ...string) (answer, error) {
	out, err := d.inPod(ctx, from.name, append([]string{"testapp", "get", "--timeout", "3s"}, args...)...)
	if err != nil {
		return answer{}, err
	}
	var a answer
	_, body, _ := strings.Cut(out, "\n")
	return a, json.Unmarshal([]byte(body), &a)
}

func url(a netip.Addr, port string) string {
	return "http://" + net.JoinHostPort(a.String(), port) + "/"
}

// eachOther asks from each pod each other one, by both its addresses.
func eachOther(ctx context.Context, d *demo) error {
	for _, from := range d.pods {
		across := 0
		for _, to := range d.pods {
			if from.name == to.name {
				continue
			}
			for i, addr := range to.addrs {
				a, err := d.get(ctx, from, url(addr, "8080"))
				if err != nil {
					return fmt.Errorf("%s cannot reach %s at %s: %w", from, to, addr, err)
				}
				if remote, err := netip.ParseAddrPort(a.Remote); err != nil || remote.Addr() != from.addrs[i] {
					return fmt.Errorf("%s was seen by %s as %s, not under its own address %s", from, to, a.Remote, from.addrs[i])
				}
			}
			if from.zone != to.zone {
				across++
			}
		}
		proved("%s reaches all other %d pods, %d of them across zones, over IPv4 and IPv6", from, len(d.pods)-1, across)
	}
	return nil
}

// services asks each Service from each kind of pod on each node until a backend of each node has answered. The node picks
// backends at random.
func services(ctx context.Context, d *demo) error {
	typed(strings.Fields("kubectl -n demo exec POD -- testapp get http://orders.demo.svc.cluster.local"))
	for _, from := range d.onePerNode() {
		before, err := d.steered(ctx, from.node)
		if err != nil {
			return err
		}
		requests := map[string]int{}
		for _, family := range []string{"-4", "-6"} {
			for _, service := range []string{"quotes", "orders"} {
				n, err := d.bothNodes(ctx, from, service, family)
				if err != nil {
					return err
				}
				requests[family] += n
			}
		}
		after, err := d.steered(ctx, from.node)
		if err != nil {
			return err
		}
		v4, v6 := after["steered_ipv4"]-before["steered_ipv4"], after["steered_ipv6"]-before["steered_ipv6"]
		// A request is at least five packets: SYN, ACK, GET, FIN, ACK.
		if v4 < 5*requests["-4"] || v6 < 5*requests["-6"] {
			return fmt.Errorf("%s made %d requests over IPv4 and %d over IPv6, but the program on vmac of %s has seen %d and %d packets: they went another way",
				from, requests["-4"], requests["-6"], from.node, v4, v6)
		}
		proved("%s reaches quotes and orders on both nodes; the program on vmac steered %d IPv4 and %d IPv6 packets", from, v4, v6)
	}
	return nil
}

// onePerNode of each kind.
func (d *demo) onePerNode() (out []pod) {
	seen := map[string]bool{}
	for _, p := range d.pods {
		if key := p.app + p.node; !seen[key] {
			seen[key] = true
			out = append(out, p)
		}
	}
	return out
}

// bothNodes asks a Service until another pod of this node and a pod of the other have answered, and counts the requests.
// Once it has answered it must always answer; before, it may not yet be known on the node.
func (d *demo) bothNodes(ctx context.Context, from pod, service, family string) (requests int, err error) {
	name := "http://" + service + "." + namespace + ".svc.cluster.local"
	if err := eventually(ctx, 10*time.Second, func() error {
		_, err := d.get(ctx, from, family, name)
		return err
	}); err != nil {
		return 0, fmt.Errorf("%s cannot reach the Service %s: %w", from, service, err)
	}
	seen := map[string]string{}
	for ; len(seen) < len(d.nodes) && requests < 60; requests++ {
		a, err := d.get(ctx, from, family, name)
		if err != nil {
			return 0, fmt.Errorf("%s does not always reach the Service %s: %w", from, service, err)
		}
		if a.Hostname != from.name || service == "quotes" { // of quotes there is one on each node
			seen[a.Node] = a.Hostname
		}
	}
	if len(seen) < len(d.nodes) {
		return 0, fmt.Errorf("%s asked the Service %s %d times, and only %v have answered, not a pod of each node", from, service, requests, seen)
	}
	return requests, nil
}

// steered reads from the agent how many packets the programs on vmac of a node passed to the host, by verdict.
func (d *demo) steered(ctx context.Context, node string) (map[string]int, error) {
	out, err := d.onNode(ctx, node, "testapp", "get", "http://127.0.0.1:9641/metrics")
	if err != nil {
		return nil, err
	}
	sum := map[string]int{}
	for line := range strings.Lines(out) {
		if rest, ok := strings.CutPrefix(line, `berth_path_packets_total{verdict="`); ok {
			verdict, _, _ := strings.Cut(rest, `"`)
			n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " "):]), 64)
			if err != nil {
				return nil, fmt.Errorf("metric %s: %w", line, err)
			}
			sum[verdict] += int(n)
		}
	}
	return sum, nil
}

// ownNode asks kube-proxy's health port, which listens on all addresses of a node.
func ownNode(ctx context.Context, d *demo) error {
	for _, p := range d.onePerNode() {
		out, err := d.onNode(ctx, p.node, "hostname", "-I")
		if err != nil {
			return err
		}
		for _, s := range strings.Fields(out) {
			addr, err := netip.ParseAddr(s)
			if err != nil {
				return err
			}
			if _, err := d.inPod(ctx, p.name, "testapp", "get", "--timeout", "3s", url(addr, "10256")+"healthz"); err != nil {
				return fmt.Errorf("%s cannot reach its node at %s: %w", p, addr, err)
			}
		}
		proved("%s reaches %s at %s", p, p.node, strings.Join(strings.Fields(out), " "))
	}
	return nil
}

func fromNode(ctx context.Context, d *demo) error {
	for _, p := range d.pods {
		for _, addr := range p.addrs {
			if _, err := d.onNode(ctx, p.node, "testapp", "get", "--timeout", "3s", url(addr, "8080")); err != nil {
				return fmt.Errorf("%s cannot reach its pod %s at %s: %w", p.node, p.name, addr, err)
			}
		}
		proved("%s reaches %s", p.node, p.name)
	}
	return d.kubectl(ctx, "-n demo wait --for condition=Ready --timeout 5s pods -l app=orders")
}
