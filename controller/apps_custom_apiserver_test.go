//go:build apiserver

package controller

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/apps"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/nad"
)

const scaledCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]ss.example.berth.dev}
spec:
  group: example.berth.dev
  scope: Namespaced
  names: {plural: %[1]ss, singular: %[1]s, kind: %[2]s}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}, status: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}
    subresources: {%[3]s}
`

func TestAppsOfCustomKindOnAPIServer(t *testing.T) {
	y := newYard(t, newCluster(t))
	const scale = "scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}"
	y.define(t, fmt.Sprintf(scaledCRD, "fleet", "Fleet", scale), fmt.Sprintf(scaledCRD, "boat", "Boat", ""))
	y.start(t, swiftly)
	object := func(kind, name string, replicas int64, above *unstructured.Unstructured) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"replicas": replicas}}}
		u.SetAPIVersion("example.berth.dev/v1")
		u.SetKind(kind)
		u.SetNamespace(y.ns)
		u.SetName(name)
		if above != nil {
			u.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(above, above.GroupVersionKind())})
		}
		if err := y.other(t).Create(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		return u
	}
	pod := func(name string, above *unstructured.Unstructured) {
		template := y.template("fleet")
		p := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
		p.Namespace, p.Name = y.ns, name
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(above, above.GroupVersionKind())}
		y.create(t, p)
	}
	fleet := object("Fleet", "fleet", 3, nil)
	boat := object("Boat", "boat", 9, fleet)
	pod("fleet-0", boat)
	y.wantEvent(t, "Boat", "boat", "WorkloadNotReadable") // nothing allows it yet

	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: y.ns, Labels: map[string]string{apps.AggregateLabel: "true"}}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"example.berth.dev"}, Resources: []string{"fleets", "boats"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"example.berth.dev"}, Resources: []string{"fleets/scale"}, Verbs: []string{"get"}},
	}}
	y.create(t, role)
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: y.ns}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: systemNamespace, Name: "berth-controller"}}} // no controller runs that aggregates
	y.create(t, binding)
	owner := y.owner("example.berth.dev/v1", "Fleet", "fleet")
	name := nad.PoolName(owner, "", "eth0", y.subnet)
	y.eventually(t, func() error { // at the latest with the next pod
		p := y.template("x").ObjectMeta
		p.Namespace, p.Name = y.ns, apitest.Unique("fleet")
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(boat, boat.GroupVersionKind())}
		if err := y.admin.Create(t.Context(), &corev1.Pod{ObjectMeta: p, Spec: y.template("x").Spec}); err != nil {
			return err
		}
		return y.admin.Get(t.Context(), client.ObjectKey{Name: name}, &v1alpha1.IPPool{})
	})
	if p := y.wantSize(t, name, 3); *p.Spec.Owner != owner {
		t.Errorf("owner %+v", p.Spec.Owner)
	}
	fresh := y.other(t)
	scaleTo := func(n int64) {
		patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, n)
		if err := fresh.SubResource("scale").Patch(t.Context(), fleet, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
			t.Fatal(err)
		}
	}
	scaleTo(20)
	y.wantSize(t, name, 20)
	scaleTo(2)
	y.wantSize(t, name, 2)

	lone := object("Boat", "lone", 1, nil)
	pod("lone-0", lone)
	y.wantEvent(t, "Boat", "lone", "WorkloadNotScalable")

	if err := fresh.Delete(t.Context(), boat); err != nil {
		t.Fatal(err)
	}
	if err := fresh.Delete(t.Context(), fleet); err != nil {
		t.Fatal(err)
	}
	y.wantGone(t, name)
}

const twoVersionsCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ferries.example.berth.dev}
spec:
  group: example.berth.dev
  scope: Namespaced
  names: {plural: ferries, singular: ferry, kind: Ferry}
  versions:
  - name: v2
    served: true
    storage: true
    schema: &schema {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}, status: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}
    subresources: &scale {scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
  - name: v1
    served: true
    storage: false
    schema: *schema
    subresources: *scale
`

// TestAppsOfKindInAnotherVersionOnAPIServer: a workload whose pods name it by a version of its kind that is served no longer is no workload that
// is gone.
func TestAppsOfKindInAnotherVersionOnAPIServer(t *testing.T) {
	y := newYard(t, newCluster(t))
	y.define(t, twoVersionsCRD)
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: y.ns}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"example.berth.dev"}, Resources: []string{"ferries", "ferries/scale"}, Verbs: []string{"get", "list", "watch"}},
	}}
	y.create(t, role)
	y.create(t, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: y.ns}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: systemNamespace, Name: "berth-controller"}}})
	y.start(t, swiftly)

	ferry := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"replicas": int64(3)}}}
	ferry.SetAPIVersion("example.berth.dev/v1")
	ferry.SetKind("Ferry")
	ferry.SetNamespace(y.ns)
	ferry.SetName("ferry")
	if err := y.other(t).Create(t.Context(), ferry); err != nil {
		t.Fatal(err)
	}
	template := y.template("ferry")
	p := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}
	p.Namespace, p.Name = y.ns, "ferry-0"
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(ferry, ferry.GroupVersionKind())}
	y.create(t, p)
	name := nad.PoolName(y.owner("example.berth.dev/v1", "Ferry", "ferry"), "", "eth0", y.subnet)
	y.wantSize(t, name, 3)

	crd := &unstructured.Unstructured{}
	crd.SetAPIVersion("apiextensions.k8s.io/v1")
	crd.SetKind("CustomResourceDefinition")
	crd.SetName("ferries.example.berth.dev")
	if err := y.admin.Patch(t.Context(), crd, client.RawPatch(types.JSONPatchType, []byte(`[{"op":"replace","path":"/spec/versions/1/served","value":false}]`))); err != nil {
		t.Fatal(err)
	}
	y.eventually(t, func() error {
		if err := y.other(t).Get(t.Context(), client.ObjectKeyFromObject(ferry), ferry.DeepCopy()); err == nil {
			return fmt.Errorf("v1 is still served")
		}
		return nil
	})
	look := func() { // any change of a pool of its has the controller look at the workload
		if err := y.admin.Patch(t.Context(), pool(name, y.subnet), client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"labels":{"at":"%d"}}}`, time.Now().UnixNano()))); err != nil {
			t.Fatal(err)
		}
	}
	look()
	marker := y.deployment("marker", 1) // deleted later, and gone sooner
	y.create(t, marker)
	y.wantSize(t, y.poolName("Deployment", "marker"), 2)
	y.remove(t, marker)
	y.wantGone(t, y.poolName("Deployment", "marker"))
	look()
	y.wantSize(t, name, 3)

	ferry.SetAPIVersion("example.berth.dev/v2")
	if err := y.other(t).Delete(t.Context(), ferry); err != nil {
		t.Fatal(err)
	}
	look()
	y.wantGone(t, name)
}
