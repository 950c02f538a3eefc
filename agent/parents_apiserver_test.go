//go:build apiserver

package agent

import (
	"context"
	"fmt"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/nad"
)

// TestParentsAreTold: of the links that networks name the node says which it has, when that changes, and nothing when there is none.
func TestParentsAreTold(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.7"]}]}`)
	client := kubernetes.NewForConfigOrDie(r.cfg)
	store := cache.NewStore(cache.MetaNamespaceKeyFunc)
	network := func(name, config string) *nadv1.NetworkAttachmentDefinition {
		n := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}}
		n.Spec.Config = config
		if err := store.Add(n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	tell := func(want string) (version string) {
		t.Helper()
		if err := r.tellParentsOnce(t.Context(), store); err != nil {
			t.Fatal(err)
		}
		n, err := client.CoreV1().Nodes().Get(t.Context(), r.conf.NodeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := n.Annotations[nad.ParentsAnnotation]; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		apitest.Eventually(t, "the agent knows its node", func() error {
			if known := r.pods.thisNode().ResourceVersion; known != n.ResourceVersion {
				return fmt.Errorf("%s is not %s", known, n.ResourceVersion)
			}
			return nil
		})
		return n.ResourceVersion
	}
	tell("")
	a := network("a", `{"type": "macvlan", "master": "lo", "ipam": {"type": "berth"}}`)
	b := network("b", `{"plugins": [{"type": "macvlan", "master": "nolink9", "ipam": {"type": "berth"}}]}`)
	network("c", `{"type": "macvlan", "master": "other9", "ipam": {"type": "host-local"}}`)
	version := tell("lo=65536,nolink9=-")
	if again := tell("lo=65536,nolink9=-"); again != version {
		t.Error("written although nothing changed")
	}
	if err := store.Delete(b); err != nil {
		t.Fatal(err)
	}
	tell("lo=65536")
	if err := ForgetCondition(context.Background(), client, r.conf.NodeName); err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(a); err != nil {
		t.Fatal(err)
	}
	tell("")
}
