package e2e

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// TestFallback: the pools of an annotation are used in their order, each once the one before it is exhausted.
func TestFallback(t *testing.T) {
	s := newSpace(t)
	first := s.pool("y-first", s.ranges("a", 1, 2)) // by name the last one
	second := s.pool("x-second", s.ranges("a", 11, 12))
	s.underlay("underlay", nil)
	want := []string{first, first, second, second}
	for i, pool := range want {
		p := s.start(fmt.Sprint("p", i), onNode(nodes[i%2]), secondOf(first, second))
		if got := s.poolOf(p, "net1"); got != pool {
			t.Errorf("pod %d has an address of pool %s, want %s", i, got, pool)
		}
	}
	s.refused(s.pod("p4", onNode(nodeA), secondOf(first, second)), first, second, "no free address", "2 of 2")
}

// TestPrecedence: where pools may be named, and which of the places counts.
func TestPrecedence(t *testing.T) {
	s := newSpace(t)
	var pools []string
	for i, name := range []string{"pod-interface", "pod", "namespace", "nad", "fallback", "spider4", "spider6"} {
		subnets := s.ranges("a", 10*i+1, 10*i+5)
		switch name {
		case "spider4":
			subnets = subnets[:1]
		case "spider6":
			subnets = subnets[1:]
		}
		pools = append(pools, s.pool(name, subnets, func(p *v1alpha1.IPPoolSpec) {
			p.Default = name == "fallback"
			p.NamespaceAffinity = selector("e2e", s.name)
		}))
	}
	perInterface, perPod, namespace, nad, fallback, spider4, spider6 := pools[0], pools[1], pools[2], pools[3], pools[4], pools[5], pools[6]
	s.underlay("underlay", nil)
	s.underlay("named", map[string]any{"ippools": []string{nad}})
	families := fmt.Sprintf(`{"ipv4":[%q],"ipv6":[%q]}`, spider4, spider6)

	var annotated map[string]string
	var started []func()
	finish := func() {
		for _, check := range started {
			check()
		}
		started = nil
	}
	for _, tt := range []struct {
		name      string
		namespace map[string]string
		network   string
		pod       map[string]string
		want      []string // the pools of net1, IPv4 first
	}{
		{"default pools", nil, "underlay", nil, []string{fallback, fallback}},
		{"attachment", nil, "named", nil, []string{nad, nad}},
		{"wildcard", nil, "underlay", map[string]string{ippool: s.name + "-name*"}, []string{namespace, namespace}},
		{"one family", nil, "underlay", map[string]string{ippool: fmt.Sprintf(`{"ipv4":[%q]}`, perPod)}, []string{perPod}},
		{"another interface named", nil, "underlay", map[string]string{ippool: perPod, ippools: "eth0=" + perInterface}, []string{perPod, perPod}},
		{"Spiderpool's pod key", nil, "underlay", map[string]string{"ipam.spidernet.io/ippool": families}, []string{spider4, spider6}},
		{"Spiderpool's interface key", nil, "underlay",
			map[string]string{"ipam.spidernet.io/ippools": `[{"interface":"net1","ipv4":["` + spider4 + `"],"ipv6":["` + spider6 + `"]}]`},
			[]string{spider4, spider6}},
		{"native before foreign", nil, "underlay", map[string]string{ippool: perPod, "ipam.spidernet.io/ippool": families}, []string{perPod, perPod}},
		{"namespace before attachment", map[string]string{ippool: namespace}, "named", nil, []string{namespace, namespace}},
		{"pod before namespace", map[string]string{ippool: namespace}, "named", map[string]string{ippool: perPod}, []string{perPod, perPod}},
		{"interface before pod", map[string]string{ippool: namespace}, "named",
			map[string]string{ippool: perPod, ippools: "net1=" + perInterface}, []string{perInterface, perInterface}},
		{"Spiderpool's namespace keys", map[string]string{
			"ipam.spidernet.io/default-ipv4-ippool": `["` + spider4 + `"]`, "ipam.spidernet.io/default-ipv6-ippool": `["` + spider6 + `"]`},
			"named", nil, []string{spider4, spider6}},
	} {
		if !maps.Equal(tt.namespace, annotated) { // the pods before are to see what is there now
			finish()
			annotated = tt.namespace
			s.annotate(annotated)
		}
		name := strings.ToLower(strings.NewReplacer(" ", "-", "'", "").Replace(tt.name))
		p := s.pod(name, onNode(nodeA), note(networks, tt.network), func(p *corev1.PodTemplateSpec) { maps.Copy(p.Annotations, tt.pod) })
		started = append(started, func() {
			t.Run(tt.name, func(t *testing.T) {
				s := s.as(t)
				s.ready(p)
				_, leases := s.boundTo(p, "net1")
				var got []string
				for _, l := range leases {
					got = append(got, l.Spec.Pool)
				}
				if fmt.Sprint(got) != fmt.Sprint(tt.want) {
					t.Errorf("pools %q, want %q", got, tt.want)
				}
				if tt.name == "native before foreign" {
					s.event(p, "AnnotationIgnored", "ipam.spidernet.io/ippool", ippool)
				}
			})
		})
	}
	finish()
}

