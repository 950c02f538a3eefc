//go:build apiserver

package controller

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// TestHostNetworksOnAPIServer: agents' entries are counted as they come, go with their nodes, and keep what is deleted while they have links.
func TestHostNetworksOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.start(t, nil)
	name := apitest.Unique("h")
	var nodes []*corev1.Node
	for i := range 3 {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", name, i), Labels: map[string]string{"rack": name}}}
		c.create(t, n)
		nodes = append(nodes, n)
	}
	h := &v1alpha1.HostNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}
	h.Spec = v1alpha1.HostNetworkSpec{Parent: "eth1", VLANs: []int32{7}, NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"rack": name}}}
	c.create(t, h)
	get := func() *v1alpha1.HostNetwork {
		t.Helper()
		now := &v1alpha1.HostNetwork{}
		if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(h), now); err != nil {
			t.Fatal(err)
		}
		return now
	}
	want := func(ready, selected int64, entries ...string) {
		t.Helper()
		c.eventually(t, func() error {
			s := get().Status
			var got []string
			for _, e := range s.Nodes {
				got = append(got, strings.TrimPrefix(e.Node, name+"-"))
			}
			if s.Ready != ready || s.Selected != selected || !cmp.Equal(got, entries) {
				return fmt.Errorf("ready %d, selected %d, entries %q; want %d, %d, %q", s.Ready, s.Selected, got, ready, selected, entries)
			}
			return nil
		})
	}
	// Each as an agent does it, with its rights.
	agent, err := client.New(c.account("berth-agent"), client.Options{Scheme: newScheme()})
	if err != nil {
		t.Fatal(err)
	}
	apply := func(node int, entry *v1alpha1.HostNetworkNode) {
		t.Helper()
		entries := []v1alpha1.HostNetworkNode{}
		if entry != nil {
			entry.Node = nodes[node].Name
			entries = append(entries, *entry)
		}
		patch, err := json.Marshal(map[string]any{"apiVersion": "berth.dev/v1alpha1", "kind": "HostNetwork", "metadata": map[string]any{"name": name},
			"status": map[string]any{"nodes": entries}})
		if err != nil {
			t.Fatal(err)
		}
		if err := agent.Status().Patch(t.Context(), get(), client.RawPatch(types.ApplyPatchType, patch), client.FieldOwner(nodes[node].Name), client.ForceOwnership); err != nil {
			t.Fatal(err)
		}
	}
	made := &v1alpha1.HostNetworkNode{Ready: true, ObservedGeneration: 1, Links: []string{"eth1", "eth1.7"}}
	want(0, 3)
	apply(0, made)
	apply(1, &v1alpha1.HostNetworkNode{ObservedGeneration: 1, Message: "parent eth1 is not on this node"})
	want(1, 3, "0", "1")
	apply(2, made)
	want(2, 3, "0", "1", "2")

	if err := c.admin.Patch(t.Context(), get(), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"vlans":[8]}}`))); err != nil {
		t.Fatal(err)
	}
	want(0, 3, "0", "1", "2") // nobody has spoken of that yet
	made.ObservedGeneration = 2
	apply(0, made)
	want(1, 3, "0", "1", "2")

	nodes[0].Labels = map[string]string{"rack": "other"}
	if err := c.admin.Update(t.Context(), nodes[0]); err != nil {
		t.Fatal(err)
	}
	want(0, 2, "0", "1", "2")
	c.remove(t, nodes[2])
	want(0, 1, "0", "1")

	if err := c.admin.Delete(t.Context(), get()); err != nil {
		t.Fatal(err)
	}
	apply(1, nil)
	want(0, 1, "0")
	apply(0, &v1alpha1.HostNetworkNode{ObservedGeneration: 2, Message: "link eth1.7 is to go, and is in use by net1 in x", Links: []string{"eth1.7"}})
	if get().DeletionTimestamp == nil {
		t.Error("gone, or not deleted")
	}
	apply(0, nil)
	c.eventually(t, func() error {
		if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(h), &v1alpha1.HostNetwork{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
}

// TestRolloutOnAPIServer: nodes get their turns one after the other, and no more once one has undone the change.
func TestRolloutOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.start(t, nil)
	name := apitest.Unique("h")
	for i := range 4 {
		c.create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", name, i), Labels: map[string]string{"rack": name}}})
	}
	h := &v1alpha1.HostNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}
	h.Spec = v1alpha1.HostNetworkSpec{Parent: "eth1", VLANs: []int32{7}, NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"rack": name}}}
	c.create(t, h)
	agent, err := client.New(c.account("berth-agent"), client.Options{Scheme: newScheme()})
	if err != nil {
		t.Fatal(err)
	}
	says := func(node int, generation int64, reason string) {
		t.Helper()
		patch := fmt.Appendf(nil, `{"apiVersion":"berth.dev/v1alpha1","kind":"HostNetwork","metadata":{"name":%q},"status":{"nodes":[{"node":"%s-%d","ready":%t,"reason":%q,"message":"why","observedGeneration":%d}]}}`,
			name, name, node, reason == v1alpha1.LinksReady, reason, generation)
		o := &v1alpha1.HostNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := agent.Status().Patch(t.Context(), o, client.RawPatch(types.ApplyPatchType, patch), client.FieldOwner(fmt.Sprint(node)), client.ForceOwnership); err != nil {
			t.Fatal(err)
		}
	}
	want := func(generation int64, nodes, message string) {
		t.Helper()
		c.eventually(t, func() error {
			now := &v1alpha1.HostNetwork{}
			if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(h), now); err != nil {
				return err
			}
			r := now.Status.Rollout
			if r == nil || r.Generation != generation || strings.ReplaceAll(strings.Join(r.Nodes, " "), name+"-", "") != nodes || !strings.Contains(r.Message, message) {
				return fmt.Errorf("rollout %+v, want generation %d, %q, %q", r, generation, nodes, message)
			}
			return nil
		})
	}
	edit := func(spec string) {
		t.Helper()
		if err := c.admin.Patch(t.Context(), h.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"spec":`+spec+`}`))); err != nil {
			t.Fatal(err)
		}
	}
	want(1, "0", "generation 1 has reached 0 of 4 nodes; now it is the turn of "+name+"-0; 3 wait")
	says(1, 0, v1alpha1.LinksQueued)
	says(0, 1, v1alpha1.LinksReady)
	want(1, "0 1", "reached 1 of 4")
	edit(`{"vlans":[7,8]}`)
	want(2, "1", "reached 0 of 4") // which may be in the middle of it
	says(1, 2, v1alpha1.LinksReady)
	want(2, "0 1", "reached 1 of 4")
	edit(`{"maxUnavailable":"50%"}`)
	want(3, "0 1", "")
	says(0, 3, v1alpha1.LinksReady)
	want(3, "0 1 2", "")
	says(2, 3, v1alpha1.LinksUndone)
	want(3, "0 1 2", "stopped, as the change was undone on "+name+"-2 (why); edit the spec")
	says(1, 3, v1alpha1.LinksReady)
	want(3, "0 1 2", "generation 3 has reached 2 of 4 nodes; 1 wait")
	edit(`{"vlans":[7]}`)
	want(4, "0 2", "") // who has undone it first
	for node := range 4 {
		says(node, 4, v1alpha1.LinksReady)
	}
	c.eventually(t, func() error {
		now := &v1alpha1.HostNetwork{}
		if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(h), now); err != nil || now.Status.Ready != 4 || now.Status.Rollout.Message != "" {
			return fmt.Errorf("%+v (%w)", now.Status, err)
		}
		return nil
	})
	for _, bad := range []string{`0`, `-1`, `"0%"`, `"101%"`, `"5"`, `"some"`} {
		if err := c.admin.Patch(t.Context(), h.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"maxUnavailable":`+bad+`}}`))); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "neither a number of nodes from 1 on nor a percentage") {
			t.Errorf("maxUnavailable %s: %v", bad, err)
		}
	}
}
