package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// fastMode is the annotation that turns it off.
const fastMode = "berth.dev/fast-mode"

// seen is whom a server sees.
type seen string

const (
	asPod   seen = "the pod's own address"
	asNode  seen = "its node's address"
	refused seen = "nobody: connection refused"
)

// matrix is that of docs/service-path.md: which address a server sees of a macvlan pod of node-a that asks it through a Service.
// kube-proxy has a clusterCIDR here, and so masquerades what comes to a cluster IP from elsewhere; node-b's address is that of mgmt,
// where no pod is.
var matrix = []struct {
	backend                string
	fast                   seen // "": left to the node
	proxied, unaided, kept seen // steered: with kube-proxy; without; and with owner routes besides
}{
	{"first-b", asPod, asNode, asNode, asNode},
	{"first-a", asPod, asNode, asNode, asNode},
	{"overlay-a", "", asNode, asPod, asPod},
	{"overlay-b", "", asNode, asNode, asPod},
	{"host-a", "", asPod, asPod, asPod},
	{"host-b", "", asNode, asNode, asNode},
	{"itself", asPod, asNode, asNode, asNode},
	{"itself, in the overlay", "", asNode, asNode, asNode},
	{"nobody", refused, refused, refused, refused},
}

// asker is a client of the matrix.
type asker struct {
	*corev1.Pod
	ifName string
	fast   bool
	itself string // which row is it
	own    []netip.Addr
}

// TestMatrix walks it on one node with kube-proxy in nftables mode, in iptables mode, with none, and with owner routes besides: TCP, UDP,
// fragments, SCTP, refusals and path MTU, both families, pods in fast mode and steered, with macvlan as their default network and as their
// second.
func TestMatrix(t *testing.T) {
	s := newOwnSpace(t)
	m := newMatrixSpace(s)
	editAgents := restoresAgents(t)
	t.Cleanup(func() {
		nodeA.proxy(t, *proxies)
		router(t, "ip", "link", "set", "br-b", "mtu", "1500")
	})
	nodeA.proxy(t, "nftables")
	m.holds("nftables", false, 1400)
	nodeA.proxy(t, "iptables")
	m.holds("iptables", false, 1380)
	nodeA.proxy(t, "none")
	editAgents(apiByAddress(t))
	m.holds("none", false, 1360)
	editAgents(func(c *corev1.Container) { c.Args = append(c.Args, "--owner-routes") })
	m.holds("none", true, 1340)
}

type matrixSpace struct {
	*space
	askers   []*asker
	backends map[string]*corev1.Pod
	vips     map[string][]netip.Addr // of the backend's Service
}

func newMatrixSpace(s *space) *matrixSpace {
	m := &matrixSpace{space: s, backends: map[string]*corev1.Pod{}, vips: map[string][]netip.Addr{}}
	a := s.pool("a", s.ranges("a", 1, 50), nodesOf("a"))
	b := s.pool("b", s.ranges("b", 1, 50), nodesOf("b"))
	s.underlay("underlay", nil)
	for _, n := range nodes {
		for kind, options := range map[string][]podOption{
			"first": {s.firstOf(a, b)}, "overlay": nil, "host": {func(p *corev1.PodTemplateSpec) { p.Spec.HostNetwork = true }},
		} {
			name := kind + "-" + n.letter()
			m.backends[name] = s.pod(name, append(options, onNode(n))...)
		}
	}
	for name, mode := range map[string]string{"fast": "Enabled", "steered": "Disabled"} {
		for kind, c := range map[string]struct {
			*asker
			podOption
		}{
			"first":  {&asker{ifName: "eth0", itself: "itself"}, s.firstOf(a)},
			"second": {&asker{ifName: "net1", itself: "itself, in the overlay"}, secondOf(a)},
		} {
			options := []podOption{c.podOption, onNode(nodeA), note(steering, "Always")}
			if c.fast = mode == "Enabled"; !c.fast {
				options = append(options, note(fastMode, mode))
			}
			c.Pod = s.pod(kind+"-"+name, options...)
			m.askers = append(m.askers, c.asker)
			m.backends[c.Name] = c.Pod
		}
	}
	ports := []corev1.ServicePort{
		{Name: "who-tcp", Port: 80, TargetPort: port(8080)},
		{Name: "who-udp", Port: 80, TargetPort: port(8080), Protocol: corev1.ProtocolUDP},
		{Name: "who-sctp", Port: 80, TargetPort: port(8080), Protocol: corev1.ProtocolSCTP},
		{Name: "nobody", Port: 9, TargetPort: port(9), Protocol: corev1.ProtocolUDP},
	}
	m.backends["nobody"] = nil
	for name := range m.backends {
		svc := s.serve(name, map[string]string{"app": name}, ports...)
		for _, ip := range svc.Spec.ClusterIPs {
			m.vips[name] = append(m.vips[name], netip.MustParseAddr(ip))
		}
	}
	for _, p := range m.backends {
		if p != nil {
			s.ready(p)
		}
	}
	for _, c := range m.askers {
		c.own, _ = s.boundTo(c.Pod, c.ifName)
	}
	return m
}

