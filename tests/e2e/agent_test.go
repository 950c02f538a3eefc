package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// TestAgentRestart: pods do not notice that the agents are replaced.
func TestAgentRestart(t *testing.T) {
	s := newOwnSpace(t)
	s.underlay("underlay", nil)
	a := s.pool("a", s.ranges("a", 1, 9), nodesOf("a"))
	b := s.pool("b", s.ranges("b", 1, 9), nodesOf("b"))
	s.deployment("app", 2, s.firstOf(a, b), probed, spread("app"))
	pods := s.readyPods("app", 2, patience)
	s.serve("app", map[string]string{"app": "app"})
	for i := range pods {
		s.reach(&pods[i], "get -4 -timeout 3s http://app", "get -6 -timeout 3s http://app")
	}
	before := map[node]string{}
	for _, n := range nodes {
		before[n] = vmacState(t, n)
	}
	agents := map[node]string{}
	for _, n := range nodes {
		agents[n] = agentUID(t, n)
	}

	const loop = `rm -f /tmp/stop; ok=0; bad=0
while [ ! -e /tmp/stop ]; do
  for f in 4 6; do if testapp get -$f -timeout 5s http://app >/tmp/out 2>&1; then ok=$((ok+1)); else bad=$((bad+1)); cat /tmp/out; fi; done
done; echo ok=$ok bad=$bad`
	type result struct {
		out string
		err error
	}
	results := make(chan result, len(pods))
	for i := range pods {
		go func() {
			out, err := s.exec(&pods[i], "sh", "-c", loop)
			results <- result{out, err}
		}()
	}
	if _, err := kubectl(t, "", "-n", berthNamespace, "rollout", "restart", "daemonset/"+agentName); err != nil {
		t.Fatal(err)
	}
	rolledOut(t, "daemonset/"+agentName)
	for i := range pods {
		if _, err := s.exec(&pods[i], "touch", "/tmp/stop"); err != nil {
			t.Fatal(err)
		}
	}
	for range pods {
		r := <-results
		var ok, bad int
		last := r.out[strings.LastIndex(strings.TrimSpace(r.out), "\n")+1:]
		if _, err := fmt.Sscanf(last, "ok=%d bad=%d", &ok, &bad); r.err != nil || err != nil || bad != 0 || ok < 10 {
			t.Errorf("requests during the restart: %s %v", r.out, r.err)
		}
		t.Logf("requests during the restart: %s", strings.TrimSpace(last))
	}
	for _, n := range nodes {
		if agents[n] == agentUID(t, n) {
			t.Errorf("the agent of %s is still the old one", n)
		}
		if after := vmacState(t, n); after != before[n] {
			t.Errorf("vmac of %s: %s, %s before the restart", n, after, before[n])
		}
	}
}

func agentUID(t *testing.T, n node) (uid string) {
	t.Helper()
	eventually(t, patience, "an agent on "+string(n), func(ctx context.Context) error {
		p, err := agentOn(ctx, n)
		if p != nil {
			uid = string(p.UID)
		}
		return err
	})
	return uid
}

func vmacState(t *testing.T, n node) string {
	t.Helper()
	var out []string
	for _, l := range n.vmacs(t) {
		out = append(out, fmt.Sprintf("%d: %s %s", l.Index, l.Name, l.MAC))
	}
	if len(out) == 0 {
		t.Fatalf("no vmac on %s", n)
	}
	return strings.Join(out, ", ")
}

