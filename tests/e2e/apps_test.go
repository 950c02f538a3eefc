package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// TestWorkloadPools: pools that follow a Deployment from 1 to 50 pods and back to 3, through rolling updates with an address for each replica
// and one of surge, a StatefulSet, and a CronJob; and when all is deleted, nothing of the Subnet is anybody's.
func TestWorkloadPools(t *testing.T) {
	s := newOwnSpace(t)
	s.underlay("underlay", nil)
	subnet := &v1alpha1.Subnet{ObjectMeta: metaOf("", s.name)}
	subnet.Spec.Network = s.name
	subnet.Spec.CIDRs = []v1alpha1.SubnetCIDR{{CIDR: fmt.Sprintf("10.6.%d.0/24", s.third)}}
	must(t, on.Create(t.Context(), subnet))
	t.Cleanup(func() { // the rest of it goes by itself, once what was given up has returned
		if err := on.Delete(context.Background(), subnet); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	own := func(p *corev1.PodTemplateSpec) {
		note(networks, "underlay")(p)
		note(nad.SubnetAnnotation, s.name)(p)
	}

	typo := s.pod("typo", note(networks, "underlay"), note("berth.dev/subnett", s.name))
	s.refused(typo, "berth.dev/subnett", "correct it to berth.dev/subnet")
	bare := s.pod("bare", own)
	s.refused(bare, "nothing controls the pod")
	remove(t, typo)
	remove(t, bare)

	d := &appsv1.Deployment{ObjectMeta: metaOf(s.name, "web")}
	one, none := intstr.FromInt32(1), intstr.FromInt32(0)
	d.Spec = appsv1.DeploymentSpec{Replicas: new(int32(1)), Selector: selector("app", "web"), Template: template("web", own),
		Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &none}}}
	must(t, on.Create(t.Context(), d))
	web := s.poolOfWorkload("apps/v1", "Deployment", "web")
	s.readyPods("web", 1, patience)
	s.sized(web, 2)

	s.scale("web", 50)
	s.readyPods("web", 50, crowd)
	s.sized(web, 51)
	s.within(web, 50)

	s.scale("web", 3)
	s.readyPods("web", 3, crowd)
	s.sized(web, 4)
	for range 2 {
		for _, args := range [][]string{{"restart"}, {"status", "--timeout=4m"}} {
			if _, err := kubectl(t, "", append([]string{"-n", s.name, "rollout", args[0], "deployment/web"}, args[1:]...)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.readyPods("web", 3, patience)
	s.sized(web, 4)
	s.within(web, 3)

	set := s.statefulSet("db", 3, own)
	s.readyPods("db", 3, patience)
	db := s.poolOfWorkload("apps/v1", "StatefulSet", "db")
	s.sized(db, 3)
	before := s.addressesIn(db)
	s.deletePods("db")
	s.readyPods("db", 3, patience)
	if after := s.addressesIn(db); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the StatefulSet's addresses were %v, are %v", before, after)
	}

	cron := &batchv1.CronJob{ObjectMeta: metaOf(s.name, "nightly")}
	cron.Spec.Schedule, cron.Spec.JobTemplate.Spec.Template = "0 0 1 1 *", template("nightly", own)
	cron.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	must(t, on.Create(t.Context(), cron))
	nightly := s.poolOfWorkload("batch/v1", "CronJob", "nightly")
	s.sized(nightly, 1)
	if _, err := kubectl(t, "", "-n", s.name, "create", "job", "--from=cronjob/nightly", "now"); err != nil {
		t.Fatal(err)
	}
	s.readyPods("nightly", 1, patience)
	s.sized(nightly, 2)
	s.within(nightly, 1)

	for _, o := range []client.Object{d, set, cron} {
		must(t, on.Delete(t.Context(), o, client.PropagationPolicy("Background")))
	}
	for _, name := range []string{web, db, nightly} {
		gone(t, &v1alpha1.IPPool{ObjectMeta: metaOf("", name)})
	}
	eventually(t, patience, "the Subnet has back what was carved", func(ctx context.Context) error {
		if err := on.Get(ctx, client.ObjectKeyFromObject(subnet), subnet); err != nil {
			return err
		}
		if c := subnet.Status.IPv4; c == nil || c.Carved != "0" {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}

// poolOfWorkload by the name that the controller gives it.
func (s *space) poolOfWorkload(apiVersion, kind, name string) string {
	return nad.PoolName(v1alpha1.PoolOwner{APIVersion: apiVersion, Kind: kind, Namespace: s.name, Name: name}, "", "net1", s.name)
}

// sized waits until a pool has this size, and so many addresses.
func (s *space) sized(pool string, size int) {
	s.Helper()
	eventually(s, patience, fmt.Sprintf("pool %s has %d addresses", pool, size), func(ctx context.Context) error {
		var p v1alpha1.IPPool
		if err := on.Get(ctx, client.ObjectKey{Name: pool}, &p); err != nil {
			return err
		}
		c, err := ipam.Compile(&p)
		if err != nil {
			return err
		}
		if n := c.Ranges(ipam.IPv4).Count(); p.Spec.Size == nil || int(*p.Spec.Size) != size || n.Int64() != int64(size) {
			return fmt.Errorf("size %v, %s addresses", p.Spec.Size, n)
		}
		return nil
	})
}

// addressesIn a pool that are bound, by pod.
func (s *space) addressesIn(pool string) map[string]netip.Addr {
	s.Helper()
	out := map[string]netip.Addr{}
	leases, err := s.leases(s.Context())
	must(s, err)
	for _, l := range leases {
		if l.Spec.Pool == pool && l.Spec.Phase == v1alpha1.LeaseBound {
			out[l.Spec.Holder.Pod] = netip.MustParseAddr(l.Spec.Address)
		}
	}
	return out
}

// within a pool are the addresses of n pods, and each has another.
func (s *space) within(pool string, n int) {
	s.Helper()
	eventually(s, patience, fmt.Sprintf("%d pods have addresses of pool %s", n, pool), func(ctx context.Context) error {
		var p v1alpha1.IPPool
		if err := on.Get(ctx, client.ObjectKey{Name: pool}, &p); err != nil {
			return err
		}
		c, err := ipam.Compile(&p)
		if err != nil {
			return err
		}
		seen := map[netip.Addr]bool{}
		for pod, a := range s.addressesIn(pool) {
			if !c.Contains(a) || seen[a] {
				return fmt.Errorf("pod %s has %s", pod, a)
			}
			seen[a] = true
		}
		if len(seen) != n {
			return fmt.Errorf("%d pods have one", len(seen))
		}
		return nil
	})
}
