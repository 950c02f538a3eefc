//go:build apiserver

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berthdev/berth/agent/proxy"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// TestNodeCondition: it is written beside others' conditions, only when it changes, and taken off again.
func TestNodeCondition(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.7"]}]}`)
	client := kubernetes.NewForConfigOrDie(r.cfg)
	node := func() *corev1.Node {
		n, err := client.CoreV1().Nodes().Get(t.Context(), r.conf.NodeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	other := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}
	if err := patchCondition(t.Context(), client, r.conf.NodeName, other); err != nil {
		t.Fatal(err)
	}
	tell := r.tellNode(client, ServicePathCondition)
	version := ""
	for i, by := range []servedBy{kubeProxy(proxy.NFTables), kubeProxy(proxy.NFTables), ownProxy(proxy.Nobody), noProxy} {
		if err := tell(t.Context(), by); err != nil {
			t.Fatal(err)
		}
		n := node()
		var got *corev1.NodeCondition
		for i, c := range n.Status.Conditions {
			if c.Type == ServicePathCondition {
				got = &n.Status.Conditions[i]
			}
		}
		if len(n.Status.Conditions) != 2 || got == nil || got.Status != by.status || got.Reason != by.reason || got.Message != by.message {
			t.Errorf("conditions %+v, want %+v beside another", n.Status.Conditions, by)
		}
		if same := n.ResourceVersion == version; same != (i == 1) {
			t.Errorf("%s: written: %t", by.reason, !same)
		}
		version = n.ResourceVersion
		apitest.Eventually(t, "the agent knows its node", func() error {
			if known := r.pods.thisNode().ResourceVersion; known != version {
				return fmt.Errorf("%s is not %s", known, version)
			}
			return nil
		})
	}
	guard := r.tellNode(client, SourceGuardCondition)
	for _, why := range []error{nil, errors.New("no BTF")} {
		if err := guard(t.Context(), fenced(why)); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(node().Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == SourceGuardCondition })
		if i < 0 || (node().Status.Conditions[i].Status == corev1.ConditionTrue) != (why == nil) {
			t.Errorf("of %v: %+v", why, node().Status.Conditions)
		}
	}
	if err := ForgetCondition(context.Background(), client, r.conf.NodeName); err != nil {
		t.Fatal(err)
	}
	if c := node().Status.Conditions; len(c) != 1 || c[0].Type != corev1.NodeReady {
		t.Errorf("left: %+v", c)
	}
}
