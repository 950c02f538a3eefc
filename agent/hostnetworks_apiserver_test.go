//go:build apiserver

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/agent/links"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// wantedLinks takes notes of what is wanted.
type wantedLinks struct {
	mu    sync.Mutex
	wants []links.Want
}

func (f *wantedLinks) Run(ctx context.Context) error { <-ctx.Done(); return nil }

func (f *wantedLinks) Set(wants []links.Want) {
	f.mu.Lock()
	f.wants = wants
	f.mu.Unlock()
}

// TestHostNetworks: what selects the node is handed on, and how it stands is written beside what other nodes say, once.
func TestHostNetworks(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.7"]}]}`)
	client, err := v1alpha1.NewHostNetworkClient(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := &v1alpha1.HostNetwork{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	h.Spec = v1alpha1.HostNetworkSpec{Parent: "eth1", VLANs: []int32{910}, NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"rig": r.name}}}
	if h, err = client.Create(t.Context(), h, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Delete(context.Background(), h.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	r.stop()
	fake := &wantedLinks{}
	r.keeper = fake
	r.start()

	wanted := func(want ...links.Want) {
		t.Helper()
		apitest.Eventually(t, "what is wanted", func() error {
			fake.mu.Lock()
			defer fake.mu.Unlock()
			var mine []links.Want // other tests may have some that select all nodes
			for _, w := range fake.wants {
				if w.Name == r.name {
					mine = append(mine, w)
				}
			}
			if diff := cmp.Diff(want, mine); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
	}
	entries := func(want ...v1alpha1.HostNetworkNode) *v1alpha1.HostNetwork {
		t.Helper()
		var now *v1alpha1.HostNetwork
		apitest.Eventually(t, "status", func() error {
			if now, err = client.Get(t.Context(), h.Name, metav1.GetOptions{}); err != nil {
				return err
			}
			if diff := cmp.Diff(want, now.Status.Nodes); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
		return now
	}
	queued := links.Want{Name: r.name, Spec: links.SpecOf(h), Parent: "eth1", VLANs: []int{910}, Queued: true}
	wanted(queued)
	other := fmt.Appendf(nil, `{"apiVersion":"berth.dev/v1alpha1","kind":"HostNetwork","metadata":{"name":%q},"status":{"nodes":[{"node":"0-other","ready":true}]}}`, h.Name)
	force := true
	if _, err := client.Patch(t.Context(), h.Name, types.ApplyPatchType, other, metav1.PatchOptions{FieldManager: "berth-agent/0-other", Force: &force}, "status"); err != nil {
		t.Fatal(err)
	}
	beside := v1alpha1.HostNetworkNode{Node: "0-other", Ready: true}
	waiting := links.State{Name: r.name, Reason: v1alpha1.LinksQueued, Message: "it is not this node's turn yet"}
	r.hostNetworks.told([]links.State{waiting})
	entries(beside, v1alpha1.HostNetworkNode{Node: r.name, Reason: waiting.Reason, Message: waiting.Message})
	turn := fmt.Appendf(nil, `{"status":{"rollout":{"generation":1,"nodes":["0-other",%q]}}}`, r.name)
	if _, err := client.Patch(t.Context(), h.Name, types.MergePatchType, turn, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	wanted(links.Want{Name: r.name, Spec: links.SpecOf(h), Parent: "eth1", VLANs: []int{910}})

	refused := links.State{Name: r.name, Spec: links.SpecOf(h), Reason: "LinksRefused", Message: "parent eth1 is not on this node"}
	r.hostNetworks.told([]links.State{refused})
	entries(beside, v1alpha1.HostNetworkNode{Node: r.name, Reason: refused.Reason, Message: refused.Message, ObservedGeneration: 1})
	r.wantMetric(MetricLinks, 0)
	ready := links.State{Name: r.name, Spec: links.SpecOf(h), Ready: true, Reason: "LinksReady", Links: []string{"eth1", "eth1.910"}}
	r.hostNetworks.told([]links.State{ready})
	version := entries(beside, v1alpha1.HostNetworkNode{Node: r.name, Ready: true, Reason: ready.Reason, ObservedGeneration: 1, Links: ready.Links}).ResourceVersion
	r.wantMetric(MetricLinks, 1)
	apitest.Eventually(t, "events", func() error {
		list, err := r.kube.EventsV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{FieldSelector: "regarding.name=" + h.Name})
		if err != nil {
			return err
		}
		got := map[string]*eventsv1.Event{}
		for i := range list.Items {
			got[list.Items[i].Reason] = &list.Items[i]
		}
		for reason, says := range map[string]string{"LinksRefused": "Warning " + r.name + ": " + refused.Message, "LinksReady": "Normal " + r.name + ": as wanted: eth1, eth1.910"} {
			if e := got[reason]; e == nil || e.Type+" "+e.Note != says {
				return fmt.Errorf("%s: %+v", reason, e)
			}
		}
		return nil
	})

	// Told again, and by the next agent: nothing is written.
	r.hostNetworks.told([]links.State{ready})
	r.stop()
	r.start()
	r.hostNetworks.told([]links.State{ready})
	wanted(links.Want{Name: r.name, Spec: links.SpecOf(h), Parent: "eth1", VLANs: []int{910}})
	if got := entries(beside, v1alpha1.HostNetworkNode{Node: r.name, Ready: true, Reason: ready.Reason, ObservedGeneration: 1, Links: ready.Links}).ResourceVersion; got != version {
		t.Error("written although nothing changed")
	}

	// The node is selected no longer; its links go when they can.
	node, err := r.kube.CoreV1().Nodes().Get(t.Context(), r.name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Labels["rig"] = "none"
	if _, err := r.kube.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	wanted()
	waits := links.State{Name: r.name, Reason: "LinksWaiting", Message: "link eth1.910 is to go, and is in use", Links: []string{"eth1.910"}}
	r.hostNetworks.told([]links.State{waits})
	entries(beside, v1alpha1.HostNetworkNode{Node: r.name, Reason: waits.Reason, Message: waits.Message, Links: waits.Links})
	r.hostNetworks.told(nil)
	entries(beside)
}

// wantMetric of which there is one.
func (r *rig) wantMetric(name string, want float64) {
	r.Helper()
	families, err := r.metrics.registry.Gather()
	if err != nil {
		r.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name && len(f.Metric) == 1 && f.Metric[0].GetGauge().GetValue() == want {
			return
		}
	}
	r.Errorf("%s is not %v, or not alone: %v", name, want, families)
}

// TestReach: the API server is reached if it answers on a new connection, with whatever rights.
func TestReach(t *testing.T) {
	cfg := apitest.Config(t)
	reach, err := reaching(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := reach(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if reach(ctx) == nil {
		t.Error("reached without a way")
	}
	away := *cfg
	away.Host = "https://127.0.0.1:1"
	if reach, err = reaching(&away); err != nil {
		t.Fatal(err)
	}
	if err := reach(t.Context()); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("of no server: %v", err)
	}
}
