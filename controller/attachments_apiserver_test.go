//go:build apiserver

package controller

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/attachments"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/nad"
)

// withNetworks installs the kind NetworkAttachmentDefinition, as Multus does.
func (c *cluster) withNetworks(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile("../tests/cluster/manifests/yaml/network-attachment-definition.yaml")
	if err != nil {
		t.Fatal(err)
	}
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(data, crd); err != nil {
		t.Fatal(err)
	}
	if err := c.admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(crd), client.FieldOwner("test"), client.ForceOwnership); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, func() error { return c.admin.List(t.Context(), &nadv1.NetworkAttachmentDefinitionList{}) })
}

// namespace for the length of the test, in which nothing is left.
func (c *cluster) namespace(t *testing.T, labels map[string]string) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: apitest.Unique("ns"), Labels: labels}}
	if err := c.admin.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := c.admin.DeleteAllOf(ctx, &nadv1.NetworkAttachmentDefinition{}, client.InNamespace(ns.Name)); err != nil {
			t.Error(err)
		}
		if err := c.admin.Delete(ctx, ns); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	return ns.Name
}

func (c *cluster) network(t *testing.T, namespace, name, config string) *nadv1.NetworkAttachmentDefinition {
	t.Helper()
	n := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	n.Spec.Config = config
	if err := c.admin.Create(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return n
}

// wantProblem waits for a part of the annotation; "" for there being none.
func (c *cluster) wantProblem(t *testing.T, n *nadv1.NetworkAttachmentDefinition, part string) {
	t.Helper()
	c.eventually(t, func() error {
		got := &nadv1.NetworkAttachmentDefinition{}
		if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(n), got); err != nil {
			return err
		}
		is, has := got.Annotations[attachments.ProblemAnnotation]
		if (part == "") != !has || !strings.Contains(is, part) {
			return fmt.Errorf("problem of %s: %q, want %q", n.Name, is, part)
		}
		return nil
	})
}

func (c *cluster) events(t *testing.T, namespace, about, reason string) (out []string) {
	t.Helper()
	var list eventsv1.EventList
	if err := c.admin.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Regarding.Name == about && e.Reason == reason {
			out = append(out, e.Note)
			if e.Series != nil {
				out = append(out, fmt.Sprintf("and %d times more", e.Series.Count))
			}
		}
	}
	return out
}

func (c *cluster) edit(t *testing.T, o client.Object, f func()) {
	t.Helper()
	c.eventually(t, func() error {
		if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		f()
		return c.admin.Update(t.Context(), o)
	})
}

// TestProblemsOnAPIServer: what is wrong with people's networks is told when it comes, once, and untold when it is mended: by the network,
// a pool, a HostNetwork, a Netspace.
func TestProblemsOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.withNetworks(t)
	c.start(t, nil)
	ns := c.namespace(t, nil)
	name := apitest.Unique("p")
	master := "b" + name[len(name)-6:]
	n := c.network(t, ns, "users", fmt.Sprintf(`{"type": "macvlan", "master": "%s.12", "mtu": 1600, "ipam": {"type": "berth", "ippools": ["%s"]}}`, master, name))
	foreign := c.network(t, ns, "foreign", `{"type": "macvlan", "ipam": {"type": "host-local"}}`)
	c.wantProblem(t, n, fmt.Sprintf("there is no pool %q", name))
	p := pool(name, name, subnet("10.6.0.0/24"))
	wrong := int32(13)
	p.Spec.VLAN = &wrong
	c.create(t, p)
	c.wantProblem(t, n, fmt.Sprintf(`pool %q is of VLAN 13, and master "%s.12" is in VLAN 12`, name, master))
	c.edit(t, p, func() { *p.Spec.VLAN = 12 })
	c.wantProblem(t, n, "")
	mtu := int32(1500)
	h := &v1alpha1.HostNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}
	h.Spec = v1alpha1.HostNetworkSpec{Parent: master, VLANs: []int32{12}, MTU: &mtu}
	c.create(t, h)
	c.wantProblem(t, n, "mtu 1600 is more than that of its master")
	c.create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	was := h.DeepCopy()
	h.Status.Nodes = []v1alpha1.HostNetworkNode{{Node: name, ObservedGeneration: h.Generation, Message: "no link " + master}}
	if err := c.admin.Status().Patch(t.Context(), h, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	c.wantProblem(t, n, fmt.Sprintf(`HostNetwork %q has not made it on %s (no link %s)`, name, name, master))
	c.remove(t, h)
	c.wantProblem(t, n, "")
	s := &v1alpha1.Netspace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	s.Spec.Namespaces = []string{ns}
	c.create(t, s)
	c.wantProblem(t, n, fmt.Sprintf("this namespace is of netspace %q", name))
	c.remove(t, s)
	c.wantProblem(t, n, "")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	c.edit(t, node, func() { node.Annotations = map[string]string{nad.ParentsAnnotation: master + ".12=-"} })
	c.wantProblem(t, n, fmt.Sprintf(`master "%s.12": no node has it, by the word of %s`, master, name))
	c.edit(t, node, func() { node.Annotations[nad.ParentsAnnotation] = master + ".12=9000/12" })
	c.wantProblem(t, n, "")
	c.edit(t, n, func() { n.Spec.Config = `{"type": "macvlan", "ipam": {"type": "berth", "ippool": "a"}}` })
	c.wantProblem(t, n, "ipam ippool: unknown key")
	c.edit(t, n, func() { n.Spec.Config = `{"type": "macvlan", "ipam": {"type": "berth"}}` })
	c.wantProblem(t, n, "")
	c.eventually(t, func() error { // events come after
		told, mended := c.events(t, ns, "users", "AttachmentProblem"), c.events(t, ns, "users", "AttachmentMended")
		if len(told) != 7 || len(mended) < 1 {
			return fmt.Errorf("events %q, %q", told, mended)
		}
		return nil
	})
	if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(foreign), foreign); err != nil || foreign.Generation != 1 || len(foreign.Annotations) > 0 {
		t.Errorf("another plugin's network was touched: %v, %+v", err, foreign)
	}
}