// TestAway: without an agent pods wait, and are told for what; what they leave the controller collects; and when the
// agent is back, nothing needs a hand.
func TestAway(t *testing.T) {
	s := newOwnSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("pool", s.ranges("a", 1, 50), nodesOf("a"))
	stays := s.start("stays", onNode(nodeA), s.firstOf(pool), probed)
	forced := s.start("forced", onNode(nodeA), s.firstOf(pool))
	kept, _ := s.boundTo(stays, "eth0")
	s.serve("web", map[string]string{"app": "stays"})
	s.reach(stays, "get -timeout 3s http://web")

	restore := withoutAgent(t, nodeA)
	defer restore()
	remove(t, forced, client.GracePeriodSeconds(0))
	waits := s.pod("waits", onNode(nodeA), s.firstOf(pool))
	s.event(waits, "FailedCreatePodSandBox", "/run/berth/agent.sock", "berth-agent")
	stdin, env := s.call(waits, "eth0", "underlay", strings.Repeat("1", 64))
	for verb, code := range map[string]uint{"ADD": 11, "DEL": 11, "CHECK": 11} {
		if out, err := nodeA.plugin(verb, env, stdin); err == nil || cniCode(out) != code || !strings.Contains(out, "/run/berth/agent.sock") {
			t.Errorf("%s without an agent: %v %s, want code %d and the socket", verb, err, out, code)
		}
	}
	s.reach(stays, "get -timeout 3s http://web") // the path needs no agent

	t.Run("API", func(t *testing.T) { apiAway(t, nodeB) }) // the controller takes its time

	eventually(t, crowd, "the controller has collected the leases of a pod deleted by force", func(context.Context) error {
		for a, l := range s.bound() {
			if l.Spec.Holder.UID == forced.UID {
				return fmt.Errorf("%s is bound", a)
			}
		}
		return nil
	})
	restore()
	s.ready(waits)
	s.sameEverywhere(2)
	if again, _ := s.boundTo(stays, "eth0"); fmt.Sprint(again) != fmt.Sprint(kept) {
		t.Errorf("a pod that was never touched has %v, %v before", again, kept)
	}
	samePath(t, func(netip.Addr) bool { return true }) // no other test runs beside
}

// restoresAgents returns what changes the agents' container and waits for them; when the test ends, they are as they were.
func restoresAgents(t *testing.T) (change func(func(*corev1.Container))) {
	t.Helper()
	var ds appsv1.DaemonSet
	must(t, on.Get(t.Context(), client.ObjectKey{Namespace: berthNamespace, Name: agentName}, &ds))
	before := ds.Spec.Template
	set := func(template corev1.PodTemplateSpec) {
		patch := client.MergeFrom(ds.DeepCopy())
		ds.Spec.Template = template
		must(t, on.Patch(context.Background(), &ds, patch))
		rolledOut(t, "daemonset/"+agentName)
	}
	changed := *before.DeepCopy()
	t.Cleanup(func() { set(before) })
	return func(edit func(*corev1.Container)) {
		edit(&changed.Spec.Containers[0])
		set(changed)
	}
}

// apiByAddress has the agents reach the API server without Services, as docs/operations.md says, where nodes have no kube-proxy.
func apiByAddress(t *testing.T) func(*corev1.Container) {
	t.Helper()
	var at discoveryv1.EndpointSlice
	must(t, on.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "kubernetes"}, &at))
	return func(c *corev1.Container) {
		c.Env = append(c.Env, corev1.EnvVar{Name: "KUBERNETES_SERVICE_HOST", Value: at.Endpoints[0].Addresses[0]},
			corev1.EnvVar{Name: "KUBERNETES_SERVICE_PORT", Value: fmt.Sprint(*at.Ports[0].Port)})
	}
}

// withoutAgent takes the agent away from a node, and returns what brings it back.
func withoutAgent(t *testing.T, n node) (restore func()) {
	t.Helper()
	set := func(terms []corev1.NodeSelectorRequirement) {
		eventually(t, patience, "change the DaemonSet", func(ctx context.Context) error {
			var ds appsv1.DaemonSet
			if err := on.Get(ctx, client.ObjectKey{Namespace: berthNamespace, Name: agentName}, &ds); err != nil {
				return err
			}
			ds.Spec.Template.Spec.Affinity = nil
			if terms != nil {
				ds.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
					RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: terms}}},
				}}
			}
			return on.Update(ctx, &ds)
		})
	}
	set([]corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpNotIn, Values: []string{string(n)}}})
	eventually(t, patience, "the agent of "+string(n)+" ends", func(ctx context.Context) error {
		var list corev1.PodList
		if err := on.List(ctx, &list, client.InNamespace(berthNamespace), agentPods); err != nil {
			return err
		}
		for i := range list.Items {
			if list.Items[i].Spec.NodeName == string(n) {
				return fmt.Errorf("%s is there", list.Items[i].Name)
			}
		}
		return nil
	})
	done := false
	return func() {
		if done {
			return
		}
		done = true
		set(nil)
		rolledOut(t, "daemonset/"+agentName)
		agentUID(t, n)
	}
}

