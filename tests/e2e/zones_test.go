package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestZones is the main job: one application over two zones, with an address of its own zone on each node, and all the ways
// between pods, Services and nodes.
func TestZones(t *testing.T) {
	s := newSpace(t)
	a := s.pool("a", s.ranges("a", 1, 60), nodesOf("a"))
	b := s.pool("b", s.ranges("b", 1, 60), nodesOf("b"))
	s.underlay("underlay", nil)

	// Three kinds of pods with a Service of one backend for each kind and node, and hosts; and those with a second interface,
	// who are clients only.
	s.daemonSet("second", secondOf(a, b), note(steering, "Always"))
	s.deployment("first", 2, s.firstOf(a, b), probed, spread("first"))
	s.daemonSet("overlay")
	s.daemonSet("host", func(p *corev1.PodTemplateSpec) { p.Spec.HostNetwork = true })
	pods := map[string]*corev1.Pod{} // by kind-letter
	for _, kind := range []string{"second", "first", "overlay", "host"} {
		list := s.readyPods(kind, 2, patience)
		for i := range list {
			p := &list[i]
			pods[kind+"-"+node(p.Spec.NodeName).letter()] = p
			if kind != "second" {
				s.service(kind+"-"+node(p.Spec.NodeName).letter(), p)
			}
		}
		if len(list) != 2 || list[0].Spec.NodeName == list[1].Spec.NodeName {
			t.Fatalf("pods of %s are not on both nodes", kind)
		}
	}

	addrs := map[string][]netip.Addr{}
	for _, n := range nodes {
		for kind, ifName := range map[string]string{"second": "net1", "first": "eth0"} {
			name := kind + "-" + n.letter()
			got, _ := s.boundTo(pods[name], ifName)
			addrs[name] = got
			t.Run("address/"+name, func(t *testing.T) { zoneAddress(t, s, pods[name], n, ifName, got) })
		}
	}

	var services []string
	for _, kind := range []string{"first", "overlay", "host"} {
		for _, n := range nodes {
			services = append(services, kind+"-"+n.letter())
		}
	}
	for name, p := range pods {
		if strings.HasPrefix(name, "host") {
			continue
		}
		n := node(p.Spec.NodeName)
		t.Run("services/"+name, func(t *testing.T) {
			s := s.as(t)
			var requests, want []string
			for _, svc := range services {
				for _, family := range []string{"4", "6"} {
					requests = append(requests, fmt.Sprintf("get -timeout 3s -%s http://%s", family, svc))
					want = append(want, fmt.Sprintf(`"hostname":"%s"`, hostname(pods[svc])))
				}
				// A host with several addresses answers a datagram from the one that its route back prefers, which is not the one
				// that was asked: overlay pods do not get that answer either.
				if pods[svc].Spec.HostNetwork && node(pods[svc].Spec.NodeName) == n {
					continue
				}
				requests = append(requests, "udp "+svc+":8081 hello")
				want = append(want, "hello from")
			}
			for i, answer := range s.reach(p, requests...) {
				if !strings.Contains(answer, want[i]) {
					t.Errorf("%s: answer %q, want %s", requests[i], answer, want[i])
				}
			}
		})
		if strings.HasPrefix(name, "overlay") {
			continue
		}
		t.Run("pods/"+name, func(t *testing.T) {
			s := s.as(t)
			var requests []string
			for other, list := range addrs {
				if other == name {
					continue
				}
				for _, to := range list {
					requests = append(requests, "get -timeout 3s http://"+netip.AddrPortFrom(to, 8080).String())
				}
			}
			s.reach(p, requests...)
		})
		t.Run("own-node/"+name, func(t *testing.T) {
			s := s.as(t)
			var requests []string
			for _, to := range n.addresses(t) {
				requests = append(requests, "get -timeout 3s http://"+netip.AddrPortFrom(to, 8080).String())
			}
			if len(requests) < 4 {
				t.Fatalf("node %s has addresses %q only", n, requests)
			}
			s.reach(p, requests...)
			for _, to := range addrs[name] {
				eventually(t, patience, "from the node to its pod", func(context.Context) error {
					_, err := n.try(on.lab.testapp(), "get", "-timeout", "3s", "http://"+netip.AddrPortFrom(to, 8080).String())
					return err
				})
			}
		})
	}

	samePath(t, s.owns)
	t.Run("released", func(t *testing.T) {
		s := s.as(t)
		must(t, on.Delete(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "first", Namespace: s.name}}))
		must(t, on.Delete(t.Context(), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "second", Namespace: s.name}}))
		must(t, on.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(s.name), client.MatchingLabels{"app": "first"}))
		must(t, on.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(s.name), client.MatchingLabels{"app": "second"}))
		s.released()
		samePath(t, s.owns)
		all, err := s.leases(t.Context())
		must(t, err)
		if len(all) != 8 {
			t.Errorf("%d leases remember the pods, want 4 pods of 2 addresses", len(all))
		}
	})
}