// made waits for the configuration of a network to have the part.
func (c *cluster) made(t *testing.T, namespace, name string, parts ...string) *nadv1.NetworkAttachmentDefinition {
	t.Helper()
	n := &nadv1.NetworkAttachmentDefinition{}
	c.eventually(t, func() error {
		if err := c.admin.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, n); err != nil {
			return err
		}
		for _, p := range parts {
			if !strings.Contains(n.Spec.Config, p) {
				return fmt.Errorf("no %s in %s", p, n.Spec.Config)
			}
		}
		return nil
	})
	return n
}

func (c *cluster) unmade(t *testing.T, namespace, name string) {
	t.Helper()
	c.eventually(t, func() error {
		err := c.admin.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, &nadv1.NetworkAttachmentDefinition{})
		if err == nil {
			return fmt.Errorf("%s/%s is still there", namespace, name)
		}
		return client.IgnoreNotFound(err)
	})
}

func (c *cluster) attached(t *testing.T, o client.Object, conditions func() []metav1.Condition, status metav1.ConditionStatus, part string) {
	t.Helper()
	c.eventually(t, func() error {
		if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		got := meta.FindStatusCondition(conditions(), v1alpha1.Attached)
		if got == nil || got.Status != status || !strings.Contains(got.Message, part) {
			return fmt.Errorf("condition %+v, want %s with %q", got, status, part)
		}
		return nil
	})
}

