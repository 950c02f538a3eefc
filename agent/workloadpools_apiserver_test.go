//go:build apiserver

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/nad"
)

// workloadPool as the controller makes it, with its first n addresses carved.
func (r *rig) workloadPool(apiVersion, kind, name string, size int32, n int) *v1alpha1.IPPool {
	r.Helper()
	owner := v1alpha1.PoolOwner{APIVersion: apiVersion, Kind: kind, Namespace: r.name, Name: name}
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: nad.PoolName(owner, "", "net1", "office")}}
	p.Spec.Network, p.Spec.Subnet, p.Spec.Size, p.Spec.Owner = r.name, "office", &size, &owner
	p.Spec.NodeAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{"rig": r.name}}
	carved(p, n)
	p, err := r.ippools.Create(r.Context(), p, metav1.CreateOptions{})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := r.ippools.Delete(context.Background(), p.Name, metav1.DeleteOptions{}); err != nil {
			r.Error(err)
		}
	})
	return p
}

func carved(p *v1alpha1.IPPool, n int) {
	if n > 0 {
		p.Spec.Subnets = []v1alpha1.PoolSubnet{{CIDR: "10.70.0.0/16", IPs: []string{fmt.Sprintf("10.70.0.1-10.70.0.%d", n)}}}
	}
}

func (r *rig) ownedBy(apiVersion, kind, name string) {
	yes := true
	r.owner = &metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: "u", Controller: &yes}
}

// adding a pod's interface; the result comes later.
func (r *rig) adding(p *corev1.Pod, sandbox string) (wait func() (string, error)) {
	var out string
	var err error
	var wg sync.WaitGroup
	wg.Go(func() {
		res, failed := r.call(r.Context(), delegate.PathAdd, request(p, sandbox, "net1", macvlan))
		if err = failed; err == nil {
			out = res.IPs[0].Address.IP.String()
		}
	})
	return func() (string, error) { wg.Wait(); return out, err }
}

// wantWaiting until somebody waits for a pool.
func (r *rig) wantWaiting(pool string) {
	r.Helper()
	apitest.Eventually(r, "an ADD waits", func() error {
		r.pools.mu.Lock()
		defer r.pools.mu.Unlock()
		if len(r.pools.awaited[pool]) == 0 {
			return fmt.Errorf("nobody waits for pool %s", pool)
		}
		return nil
	})
}

func setPatience(t *testing.T, d time.Duration) {
	before := poolPatience
	poolPatience = d
	t.Cleanup(func() { poolPatience = before })
}

const ofOffice = nad.SubnetAnnotation + "=office"

const onUnderlay = "k8s.v1.cni.cncf.io/networks=vlan910"

// TestWorkloadPoolAwaited: an ADD waits for the pool, for its first address, and for one that is free.
func TestWorkloadPoolAwaited(t *testing.T) {
	setPatience(t, time.Minute)
	r := newRig(t)
	r.ownedBy("apps/v1", "StatefulSet", "db")
	name := nad.PoolName(v1alpha1.PoolOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Namespace: r.name, Name: "db"}, "", "net1", "office")
	first := r.adding(r.pod("db-0", ofOffice, onUnderlay), "s0")
	r.wantWaiting(name)
	r.workloadPool("apps/v1", "StatefulSet", "db", 1, 0)
	r.editPool(name, func(p *v1alpha1.IPPoolSpec) {
		p.Subnets = []v1alpha1.PoolSubnet{{CIDR: "10.70.0.0/16", IPs: []string{"10.70.0.1"}}}
	})
	if got, err := first(); err != nil || got != "10.70.0.1" {
		t.Fatalf("%s, %v", got, err)
	}
	second := r.adding(r.pod("db-1", ofOffice, onUnderlay), "s1")
	r.wantWaiting(name)
	r.editPool(name, func(p *v1alpha1.IPPoolSpec) { p.Size = new(int32(2)) })
	r.editPool(name, func(p *v1alpha1.IPPoolSpec) { p.Subnets[0].IPs = []string{"10.70.0.1-10.70.0.2"} })
	if got, err := second(); err != nil || got != "10.70.0.2" {
		t.Fatalf("%s, %v", got, err)
	}
	r.pools.mu.Lock()
	defer r.pools.mu.Unlock()
	if len(r.pools.awaited) > 0 {
		t.Errorf("still awaited: %v", r.pools.awaited)
	}
}