// zoneAddress checks the addresses of a pod's interface: in its lease, in the pod, and in the network status.
func zoneAddress(t *testing.T, s *space, p *corev1.Pod, n node, ifName string, got []netip.Addr) {
	s = s.as(t)
	if len(got) != 2 || !got[0].Is4() || !got[1].Is6() {
		t.Fatalf("leases of %s of pod %s: %v, want one IPv4 and one IPv6", ifName, p.Name, got)
	}
	of, _ := second(n.letter())
	for i, prefix := range []string{fmt.Sprintf("10.%d.%d.0/24", of, s.third), fmt.Sprintf("fd00:%d::%x:0/112", of, s.third)} {
		if !netip.MustParsePrefix(prefix).Contains(got[i]) {
			t.Errorf("pod %s on %s has %s, want one in %s", p.Name, n, got[i], prefix)
		}
	}
	var status []struct {
		Interface string       `json:"interface"`
		IPs       []netip.Addr `json:"ips"`
		Default   bool         `json:"default"`
	}
	if err := json.Unmarshal([]byte(p.Annotations[networkStatus]), &status); err != nil {
		t.Fatalf("annotation %s: %v", networkStatus, err)
	}
	found := false
	for _, i := range status {
		if i.Interface == ifName {
			found = true
			if !slices.Equal(i.IPs, got) || i.Default != (ifName == "eth0") {
				t.Errorf("network-status of %s: %+v, want addresses %v", ifName, i, got)
			}
		}
	}
	if !found {
		t.Errorf("network-status has no %s: %s", ifName, p.Annotations[networkStatus])
	}
	out, err := s.exec(p, "testapp", "addrs")
	must(t, err)
	for _, a := range got {
		if !strings.Contains(out, a.String()+"/") {
			t.Errorf("%s is not on an interface of pod %s: %s", a, p.Name, out)
		}
	}
	if ifName == "eth0" {
		if p.Status.PodIP != got[0].String() {
			t.Errorf("status.podIP of pod %s is %s, want %s", p.Name, p.Status.PodIP, got[0])
		}
		// What needs the kubelet only, and works for any pod.
		if logs, err := kubectl(t, "", "-n", s.name, "logs", p.Name); err != nil || !strings.Contains(logs, "testapp: HTTP on") {
			t.Errorf("kubectl logs: %q, %v", logs, err)
		}
	}
}

// hostname as the pod sees it.
func hostname(p *corev1.Pod) string {
	if p.Spec.HostNetwork {
		return p.Spec.NodeName
	}
	return p.Name
}

// spread pods of an app over the nodes, one each.
func spread(app string) podOption {
	return func(p *corev1.PodTemplateSpec) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
				TopologyKey: corev1.LabelHostname, LabelSelector: selector("app", app),
			}},
		}}
	}
}
