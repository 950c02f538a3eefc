//go:build apiserver

package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// What the tests need of KubeVirt's and the Network Plumbing Working Group's kinds. The status of claims is as theirs is: both of its
// fields are required.
const (
	machineCRD = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: %[1]ss.kubevirt.io}, spec: {
		group: kubevirt.io, scope: Namespaced, names: {kind: %[2]s, plural: %[1]ss}, versions: [{name: v1, served: true, storage: true,
		schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`
	claimCRD = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: ipamclaims.k8s.cni.cncf.io,
		annotations: {api-approved.kubernetes.io: unapproved}}, spec: {
		group: k8s.cni.cncf.io, scope: Namespaced, names: {kind: IPAMClaim, plural: ipamclaims}, versions: [{name: v1alpha1, served: true, storage: true,
		subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, properties: {
		spec: {type: object, x-kubernetes-preserve-unknown-fields: true},
		status: {type: object, required: [ips%s], properties: {
			ips: {type: array, maxItems: 2, items: {type: string, x-kubernetes-validations: [{rule: isCIDR(self)}]}}%s}}}}}}]}}`
)

var (
	machines  = fmt.Sprintf(machineCRD, "virtualmachine", "VirtualMachine")
	instances = fmt.Sprintf(machineCRD, "virtualmachineinstance", "VirtualMachineInstance")
	claims    = fmt.Sprintf(claimCRD, ", ownerPod", ", ownerPod: {type: string}")
	oldClaims = fmt.Sprintf(claimCRD, "", "")
)

// define kinds for the length of the test, or until undefine.
func (c *cluster) define(t *testing.T, crds ...string) (undefine func()) {
	t.Helper()
	var all []*unstructured.Unstructured
	for _, text := range crds {
		crd := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(strings.ReplaceAll(text, "\t", " ")), &crd.Object); err != nil {
			t.Fatal(err)
		}
		if err := c.admin.Create(t.Context(), crd); err != nil {
			t.Fatal(err)
		}
		all = append(all, crd)
		c.eventually(t, func() error { return c.list(t, crd) })
	}
	undefine = func() {
		for _, crd := range all {
			// Its finalizer stays: without, its objects would be there again when it is.
			if err := c.admin.Delete(context.Background(), crd); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
			c.eventually(t, func() error {
				if !errors.Is(notServed(c.list(t, crd)), errNoAPI) {
					return fmt.Errorf("%s is still served", crd.GetName())
				}
				return nil
			})
		}
	}
	t.Cleanup(undefine)
	return undefine
}

// list what a CRD defines, past the client's memory of which kinds there are.
func (c *cluster) list(t *testing.T, crd *unstructured.Unstructured) error {
	t.Helper()
	spec := crd.Object["spec"].(map[string]any)
	var items unstructured.UnstructuredList
	items.SetAPIVersion(spec["group"].(string) + "/" + spec["versions"].([]any)[0].(map[string]any)["name"].(string))
	items.SetKind(spec["names"].(map[string]any)["kind"].(string) + "List")
	return c.other(t).List(context.Background(), &items)
}

func (c *cluster) object(t *testing.T, apiVersion, kind, name string) *unstructured.Unstructured {
	t.Helper()
	// The API server remembers who wrote what only of objects that had something to remember when they were made.
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"network": "n", "interface": "net1"}}}
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	u.SetNamespace("default")
	u.SetName(name)
	fresh := c.other(t)
	if err := fresh.Create(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fresh.Delete(context.Background(), u); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	return u
}

func (c *cluster) machine(t *testing.T, kind, name string) *unstructured.Unstructured {
	t.Helper()
	return c.object(t, "kubevirt.io/v1", kind, name)
}

func (c *cluster) claim(t *testing.T, name string) *unstructured.Unstructured {
	t.Helper()
	return c.object(t, "k8s.cni.cncf.io/v1alpha1", "IPAMClaim", name)
}

func (c *cluster) set(t *testing.T, name string) *appsv1.StatefulSet {
	t.Helper()
	labels := map[string]string{"app": name}
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.Replicas = new(int32(0))
	s.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	s.Spec.Template.Labels = labels
	s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "none"}}
	c.create(t, s)
	return s
}