// annotate the namespace with these annotations that name pools, and no others.
func (s *space) annotate(annotations map[string]string) {
	s.Helper()
	eventually(s, patience, "annotate the namespace", func(ctx context.Context) error {
		ns := s.namespace()
		if err := on.Get(ctx, client.ObjectKeyFromObject(ns), ns); err != nil {
			return err
		}
		maps.DeleteFunc(ns.Annotations, func(key, _ string) bool { return key == ippool || strings.HasPrefix(key, "ipam.spidernet.io/") })
		for key, value := range annotations {
			metav1.SetMetaDataAnnotation(&ns.ObjectMeta, key, value)
		}
		return on.Update(ctx, ns)
	})
}

// TestAffinity: a pool that does not serve the node, the namespace or the pod leaves the pod waiting, and says so; what mends
// it lets the pod start, without a hand.
func TestAffinity(t *testing.T) {
	s := newSpace(t)
	s.underlay("underlay", nil)
	byNode := s.pool("by-node", s.ranges("a", 1, 5), nodesOf("a"))
	byNamespace := s.pool("by-namespace", s.ranges("a", 11, 15), func(p *v1alpha1.IPPoolSpec) { p.NamespaceAffinity = selector("team", "trading") })
	byPod := s.pool("by-pod", s.ranges("a", 21, 25), func(p *v1alpha1.IPPoolSpec) { p.PodAffinity = selector("app", "quotes") })

	wrongNode := s.pod("wrong-node", onNode(nodeB), secondOf(byNode))
	wrongNamespace := s.pod("wrong-namespace", onNode(nodeB), secondOf(byNamespace))
	wrongPod := s.pod("wrong-pod", onNode(nodeA), secondOf(byPod))
	s.refused(wrongNode, `"`+byNode+`"`, "does not serve node", "nodeAffinity", "zone=a")
	s.refused(wrongNamespace, `"`+byNamespace+`"`, "does not serve namespace", "namespaceAffinity", "team=trading")
	s.refused(wrongPod, `"`+byPod+`"`, "does not serve pod", "podAffinity", "app=quotes")
	if n := len(s.bound()); n != 0 {
		t.Errorf("%d leases are bound though no pool serves", n)
	}

	s.editPool(byNode, nodesOf("b"))
	merge := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"team":"trading"}}}`))
	must(t, on.Patch(t.Context(), s.namespace(), merge))
	merge = client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"app":"quotes"}}}`))
	must(t, on.Patch(t.Context(), wrongPod, merge))
	for pool, p := range map[string]*corev1.Pod{byNode: wrongNode, byNamespace: wrongNamespace, byPod: wrongPod} {
		s.ready(p)
		if got := s.poolOf(p, "net1"); got != pool {
			t.Errorf("pod %s has an address of pool %s, want %s", p.Name, got, pool)
		}
	}
}