// holds says that every cell of the matrix is as it has to be.
func (m *matrixSpace) holds(mode string, ownerRoutes bool, mtu int) {
	m.Helper()
	eventually(m, patience, "who serves is kube-proxy in mode "+mode, func(ctx context.Context) error { return nodeA.servedBy(ctx, mode) })
	router(m, "ip", "link", "set", "br-b", "mtu", fmt.Sprint(mtu)) // on the way to first-b
	node := nodeA.addresses(m)
	eventually(m, patience, fmt.Sprintf("the matrix, kube-proxy: %s, owner routes: %v", mode, ownerRoutes), func(context.Context) error {
		wrong := make([]error, len(m.askers))
		var all sync.WaitGroup
		for i, c := range m.askers {
			all.Go(func() { wrong[i] = m.asks(c, mode, ownerRoutes, node, mtu) })
		}
		all.Wait()
		return errors.Join(wrong...)
	})
}

// asks is one client's half of a column.
func (m *matrixSpace) asks(c *asker, mode string, ownerRoutes bool, node []netip.Addr, mtu int) error {
	type cell struct {
		request string
		want    seen
	}
	var cells []cell
	for _, row := range matrix {
		backend := row.backend
		switch backend {
		case "itself", "itself, in the overlay":
			if backend != c.itself {
				continue
			}
			backend = c.Name
		}
		steered := row.proxied
		if mode == "none" {
			steered = row.unaided
		}
		if ownerRoutes {
			steered = row.kept
		}
		socket := steered
		if c.fast && row.fast != "" {
			socket = row.fast
		}
		for _, vip := range m.vips[backend] {
			to := netip.AddrPortFrom(vip, 80).String()
			answer := func(s seen) seen {
				if s == refused {
					return refused
				}
				return seen(hostname(m.backends[backend])) + " sees " + s
			}
			cells = append(cells,
				cell{"who tcp " + to, answer(socket)},
				cell{"who udp " + to, answer(socket)},
				cell{"who udp " + netip.AddrPortFrom(vip, 9).String(), refused})
			if backend == "nobody" {
				continue
			}
			if backend == "first-b" {
				cells = append(cells, cell{"pmtu " + to, seen(fmt.Sprint(mtu))})
			}
			cells = append(cells,
				cell{"who -size 9000 udp " + to, answer(socket)}, // IPv6: in fragments of the MTU that is known
				cell{"who sctp " + to, answer(steered)})
		}
	}
	var script strings.Builder
	for _, cell := range cells {
		fmt.Fprintf(&script, "echo $(testapp %s 2>&1);", cell.request)
	}
	out, err := m.exec(c.Pod, "sh", "-c", script.String())
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != len(cells) {
		return fmt.Errorf("%s: %d answers to %d requests: %q", c.Name, len(lines), len(cells), out)
	}
	var wrong []error
	for i, cell := range cells {
		if got := c.means(lines[i], node); got != cell.want {
			wrong = append(wrong, fmt.Errorf("%s: %s: %s, want %s", c.Name, cell.request, got, cell.want))
		}
	}
	return errors.Join(wrong...)
}

// means says in the matrix's words what a request has printed.
func (c *asker) means(line string, node []netip.Addr) seen {
	var answer struct {
		Hostname string
		Remote   netip.AddrPort
	}
	if err := json.Unmarshal([]byte(line), &answer); err != nil || answer.Hostname == "" {
		if strings.HasSuffix(line, "connection refused") {
			return refused
		}
		return seen(line)
	}
	who := seen(answer.Remote.String())
	switch a := answer.Remote.Addr().Unmap(); {
	case slices.Contains(c.own, a):
		who = asPod
	case slices.Contains(node, a):
		who = asNode
	}
	return seen(answer.Hostname) + " sees " + who
}

// proxy changes the mode of the node's kube-proxy.
func (n node) proxy(t testing.TB, mode string) {
	t.Helper()
	if _, err := output(on.lab.command(context.Background(), "proxy", string(n), mode)); err != nil {
		t.Fatal(err)
	}
}

// servedBy says whether this mode of kube-proxy, or with none Berth, and nobody else has rules on the node, and the condition says so.
func (n node) servedBy(ctx context.Context, mode string) error {
	tables, err := n.try("nft", "list", "tables")
	if err != nil {
		return err
	}
	nat, err := n.try("iptables-save", "-t", "nat")
	if err != nil {
		return err
	}
	for what, has := range map[string][2]bool{
		"nftables mode": {strings.Contains(tables, "table ip kube-proxy"), mode == "nftables"},
		"iptables mode": {strings.Contains(nat, ":KUBE-SERVICES "), mode == "iptables"},
		"Berth":         {strings.Contains(tables, "table inet berth-services"), mode == "none"},
	} {
		if has[0] != has[1] {
			return fmt.Errorf("rules of %s: %v, want %v", what, has[0], has[1])
		}
	}
	reason := "KubeProxy"
	if mode == "none" {
		reason = "OwnProxy"
	}
	var node corev1.Node
	if err := on.Get(ctx, client.ObjectKey{Name: string(n)}, &node); err != nil {
		return err
	}
	if !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == "BerthServicePath" && c.Reason == reason }) {
		return fmt.Errorf("no condition with reason %s: %v", reason, node.Status.Conditions)
	}
	return nil
}

// router runs a command on the host beyond the cluster, between the zones.
func router(t testing.TB, args ...string) {
	t.Helper()
	if _, err := output(on.lab.command(context.Background(), "exec", append([]string{"router", "--"}, args...)...)); err != nil {
		t.Fatal(err)
	}
}