// reserve an address of 10.9.0.0/24 in network ident for default/name.
func (c *cluster) reserve(t *testing.T, last int, pool, kind, name string, uid types.UID, ends v1alpha1.IdentityEnd, since time.Time) *v1alpha1.IPLease {
	t.Helper()
	l := lease("ident", fmt.Sprintf("10.9.0.%d", last), pool, v1alpha1.LeaseReserved)
	l.UID = ""
	l.Spec.ReleasedAt = &metav1.Time{Time: since}
	l.Spec.Identity = &v1alpha1.LeaseIdentity{Kind: kind, Namespace: "default", Name: name, UID: uid, Ends: ends}
	c.create(t, &l)
	return &l
}

func (c *cluster) wantPhase(t *testing.T, l *v1alpha1.IPLease, phase v1alpha1.LeasePhase) *v1alpha1.IPLease {
	t.Helper()
	var got v1alpha1.IPLease
	c.eventually(t, func() error {
		err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(l), &got)
		if err == nil && got.Spec.Phase != phase {
			err = fmt.Errorf("lease %s is %s, want %s", l.Name, got.Spec.Phase, phase)
		}
		return err
	})
	return &got
}

func (c *cluster) wantKept(t *testing.T, leases ...*v1alpha1.IPLease) {
	t.Helper()
	for _, l := range leases {
		var got v1alpha1.IPLease
		if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(l), &got); err != nil || got.Spec.Phase != l.Spec.Phase {
			t.Errorf("lease %s (%+v) is %s (%v), want it kept %s", l.Name, l.Spec.Identity, got.Spec.Phase, err, l.Spec.Phase)
		}
	}
}

func TestReservationsOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.define(t, machines, instances, claims)
	const with, after = v1alpha1.EndsWithOwner, v1alpha1.EndsAfterTime
	const set, vm, claim, name = v1alpha1.IdentityStatefulSet, v1alpha1.IdentityVM, v1alpha1.IdentityIPAMClaim, v1alpha1.IdentityName
	p := pool("ident", "ident", subnet("10.9.0.0/24"))
	c.create(t, p)
	scaled, again := c.set(t, "ident-scaled"), c.set(t, "ident-again")
	stopped := c.machine(t, "VirtualMachine", "ident-stopped")
	c.machine(t, "VirtualMachineInstance", "ident-alone")
	c.claim(t, "ident-claim")
	now, lastYear := time.Now(), time.Now().Add(-365*24*time.Hour)

	keep := []*v1alpha1.IPLease{
		c.reserve(t, 1, "ident", set, "ident-scaled", scaled.UID, with, lastYear),
		c.reserve(t, 2, "ident", vm, "ident-stopped", "of an earlier start", with, lastYear),
		c.reserve(t, 3, "ident", vm, "ident-alone", "u", with, lastYear),
		c.reserve(t, 4, "ident", claim, "ident-claim", "", with, lastYear),
		c.reserve(t, 5, "ident", name, "x", "", after, now),
		c.reserve(t, 6, "ident", set, "ident-never-was", "u", "", lastYear),
		c.reserve(t, 7, "ident", "Pod", "ident-never-was", "", "", lastYear),
		c.lease(t, "ident", "10.9.0.8", "ident", v1alpha1.LeaseReserved, nil),
	}
	living := c.pod(t, "ident-living")
	bound := c.lease(t, "ident", "10.9.0.9", "ident", v1alpha1.LeaseBound, holderOf(living))
	bound.Spec.Identity = &v1alpha1.LeaseIdentity{Kind: set, Namespace: "default", Name: "ident-never-was", UID: "u", Ends: with}
	if err := c.admin.Update(t.Context(), bound); err != nil {
		t.Fatal(err)
	}
	keep = append(keep, bound)
	anew := c.reserve(t, 10, "ident", set, "ident-again", again.UID, with, now)

	c.start(t, func(cfg *Config) { cfg.ForgetAfter = 10 * 365 * 24 * time.Hour })
	for _, tc := range []struct {
		lease  *v1alpha1.IPLease
		reason string
	}{
		{c.reserve(t, 11, "ident", set, "ident-never-was", "u", with, now), ownerGone},
		{c.reserve(t, 12, "ident", set, "ident-scaled", "an earlier one's", with, now), ownerReplaced},
		{c.reserve(t, 13, "ident", vm, "ident-never-was", "u", with, now), ownerGone},
		{c.reserve(t, 14, "ident", claim, "ident-never-was", "", with, now), ownerGone},
		{c.reserve(t, 15, "ident", name, "x", "", after, now.Add(-DefaultReserveFor)), timeOver},
		{c.reserve(t, 16, "ident-never-was", set, "ident-scaled", scaled.UID, with, now), poolGone},
	} {
		got := c.wantPhase(t, tc.lease, v1alpha1.LeaseReleased)
		if got.Spec.Identity != nil || got.Spec.ReleasedAt == nil {
			t.Errorf("%s: %+v", tc.lease.Name, got.Spec)
		}
		c.wantEvent(t, "IPLease", tc.lease.Name, tc.reason)
	}
	c.wantKept(t, append(keep, anew)...)

	// Owners go: a set that is made anew under its name at once, and a machine.
	c.remove(t, again)
	c.set(t, "ident-again")
	c.remove(t, stopped)
	c.wantPhase(t, anew, v1alpha1.LeaseReleased)
	c.wantEvent(t, "IPLease", anew.Name, ownerReplaced)
	c.wantPhase(t, keep[1], v1alpha1.LeaseReleased)
	c.wantKept(t, append(keep[2:], keep[0])...)

	// The pool keeps what its owners keep no longer than it says.
	if err := c.admin.Patch(t.Context(), p, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"reservedFor":"8760h"}}`))); err != nil {
		t.Fatal(err)
	}
	c.wantPhase(t, keep[0], v1alpha1.LeaseReleased)
	c.wantEvent(t, "IPLease", keep[0].Name, timeOver)
	c.wantKept(t, keep[4:]...)
}

// While KubeVirt is away nothing proves a machine gone. Once it is back, it does.
func TestReservationsWithoutKubeVirtOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.create(t, pool("ident", "ident", subnet("10.9.0.0/24")))
	l := c.reserve(t, 1, "ident", v1alpha1.IdentityVM, "away", "u", v1alpha1.EndsWithOwner, time.Now())
	stop := c.start(t, nil)
	c.wantEvent(t, "IPLease", l.Name, noOwnerAPI)
	time.Sleep(3 * time.Second) // longer than it takes to end one
	c.wantKept(t, l)
	stop()

	// It comes with the machine, and goes under the eyes of a controller that knew it. Objects go before their kind, so this takes a
	// controller that is slow to believe.
	undefine := c.define(t, machines, instances)
	c.machine(t, "VirtualMachine", "away")
	stop = c.start(t, func(cfg *Config) { cfg.ConfirmAfter, cfg.ForgetAfter = time.Minute, 10*365*24*time.Hour })
	told := c.reserve(t, 2, "ident", v1alpha1.IdentityStatefulSet, "never-was", "u", v1alpha1.EndsAfterTime, time.Now().Add(-365*24*time.Hour))
	c.wantPhase(t, told, v1alpha1.LeaseReleased) // so it has looked
	second := c.reserve(t, 3, "ident", v1alpha1.IdentityVM, "away", "u", v1alpha1.EndsWithOwner, time.Now())
	undefine()
	c.wantEvent(t, "IPLease", second.Name, noOwnerAPI)
	c.wantKept(t, l, second)
	stop()

	c.define(t, machines, instances)
	c.start(t, nil)
	c.wantPhase(t, l, v1alpha1.LeaseReleased)
	c.wantPhase(t, second, v1alpha1.LeaseReleased)
}

func TestPoolDeletionEndsReservationsOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.start(t, nil)
	s := c.set(t, "leaving-set")
	for _, tc := range []struct {
		pool string
		ends v1alpha1.IdentityEnd
		goes bool
	}{{"ident-goes", v1alpha1.EndsWithOwner, true}, {"ident-stays", "", false}} {
		p := pool(tc.pool, "ident", subnet("10.9.0.0/24"))
		c.create(t, p)
		c.wantFree(t, tc.pool, "254")
		l := c.reserve(t, 1, tc.pool, v1alpha1.IdentityStatefulSet, s.Name, s.UID, tc.ends, time.Now())
		c.wantFree(t, tc.pool, "253")
		if err := c.admin.Delete(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if tc.goes {
			c.eventually(t, func() error {
				if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(p), p); !apierrors.IsNotFound(err) {
					return errors.Join(fmt.Errorf("pool %s is still there", p.Name), err)
				}
				return nil
			})
			continue
		}
		time.Sleep(3 * statusInterval)
		c.wantKept(t, l)
		if _, err := c.status(t, tc.pool); err != nil {
			t.Errorf("pool %s: %v, want it to wait for the operator's reservation", tc.pool, err)
		}
	}
}

func TestQuarantineOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.start(t, nil)
	quarantined := func(last int, seen time.Time) *v1alpha1.IPLease {
		l := lease("quarnet", fmt.Sprintf("10.9.0.%d", last), "", v1alpha1.LeaseQuarantined) // nobody has ever held it
		l.UID = ""
		l.Spec.Conflict = &v1alpha1.LeaseConflict{MAC: "02:00:00:00:00:01", SeenAt: metav1.NewTime(seen)}
		c.create(t, &l)
		return &l
	}
	loud, silent := quarantined(1, time.Now()), quarantined(2, time.Now().Add(-DefaultQuarantineFor))
	got := c.wantPhase(t, silent, v1alpha1.LeaseReleased)
	if got.Spec.Conflict != nil || got.Spec.ReleasedAt == nil || time.Since(got.Spec.ReleasedAt.Time) > time.Minute {
		t.Errorf("lease %+v, want its cooldown to begin now", got.Spec)
	}
	c.wantEvent(t, "IPLease", silent.Name, conflictSilent)
	c.wantKept(t, loud)
}

// A new leader knows how long a pod may take to stop, though it never saw the pod; and a machine's migration leaves the address to who
// lives.
func TestHoldersOnAPIServer(t *testing.T) {
	c := newCluster(t)
	living := c.pod(t, "holders-living")
	gone := func(name string, grace int64) *v1alpha1.LeaseHolder {
		return &v1alpha1.LeaseHolder{Namespace: "default", Pod: name, UID: types.UID(name), Node: "gone", ContainerID: name, Interface: "net1", GracePeriodSeconds: grace}
	}
	patient := c.lease(t, "holdnet", "10.9.0.1", "", v1alpha1.LeaseBound, gone("patient", 3600))
	hasty := c.lease(t, "holdnet", "10.9.0.2", "", v1alpha1.LeaseBound, gone("hasty", 0))
	migrating := func(last int, holder, next *v1alpha1.LeaseHolder) *v1alpha1.IPLease {
		l := c.lease(t, "holdnet", fmt.Sprintf("10.9.0.%d", last), "", v1alpha1.LeaseBound, holder)
		l.Spec.Next = next
		if err := c.admin.Update(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	arrived := migrating(3, gone("source", 0), holderOf(living))
	failed := migrating(4, holderOf(living), gone("target", 0))
	lost := migrating(5, gone("source", 0), gone("target", 0))

	stop := c.start(t, nil)
	c.wantPhase(t, hasty, v1alpha1.LeaseReleased)
	c.wantPhase(t, lost, v1alpha1.LeaseReleased)
	for _, l := range []*v1alpha1.IPLease{arrived, failed} {
		c.eventually(t, func() error {
			var got v1alpha1.IPLease
			err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(l), &got)
			if err == nil && (got.Spec.Phase != v1alpha1.LeaseBound || got.Spec.Next != nil || got.Spec.Holder.UID != living.UID) {
				err = fmt.Errorf("%s: %s, held by %+v, next %+v; want it bound to who lives", l.Name, got.Spec.Phase, got.Spec.Holder, got.Spec.Next)
			}
			return err
		})
	}
	c.wantKept(t, patient)
	stop()
	stop = c.start(t, nil)
	hasty2 := c.lease(t, "holdnet", "10.9.0.6", "", v1alpha1.LeaseBound, gone("hasty", 0))
	c.wantPhase(t, hasty2, v1alpha1.LeaseReleased) // it has looked, twice
	c.wantKept(t, patient, arrived, failed)
	stop()
}

func TestClaimStatusOnAPIServer(t *testing.T) {
	for _, tc := range []struct {
		name, crd string
		pods      bool
	}{{"with ownerPod", claims, true}, {"of an older definition", oldClaims, false}} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			undefine := c.define(t, tc.crd)
			defer undefine()
			testClaimStatus(t, c, tc.pods)
		})
	}
}

func testClaimStatus(t *testing.T, c *cluster, pods bool) {
	mine, foreign, theirs := c.claim(t, "claims-mine"), c.claim(t, "claims-foreign"), c.claim(t, "claims-theirs")
	for _, u := range []*unstructured.Unstructured{foreign, theirs} { // another plugin's
		status := []byte(`{"status":{"ips":["192.0.2.1/24"],"ownerPod":"elsewhere"}}`)
		if err := c.other(t).Status().Patch(t.Context(), u, client.RawPatch(types.MergePatchType, status), client.FieldOwner("other")); err != nil {
			t.Fatal(err)
		}
	}
	p := pool("claims", "claimnet", subnet("10.9.0.0/24"), subnet("2001:db8::/64"))
	c.create(t, p)
	living := c.pod(t, "claims-living")
	claimed := func(address, claim string) *v1alpha1.IPLease {
		l := c.lease(t, "claimnet", address, "claims", v1alpha1.LeaseBound, holderOf(living))
		l.Spec.Identity = &v1alpha1.LeaseIdentity{Kind: v1alpha1.IdentityIPAMClaim, Namespace: "default", Name: claim, Ends: v1alpha1.EndsWithOwner}
		if err := c.admin.Update(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	leases := []*v1alpha1.IPLease{claimed("2001:db8::9", mine.GetName()), claimed("10.9.0.9", mine.GetName())}
	claimed("10.9.0.10", foreign.GetName())
	c.start(t, nil)

	var version string
	wantIPs := func(ips []string, pod string) {
		t.Helper()
		c.eventually(t, func() error {
			s, hasPod, err := c.readClaim(t, mine)
			if err == nil && (!slices.Equal(s.IPs, ips) || s.OwnerPod != pod && pods || hasPod != pods) {
				err = fmt.Errorf("status %+v, want %q of pod %q", s, ips, pod)
			}
			version = mine.GetResourceVersion()
			return err
		})
	}
	both := []string{"10.9.0.9/24", "2001:db8::9/64"}
	wantIPs(both, living.Name)
	time.Sleep(time.Second) // a few looks
	if _, _, err := c.readClaim(t, mine); err != nil || mine.GetResourceVersion() != version {
		t.Errorf("written again (%v), though nothing changed", err)
	}
	for _, l := range leases { // the pod goes
		l.Spec.Phase, l.Spec.ReleasedAt = v1alpha1.LeaseReserved, &metav1.Time{Time: time.Now()}
		if err := c.admin.Update(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	wantIPs(both, "")
	if err := c.admin.Patch(t.Context(), p, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"reservedFor":"0s"}}`))); err != nil {
		t.Fatal(err)
	}
	wantIPs(nil, "")
	for _, u := range []*unstructured.Unstructured{foreign, theirs} {
		if s, _, err := c.readClaim(t, u); err != nil || !slices.Equal(s.IPs, []string{"192.0.2.1/24"}) {
			t.Errorf("%s: %+v (%v), want what the other plugin wrote", u.GetName(), s, err)
		}
	}
}

// other is a client that has just learned which kinds there are.
func (c *cluster) other(t *testing.T) client.Client {
	t.Helper()
	fresh, err := client.New(c.config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return fresh
}

func (c *cluster) readClaim(t *testing.T, u *unstructured.Unstructured) (claimStatus, bool, error) {
	t.Helper()
	if err := c.other(t).Get(t.Context(), client.ObjectKeyFromObject(u), u); err != nil {
		return claimStatus{}, false, err
	}
	return readClaim(u)
}
