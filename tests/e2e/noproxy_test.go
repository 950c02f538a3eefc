package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestOwnProxy runs on a lab without kube-proxy (-proxy-mode none): the agents serve, yield to a kube-proxy that comes, and serve again.
func TestOwnProxy(t *testing.T) {
	if reason, err := servedBy(t.Context(), nodeA); err != nil || reason == "KubeProxy" {
		t.Skipf("this lab has a kube-proxy (%v)", err)
	}
	s := newSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("pool", s.ranges("a", 1, 50))
	server := s.start("server", onNode(nodeA), probed, s.firstOf(pool), func(p *corev1.PodTemplateSpec) { p.Labels["backend-of"] = "web" })
	svc := s.serve("web", map[string]string{"backend-of": "web"})
	p := s.start("client", onNode(nodeA), probed, s.firstOf(pool))
	requests := []string{"udp web:8081 x"}
	for _, ip := range svc.Spec.ClusterIPs {
		if strings.Contains(ip, ":") {
			ip = "[" + ip + "]"
		}
		requests = append(requests, "get http://"+ip+"/", "udp "+ip+":8081 x")
	}
	reached := func() {
		t.Helper()
		for _, line := range s.reach(p, requests...) {
			if strings.Contains(line, "hostname") && !strings.Contains(line, server.Name) {
				t.Errorf("another answers: %s", line)
			}
		}
	}
	wants := func(reason string, table bool) {
		t.Helper()
		eventually(t, 3*time.Minute, "who serves is "+reason, func(ctx context.Context) error {
			got, err := servedBy(ctx, nodeA)
			if err != nil {
				return err
			}
			if got != reason {
				return fmt.Errorf("it is %q", got)
			}
			if tables := nodeA.run(t, "nft", "list", "tables"); strings.Contains(tables, "inet berth-services") != table {
				return fmt.Errorf("there are %s", tables)
			}
			return nil
		})
	}
	wants("OwnProxy", true)
	reached()
	nodeA.run(t, "nft", "add table ip kube-proxy; add chain ip kube-proxy services")
	t.Cleanup(func() { _, _ = nodeA.try("nft", "delete table ip kube-proxy") })
	wants("KubeProxy", false)
	nodeA.run(t, "nft", "delete table ip kube-proxy")
	wants("OwnProxy", true)
	reached()
}

// servedBy is the reason of the node's condition.
func servedBy(ctx context.Context, n node) (string, error) {
	var node corev1.Node
	if err := on.Get(ctx, client.ObjectKey{Name: string(n)}, &node); err != nil {
		return "", err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == "BerthServicePath" {
			return c.Reason, nil
		}
	}
	return "", nil
}