// apiAway: while the agent of a node does not reach the API, no address is given out or freed, what runs runs on, a pod can go, and
// afterwards all that was asked for happens.
func apiAway(t *testing.T, n node) {
	s := newOwnSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("pool", s.ranges(n.letter(), 1, 50), nodesOf(n.letter()))
	stays := s.start("stays", onNode(n), s.firstOf(pool))
	goes := s.start("goes", onNode(n), s.firstOf(pool))
	s.serve("web", map[string]string{"app": "stays"})
	s.reach(stays, "get -timeout 3s http://web")

	// The agent calls the API by its Service, kubelet and Multus by its address: so only the agent is cut off.
	const table = "berth_e2e_cut"
	mend := func() { _, _ = n.try("nft", "delete", "table", "inet", table) }
	defer mend()
	for _, rule := range [][]string{
		{"add", "table", "inet", table},
		{"add", "chain", "inet", table, "out", "{ type filter hook output priority 10; }"},
		{"add", "rule", "inet", table, "out", "ct original ip daddr 10.96.0.1 meta l4proto tcp reject with tcp reset"},
	} {
		n.run(t, append([]string{"nft"}, rule...)...)
	}
	waits := s.pod("waits", onNode(n), s.firstOf(pool))
	must(t, on.Delete(t.Context(), goes))
	s.event(waits, "FailedCreatePodSandBox", "the Kubernetes API is not available")
	s.reach(stays, "get -timeout 3s http://web")
	gone(t, goes) // its DEL is in the journal
	addrs, _ := s.boundTo(goes, "eth0")
	if len(addrs) != 2 {
		t.Errorf("leases %v of a pod whose release the API has not heard of, want both", addrs)
	}
	mend()
	s.ready(waits)
	s.sameEverywhere(2)
}

// TestLeader: when the leading controller dies the other one takes over, and counts.
func TestLeader(t *testing.T) {
	s := newOwnSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("pool", s.ranges("a", 1, 5))
	s.counts(pool, "5", "5", 0)
	leader := func(ctx context.Context) (string, error) {
		var l coordinationv1.Lease
		if err := on.Get(ctx, client.ObjectKey{Namespace: berthNamespace, Name: controllerName}, &l); err != nil {
			return "", err
		}
		if l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" {
			return "", fmt.Errorf("nobody leads")
		}
		pod, _, _ := strings.Cut(*l.Spec.HolderIdentity, "_")
		return pod, nil
	}
	old, err := leader(t.Context())
	must(t, err)
	must(t, on.Delete(t.Context(), &corev1.Pod{ObjectMeta: metaOf(berthNamespace, old)}, client.GracePeriodSeconds(0)))
	eventually(t, patience, "another one leads", func(ctx context.Context) error {
		now, err := leader(ctx)
		if err == nil && now == old {
			err = fmt.Errorf("%s leads", now)
		}
		return err
	})
	p := s.start("p", onNode(nodeA), secondOf(pool))
	s.counts(pool, "4", "5", 1)
	must(t, on.Delete(t.Context(), p))
	s.counts(pool, "5", "5", 0)
	rolledOut(t, "deployment/"+controllerName)
}