// TestExhausted: a full pool says so, with the counts; it mends by itself when an address is freed.
func TestExhausted(t *testing.T) {
	s := newSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("small", s.ranges("a", 1, 3))
	var pods []*corev1.Pod
	for i := range 3 {
		pods = append(pods, s.pod(fmt.Sprint("p", i), onNode(nodes[i%2]), secondOf(pool)))
	}
	for _, p := range pods {
		s.ready(p)
	}
	late := s.pod("late", onNode(nodeA), secondOf(pool))
	s.refused(late, `pool "`+pool+`" has no free address for node "node-a"`, "3 of 3")
	if n := len(s.bound()); n != 6 {
		t.Errorf("%d leases are bound, want those of 3 pods", n)
	}
	eventually(t, patience, "the pool says that it is exhausted", func(ctx context.Context) error {
		var p v1alpha1.IPPool
		must(t, on.Get(ctx, client.ObjectKey{Name: pool}, &p))
		for _, c := range p.Status.Conditions {
			if c.Type == v1alpha1.PoolExhausted && c.Status == "True" {
				return nil
			}
		}
		return fmt.Errorf("status %+v", p.Status)
	})
	free, _ := s.boundTo(pods[1], "net1")
	must(t, on.Delete(t.Context(), pods[1]))
	s.ready(late)
	if got, _ := s.boundTo(late, "net1"); fmt.Sprint(got) != fmt.Sprint(free) {
		t.Errorf("the last pod has %v, want %v, the only ones free", got, free)
	}
}

// TestEveryAddress: N pods on N addresses all run, and again when all of them are replaced.
func TestEveryAddress(t *testing.T) {
	const n = 8
	s := newSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("all", s.ranges("a", 1, n))
	s.deployment("app", n, secondOf(pool))
	for range 3 {
		s.readyPods("app", n, patience)
		eventually(t, patience, "each address is bound once", func(context.Context) error {
			if got := len(s.bound()); got != 2*n {
				return fmt.Errorf("%d leases are bound, want %d", got, 2*n)
			}
			return nil
		})
		s.deletePods("app")
	}
}

// TestAskedFor: addresses asked for in the networks annotation, for the second and for the default network.
func TestAskedFor(t *testing.T) {
	s := newSpace(t)
	s.underlay("underlay", nil)
	other := s.pool("other", s.ranges("a", 1, 9))
	pool := s.pool("pool", s.ranges("a", 11, 99))
	want4, want6 := s.addr4("a", 77), s.addr6("a", 0x42)

	second := s.start("second", onNode(nodeA), note(ippool, other+", "+pool),
		note(networks, fmt.Sprintf(`[{"name":"underlay","ips":["%s/16","%s"]}]`, want4, want6)))
	if got, _ := s.boundTo(second, "net1"); fmt.Sprint(got) != fmt.Sprintf("[%s %s]", want4, want6) {
		t.Errorf("second interface has %v, want %s and %s", got, want4, want6)
	}
	want6 = s.addr6("a", 0x43)
	only6 := s.start("only6", onNode(nodeA), note(ippool, fmt.Sprintf(`{"ipv6":[%q]}`, pool)),
		note(networks, fmt.Sprintf(`[{"name":"underlay","ips":["%s"]}]`, want6)))
	if got, _ := s.boundTo(only6, "net1"); fmt.Sprint(got) != fmt.Sprintf("[%s]", want6) {
		t.Errorf("interface of one family has %v, want %s", got, want6)
	}
	want4, want6 = s.addr4("a", 78), s.addr6("a", 0x44)
	first := s.start("first", onNode(nodeA), note(ippool, pool),
		note(defaultNetwork, fmt.Sprintf(`[{"name":"underlay","namespace":%q,"ips":["%s","%s"]}]`, s.name, want4, want6)))
	if got, _ := s.boundTo(first, "eth0"); fmt.Sprint(got) != fmt.Sprintf("[%s %s]", want4, want6) || first.Status.PodIP != want4.String() {
		t.Errorf("default network has %v, pod IP %s, want %s and %s", got, first.Status.PodIP, want4, want6)
	}
}
