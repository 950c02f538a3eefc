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

// get URLs from inside a pod. Anything but status 200 is an error.
func get(ctx context.Context, from pod, flag string, urls ...string) (out []answer, err error) {
	text, err := inPod(ctx, from.name, "for url in "+strings.Join(urls, " ")+"; do testapp get --timeout 3s "+flag+" $url || exit 1; done")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) { // the status and the answer, in turn
		var a answer
		if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &a) == nil {
			out = append(out, a)
		}
	}
	return out, nil
}

// answer of the application: who it is, where it runs, and the client as it sees it.
type answer struct{ Hostname, Node, Remote string }

func url(a netip.Addr, port string) string {
	return "http://" + net.JoinHostPort(a.String(), port) + "/"
}

// eachOther asks from each pod each other one, by both its addresses.
func (d *demo) eachOther(ctx context.Context) error {
	for _, from := range d.pods {
		across := 0
		for _, to := range d.pods {
			if from.name == to.name {
				continue
			}
			answers, err := get(ctx, from, "", url(to.addrs[0], "8080"), url(to.addrs[1], "8080"))
			if err != nil {
				return fmt.Errorf("%s cannot reach %s at %v: %w", from, to, to.addrs, err)
			}
			for i, a := range answers {
				if remote, err := netip.ParseAddrPort(a.Remote); err != nil || remote.Addr() != from.addrs[i] {
					return fmt.Errorf("%s was seen by %s as %s, not under its own address %s", from, to, a.Remote, from.addrs[i])
				}
			}
			if d.zones[from.node] != d.zones[to.node] {
				across++
			}
		}
		proved("%s reaches all other %d, %d of them across zones, over IPv4 and IPv6", from, len(d.pods)-1, across)
	}
	return nil
}

// onePerNode of each kind of pod.
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

func (d *demo) services(ctx context.Context) error {
	typed("kubectl -n demo exec POD -- testapp get http://orders." + namespace + ".svc.cluster.local")
	for _, from := range d.onePerNode() {
		for _, service := range []string{"quotes", "orders"} {
			for _, family := range []string{"4", "6"} {
				if err := d.service(ctx, from, service, family); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// service asks a Service, and compares the number of requests with what became of them: its sockets were connected to a backend that it
// reaches by itself (fast mode), or the program on vmac passed its packets to the node. The backends of quotes are in the overlay, where
// none but the node leads.
func (d *demo) service(ctx context.Context, from pod, service, family string) error {
	const connected = `berth_fast_mode_calls_total{outcome="translated_tcp"`
	steered := `berth_path_packets_total{verdict="steered_ipv` + family + `"`
	calls, packets, err := d.both(ctx, from.node, connected, steered)
	if err != nil {
		return err
	}
	requests, err := d.bothNodes(ctx, from, service, "-"+family)
	if err != nil {
		return err
	}
	callsAfter, packetsAfter, err := d.both(ctx, from.node, connected, steered)
	if err != nil {
		return err
	}
	calls, packets = callsAfter-calls, packetsAfter-packets
	switch {
	case service == "orders" && calls >= requests:
		proved("%s asked %s %2d times over IPv%s; pods on both nodes answered; %2d sockets were connected straight to them", from, service, requests, family, calls)
	// A request is at least four packets: SYN, ACK, GET, FIN. Requests to quotes over IPv6 are all that there is. IPv4 has
	// DNS and probes, too, and the answers of orders to its own node.
	case packets >= 4*requests:
		proved("%s asked %s %2d times over IPv%s; pods on both nodes answered; vmac passed %3d packets to the node", from, service, requests, family, packets)
	default:
		return fmt.Errorf("%s asked the Service %s %d times over IPv%s, but the program on vmac of %s counted only %d packets to the node, and %d sockets were connected to a backend: they went another way",
			from, service, requests, family, from.node, packets, calls)
	}
	return nil
}

// both metrics of a node's agent.
func (d *demo) both(ctx context.Context, node, one, other string) (a, b int, err error) {
	if a, err = d.metric(ctx, node, one); err != nil {
		return 0, 0, err
	}
	b, err = d.metric(ctx, node, other)
	return a, b, err
}

// bothNodes asks a Service until another pod on this node and a pod on the other have answered, and counts the requests. The
// node picks at random whom it asks. A Service that has answered must always answer; before, the node may not yet know it.
func (d *demo) bothNodes(ctx context.Context, from pod, service, flag string) (requests int, err error) {
	name := "http://" + service + "." + namespace + ".svc.cluster.local"
	if err := eventually(ctx, 10*time.Second, func() error {
		_, err := get(ctx, from, flag, name)
		requests++
		return err
	}); err != nil {
		return 0, fmt.Errorf("%s cannot reach the Service %s: %w", from, service, err)
	}
	seen := map[string]bool{}
	for len(seen) < len(d.zones) {
		if requests > 60 {
			return 0, fmt.Errorf("%s asked the Service %s %d times, and not a pod of each node has answered, only of %v", from, service, requests, seen)
		}
		answers, err := get(ctx, from, flag, name, name, name)
		if err != nil {
			return 0, fmt.Errorf("%s does not always reach the Service %s: %w", from, service, err)
		}
		requests += len(answers)
		for _, a := range answers {
			if a.Hostname != from.name || service == "quotes" { // of which each node has but one
				seen[a.Node] = true
			}
		}
	}
	return requests, nil
}

// metric of a node's agent: the sum of what begins so.
func (d *demo) metric(ctx context.Context, node, prefix string) (sum int, err error) {
	out, err := d.onNode(ctx, node, "testapp", "get", "http://127.0.0.1:9641/metrics")
	if err != nil {
		return 0, fmt.Errorf("berth-agent of %s does not answer: %w", node, err)
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, prefix) {
			n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " "):]), 64)
			if err != nil {
				return 0, fmt.Errorf("metric %s: %w", line, err)
			}
			sum += int(n)
		}
	}
	return sum, nil
}

// ownNode asks kube-proxy's health port, which is open on all addresses of a node.
func (d *demo) ownNode(ctx context.Context) error {
	for _, p := range d.onePerNode() {
		out, err := d.onNode(ctx, p.node, "hostname", "-I")
		if err != nil {
			return err
		}
		var urls []string
		for _, s := range strings.Fields(out) {
			addr, err := netip.ParseAddr(s)
			if err != nil {
				return err
			}
			urls = append(urls, url(addr, "10256")+"healthz")
		}
		if _, err := get(ctx, p, "", urls...); err != nil {
			return fmt.Errorf("%s cannot reach its node at each of %s: %w", p, strings.TrimSpace(out), err)
		}
		proved("%s reaches %s at %s", p, p.node, strings.TrimSpace(out))
	}
	return nil
}

func (d *demo) fromNode(ctx context.Context) error {
	for _, p := range d.pods {
		for _, addr := range p.addrs {
			if _, err := d.onNode(ctx, p.node, "testapp", "get", "--timeout", "3s", url(addr, "8080")); err != nil {
				return fmt.Errorf("%s cannot reach its pod %s at %s: %w", p.node, p.name, addr, err)
			}
		}
		proved("%s reaches %s at %s and %s", p.node, p.name, p.addrs[0], p.addrs[1])
	}
	return kubectl(ctx, "-n demo wait --for condition=Ready --timeout 5s pods -l app=orders")
}