// A pool that is edited while an ADD is on its way: the ADD goes by the pool as it is.
func TestPoolEditedMeanwhile(t *testing.T) {
	setPatience(t, time.Minute)
	r := newRig(t)
	r.ownedBy("apps/v1", "StatefulSet", "db")
	name := nad.PoolName(v1alpha1.PoolOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Namespace: r.name, Name: "db"}, "", "net1", "office")
	release := r.faults.HoldWatches("%2Fpool%3D" + name)
	defer release()
	wait := r.adding(r.pod("db-0", ofOffice, onUnderlay), "s0")
	r.wantWaiting(name)
	r.workloadPool("apps/v1", "StatefulSet", "db", 1, 1)
	apitest.Eventually(t, "an ADD waits for the leases of the pool", func() error {
		r.pools.mu.Lock()
		defer r.pools.mu.Unlock()
		if !r.pools.expected[name] {
			return errors.New("not yet")
		}
		return nil
	})
	r.editPool(name, func(p *v1alpha1.IPPoolSpec) { p.Subnets[0].IPs = []string{"10.70.0.9"} })
	apitest.Eventually(t, "the agent sees the edit", func() error {
		if p := r.pools.named(name); p == nil || !p.Contains(netip.MustParseAddr("10.70.0.9")) {
			return errors.New("not yet")
		}
		return nil
	})
	release()
	if got, err := wait(); err != nil || got != "10.70.0.9" {
		t.Errorf("%s, %v", got, err)
	}
}

func (r *rig) editPool(name string, f func(*v1alpha1.IPPoolSpec)) {
	r.Helper()
	p, err := r.ippools.Get(r.Context(), name, metav1.GetOptions{})
	if err != nil {
		r.Fatal(err)
	}
	f(&p.Spec)
	if _, err := r.ippools.Update(r.Context(), p, metav1.UpdateOptions{}); err != nil {
		r.Fatal(err)
	}
}

// TestWorkloadPoolErrors: what was waited for in vain is said.
func TestWorkloadPoolErrors(t *testing.T) {
	setPatience(t, 300*time.Millisecond)
	r := newRig(t)
	r.refused(request(r.pod("bare", ofOffice, onUnderlay), "b", "net1", macvlan), delegate.CodeBadRequest, "pod annotation berth.dev/subnet", "nothing controls the pod")

	r.ownedBy("apps/v1", "StatefulSet", "db")
	r.refused(request(r.pod("none", ofOffice, onUnderlay), "n", "net1", macvlan), 11, "the workload's pool is not ready",
		"StatefulSet "+r.name+"/db", `Subnet "office" does not exist: correct the annotation of the pod template, or create it`)

	p := r.workloadPool("apps/v1", "StatefulSet", "db", 1, 0)
	r.refused(request(r.pod("empty", ofOffice, onUnderlay), "e", "net1", macvlan), 11, "has none of 1 addresses", "waited")

	r.editPool(p.Name, func(s *v1alpha1.IPPoolSpec) {
		s.Subnets = []v1alpha1.PoolSubnet{{CIDR: "10.70.0.0/16", IPs: []string{"10.70.0.1"}}}
	})
	setPatience(t, time.Minute)
	if got := r.add(r.pod("one", ofOffice, onUnderlay), "o", "net1"); got != "10.70.0.1" {
		t.Errorf("%s", got)
	}
	setPatience(t, 300*time.Millisecond)
	r.refused(request(r.pod("full", ofOffice, onUnderlay), "f", "net1", macvlan), delegate.CodeExhausted, p.Name, "waited 300ms")

	r.ownedBy("apps/v1", "StatefulSet", "other")
	r.refused(request(r.pod("thief", nad.PoolAnnotation+"="+p.Name, onUnderlay), "t", "net1", macvlan), delegate.CodeNoPool, "alone", "db")
}

// TestWorkloadAboveAJob: a pod of a CronJob's Job has the CronJob's pool, by name, too.
func TestWorkloadAboveAJob(t *testing.T) {
	setPatience(t, time.Minute)
	r := newRig(t)
	yes := true
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "nightly-1", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "batch/v1", Kind: "CronJob", Name: "nightly", UID: "u", Controller: &yes}}}}
	job.Spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}
	job, err := r.kube.BatchV1().Jobs(r.name).Create(t.Context(), job, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := r.workloadPool("batch/v1", "CronJob", "nightly", 2, 2)
	r.ownedBy("batch/v1", "Job", job.Name)
	if got := r.add(r.pod("a", ofOffice, onUnderlay), "a", "net1"); got != "10.70.0.1" && got != "10.70.0.2" {
		t.Errorf("%s", got)
	}
	if got := r.add(r.pod("b", nad.PoolAnnotation+"="+p.Name, onUnderlay), "b", "net1"); got == "" {
		t.Error("no address")
	}
	owner := v1alpha1.PoolOwner{APIVersion: "batch/v1", Kind: "Job", Namespace: r.name, Name: job.Name}
	if above := r.owners.above[owner].owner; above.Name != "nightly" || above.Kind != "CronJob" {
		t.Errorf("above is %+v", above)
	}
	// A kind that nobody knows ends the chain.
	r.ownedBy("example.com/v1", "Ship", "s")
	setPatience(t, 300*time.Millisecond)
	r.refused(request(r.pod("c", ofOffice, onUnderlay), "c", "net1", macvlan), 11, "Ship "+r.name+"/s")
}