// TestAttachmentsOfSubnet: they are in the namespaces that are named or selected, as the subnet says, whatever others do to them; one of
// the name that is somebody else's stays as it is, and is told of; they go when they are wanted no more.
func TestAttachmentsOfSubnet(t *testing.T) {
	c := newCluster(t)
	c.withNetworks(t)
	c.start(t, nil)
	name := apitest.Unique("sub")
	named, selected, other := c.namespace(t, nil), c.namespace(t, map[string]string{"on": name}), c.namespace(t, nil)
	taken := c.namespace(t, map[string]string{"on": name})
	theirs := c.network(t, taken, name, `{"type": "bridge"}`)
	parent := "b" + name[len(name)-6:]
	sub := &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	sub.Spec = v1alpha1.SubnetSpec{
		Network: name, Parent: parent, CIDRs: []v1alpha1.SubnetCIDR{{CIDR: "10.6.0.0/24"}},
		Attachments: &v1alpha1.Attachments{
			Namespaces: []string{named, "not-there-yet"}, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"on": name}},
		},
	}
	c.create(t, sub)
	for _, ns := range []string{named, selected} {
		n := c.made(t, ns, name, `"type":"macvlan"`, `"mode":"bridge"`, fmt.Sprintf(`"master":%q`, parent), fmt.Sprintf(`"ipam":{"type":"berth","ippools":[%q]}`, name))
		if !metav1.IsControlledBy(n, sub) {
			t.Errorf("owners %+v", n.OwnerReferences)
		}
		c.wantProblem(t, n, "there is no pool")
	}
	conditions := func() []metav1.Condition { return sub.Status.Conditions }
	c.attached(t, sub, conditions, metav1.ConditionFalse, taken+"/"+name+" is not Berth's")
	c.eventually(t, func() error {
		if got := c.events(t, "default", name, "AttachmentNameTaken"); len(got) != 1 {
			return fmt.Errorf("events %q", got)
		}
		return nil
	})
	// A pool, an MTU: kept in step. What is the pool's of a workload is not named.
	size := int32(4)
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name + "-a"}}
	p.Spec = v1alpha1.IPPoolSpec{Network: name, Subnet: name, Size: &size}
	c.create(t, p)
	o := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name + "-b"}}
	o.Spec = v1alpha1.IPPoolSpec{Network: name, Subnet: name, Size: &size, Owner: &v1alpha1.PoolOwner{APIVersion: "apps/v1", Kind: "Deployment", Namespace: named, Name: "web"}}
	c.create(t, o)
	mtu := int32(9000)
	h := &v1alpha1.HostNetwork{ObjectMeta: metav1.ObjectMeta{Name: name}}
	h.Spec = v1alpha1.HostNetworkSpec{Bond: &v1alpha1.Bond{Name: parent, Members: []string{"eth1", "eth2"}}, MTU: &mtu}
	c.create(t, h)
	n := c.made(t, selected, name, `"mtu":9000`, fmt.Sprintf(`"ippools":[%q]`, name+"-a"))
	c.wantProblem(t, n, "")
	// Somebody edits it: mended. Deletes it: made anew.
	c.edit(t, n, func() { n.Spec.Config = "{}" })
	n = c.made(t, selected, name, `"mtu":9000`)
	if err := c.admin.Delete(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	c.made(t, selected, name, `"mtu":9000`)
	// The name becomes free.
	if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(theirs), theirs); err != nil || theirs.Spec.Config != `{"type": "bridge"}` || theirs.Generation != 1 {
		t.Errorf("theirs: %v, %s", err, theirs.Spec.Config)
	}
	if err := c.admin.Delete(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	c.made(t, taken, name, `"mtu":9000`)
	c.attached(t, sub, conditions, metav1.ConditionTrue, "")
	// Namespaces come and go by their labels; then the attachments go.
	var ns corev1.Namespace
	if err := c.admin.Get(t.Context(), client.ObjectKey{Name: other}, &ns); err != nil {
		t.Fatal(err)
	}
	label := func(v string) {
		if err := c.admin.Patch(t.Context(), &ns, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"on":`+v+`}}}`))); err != nil {
			t.Fatal(err)
		}
	}
	label(fmt.Sprintf("%q", name))
	c.made(t, other, name)
	label("null")
	c.unmade(t, other, name)
	c.edit(t, sub, func() { sub.Spec.Attachments = nil })
	for _, ns := range []string{named, selected, taken} {
		c.unmade(t, ns, name)
	}
	c.eventually(t, func() error {
		if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(sub), sub); err != nil {
			return err
		}
		if slices.ContainsFunc(sub.Status.Conditions, func(m metav1.Condition) bool { return m.Type == v1alpha1.Attached }) {
			return fmt.Errorf("conditions %+v", sub.Status.Conditions)
		}
		return nil
	})
}

// TestAttachmentsAfterTheirOwner: they go when the owner went while no controller ran.
func TestAttachmentsAfterTheirOwner(t *testing.T) {
	c := newCluster(t)
	c.withNetworks(t)
	stop := c.start(t, nil)
	name, ns := apitest.Unique("sub"), c.namespace(t, nil)
	sub := &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	sub.Spec = v1alpha1.SubnetSpec{Network: name, Parent: "eth0", CIDRs: []v1alpha1.SubnetCIDR{{CIDR: "10.6.0.0/24"}}, Attachments: &v1alpha1.Attachments{Namespaces: []string{ns}}}
	c.create(t, sub)
	c.made(t, ns, name)
	stop()
	c.remove(t, sub)
	c.start(t, nil)
	c.unmade(t, ns, name)
}