// counts waits for a pool's status to say so, for each family.
func (s *space) counts(pool, free, total string, bound int64) {
	s.Helper()
	eventually(s, patience, fmt.Sprintf("pool %s has %s of %s free", pool, free, total), func(ctx context.Context) error {
		var p v1alpha1.IPPool
		if err := on.Get(ctx, client.ObjectKey{Name: pool}, &p); err != nil {
			return err
		}
		for _, c := range []*v1alpha1.AddressCount{p.Status.IPv4, p.Status.IPv6} {
			if c == nil || c.Free != free || c.Total != total || c.Bound != bound {
				return fmt.Errorf("status %+v %+v", p.Status.IPv4, p.Status.IPv6)
			}
		}
		if p.Status.Free != free+" + "+free || p.Status.Total != total+" + "+total {
			return fmt.Errorf("free %q, total %q", p.Status.Free, p.Status.Total)
		}
		return nil
	})
}

// TestPoolDeletion: a deleted pool gives out nothing more, and goes when its last lease is free.
func TestPoolDeletion(t *testing.T) {
	s := newSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("pool", s.ranges("a", 1, 9))
	p := s.start("p", onNode(nodeA), secondOf(pool))
	s.counts(pool, "8", "9", 1) // so the controller has seen it
	object := &v1alpha1.IPPool{ObjectMeta: metaOf("", pool)}
	must(t, on.Delete(t.Context(), object))
	late := s.pod("late", onNode(nodeA), secondOf(pool))
	s.refused(late, `"`+pool+`"`, "is being deleted")
	if !exists(t.Context(), object) {
		t.Fatal("the pool is gone, and has a lease bound")
	}
	if got := s.poolOf(p, "net1"); got != pool {
		t.Errorf("the running pod lost its lease")
	}
	must(t, on.Delete(t.Context(), p))
	gone(t, object)

	// Its addresses are free for another pool, whatever is remembered of them.
	s.pool("heir", s.ranges("a", 1, 9))
	patch := client.MergeFrom(late.DeepCopy())
	late.Annotations[ippool] = s.name + "-heir"
	must(t, on.Patch(t.Context(), late, patch))
	s.ready(late)
}

// TestIdleVmac: a vmac without pods goes after a minute, and takes nothing with it that is another's.
func TestIdleVmac(t *testing.T) {
	s := newSpace(t)
	const parent = "e2e0"
	_, _ = nodeA.try("ip", "link", "del", parent)
	nodeA.run(t, "ip", "link", "add", parent, "type", "veth", "peer", "name", parent+"p")
	t.Cleanup(func() { _, _ = nodeA.try("ip", "link", "del", parent) })
	nodeA.run(t, "ip", "link", "set", parent, "up")
	nodeA.run(t, "ip", "link", "set", parent+"p", "up")
	pool := s.pool("pool", []v1alpha1.PoolSubnet{{CIDR: "192.168.77.0/24"}}, func(p *v1alpha1.IPPoolSpec) { p.Network = "e2e" })
	s.attachment("underlay", map[string]any{"master": parent, "ipam": map[string]any{"type": "berth"}})
	index := 0
	for _, l := range nodeA.links(t) {
		if l.Name == parent {
			index = l.Index
		}
	}
	vmac := func() string {
		for _, l := range nodeA.vmacs(t) {
			if l.Name == fmt.Sprintf("vmac%d", index) {
				return fmt.Sprintf("%d %s", l.Index, l.MAC)
			}
		}
		return ""
	}
	p := s.start("p", onNode(nodeA), secondOf(pool))
	first := vmac()
	if first == "" {
		t.Fatalf("no vmac of %s with a pod on it", parent)
	}
	remove(t, p)
	p = s.start("q", onNode(nodeA), secondOf(pool))
	if again := vmac(); again != first {
		t.Errorf("vmac is %s for the next pod, %s for the first", again, first)
	}
	remove(t, p)
	begin := time.Now()
	eventually(t, crowd, "the idle vmac goes", func(context.Context) error {
		if v := vmac(); v != "" {
			return fmt.Errorf("there is %s", v)
		}
		return nil
	})
	t.Logf("gone after %v", time.Since(begin).Round(time.Second))
}
