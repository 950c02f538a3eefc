package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// TestStatefulSet: its pods keep their addresses by name, through deletion, drain, scale down and up; nobody else gets them, even when
// the pool has no other; with the StatefulSet they are free.
func TestStatefulSet(t *testing.T) {
	s := newOwnSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("pool", s.ranges("a", 1, 4))
	sts := s.statefulSet("web", 3, secondOf(pool))
	before := s.byName("web", 3)

	must(t, on.Delete(t.Context(), &corev1.Pod{ObjectMeta: metaOf(s.name, "web-1")}))
	s.sameByName(before, "web-1 was deleted", 3)

	from := s.nodeOf("web-0")
	defer func() { _, _ = kubectl(t, "", "uncordon", string(from)) }()
	if _, err := kubectl(t, "", "drain", string(from), "--pod-selector=app=web", "--ignore-daemonsets", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	s.sameByName(before, string(from)+" was drained", 3)
	if now := s.nodeOf("web-0"); now == from {
		t.Errorf("web-0 is on the drained node %s", now)
	}
	if _, err := kubectl(t, "", "uncordon", string(from)); err != nil {
		t.Fatal(err)
	}

	s.scaleSet(sts, 1)
	s.readyPods("web", 1, patience)
	s.reserved(4) // both families of web-1 and web-2
	s.start("fourth", onNode(nodeA), secondOf(pool))
	late := s.pod("late", onNode(nodeB), secondOf(pool))
	s.refused(late, `pool "`+pool+`" has no free address`)
	s.scaleSet(sts, 3)
	s.sameByName(before, "the StatefulSet was scaled down and up", 3)

	must(t, on.Delete(t.Context(), sts))
	s.ready(late) // once the controller has seen twice that the StatefulSet is gone
	s.reserved(0)
}

// TestRollout: a Deployment whose pool has exactly as many addresses as it may have pods at a time can be rolled out again and again.
func TestRollout(t *testing.T) {
	s := newSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("exact", s.ranges("a", 1, 4))
	d := s.deployment("app", 3, secondOf(pool)) // 3 and one of surge
	s.readyPods("app", 3, patience)
	for range 3 {
		for _, args := range [][]string{{"restart"}, {"status", "--timeout=2m"}} {
			if _, err := kubectl(t, "", append([]string{"-n", s.name, "rollout", args[0], "deployment/" + d.Name}, args[1:]...)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.readyPods("app", 3, patience)
	s.sameEverywhere(3)
}

// TestChosen: addresses that a person has chosen, on the template of a Deployment and of a StatefulSet, and by a reservation.
func TestChosen(t *testing.T) {
	s := newSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("pool", s.ranges("a", 1, 50))
	listed := func(from, to int) (out []netip.Addr, annotation string) {
		var text []string
		for i := from; i <= to; i++ {
			out = append(out, s.addr4("a", i), s.addr6("a", i))
			text = append(text, s.addr4("a", i).String(), s.addr6("a", i).String())
		}
		return out, strings.Join(text, ", ")
	}

	ofTemplate, annotation := listed(11, 13)
	d := s.deployment("app", 0, secondOf(pool), note("berth.dev/ips", annotation))
	s.scale(d.Name, 3)
	s.readyPods("app", 3, patience)
	for a := range s.bound() {
		if !slices.Contains(ofTemplate, a) {
			t.Errorf("a pod of the Deployment has %s, want one of %v", a, ofTemplate)
		}
	}
	s.scale(d.Name, 4)
	s.event(s.pending("app"), "AddressNotAssigned", "none of the", "asked for is free")
	s.scale(d.Name, 0)

	_, annotation = listed(21, 22)
	s.statefulSet("set", 3, secondOf(pool), note("berth.dev/ips", annotation))
	for i := range 2 {
		name := fmt.Sprint("set-", i)
		p := s.ready(&corev1.Pod{ObjectMeta: metaOf(s.name, name)})
		want := fmt.Sprint([]netip.Addr{s.addr4("a", 21+i), s.addr6("a", 21+i)})
		if got, _ := s.boundTo(p, "net1"); fmt.Sprint(got) != want {
			t.Errorf("%s has %v, want %s", name, got, want)
		}
	}
	third := &corev1.Pod{ObjectMeta: metaOf(s.name, "set-2")}
	eventually(t, patience, "the third pod is made", func(ctx context.Context) error { return on.Get(ctx, client.ObjectKeyFromObject(third), third) })
	s.refused(third, "berth.dev/ips", "ordinal 2")

	// An operator's reservation is one object.
	kept := s.addr4("a", 31)
	manifest := fmt.Sprintf(`{apiVersion: berth.dev/v1alpha1, kind: IPLease, metadata: {name: default.%[1]s}, spec: {network: default, address: %[1]s,
pool: %[2]s, phase: Reserved, identity: {kind: Pod, namespace: %[3]s, name: gateway}}}`, kept, pool, s.name)
	if _, err := kubectl(t, manifest, "create", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	defer remove(t, &v1alpha1.IPLease{ObjectMeta: metaOf("", "default."+kept.String())})
	eventually(t, patience, "the controller has labelled the reservation, by which agents see it", func(ctx context.Context) error {
		var l v1alpha1.IPLease
		if err := on.Get(ctx, client.ObjectKey{Name: "default." + kept.String()}, &l); err != nil || l.Labels[v1alpha1.LabelPool] != pool {
			return fmt.Errorf("labels %v, %w", l.Labels, err)
		}
		return nil
	})
	for range 2 {
		p := s.start("gateway", onNode(nodeB), secondOf(pool))
		if got, _ := s.boundTo(p, "net1"); len(got) != 2 || got[0] != kept {
			t.Errorf("gateway has %v, want %s, which is reserved for it", got, kept)
		}
		remove(t, p)
	}
	var lease v1alpha1.IPLease
	eventually(t, patience, "the reservation is one again", func(ctx context.Context) error {
		if err := on.Get(ctx, client.ObjectKey{Name: "default." + kept.String()}, &lease); err != nil {
			return err
		}
		if lease.Spec.Phase != v1alpha1.LeaseReserved {
			return fmt.Errorf("it is %s", lease.Spec.Phase)
		}
		return nil
	})
}

// TestPairs: a paired pool gives both families at the same offset, to the last pair.
func TestPairs(t *testing.T) {
	s := newSpace(t)
	s.underlay("underlay", nil)
	const n = 6
	v4, v6 := s.v4("a", 0, 0), s.v6("a", 0, 0)
	v4.CIDR, v4.IPs, v4.Gateway, v4.Routes = fmt.Sprintf("10.6.%d.0/24", s.third), []string{s.addr4("a", 1).String() + "-" + s.addr4("a", n).String()}, "", nil
	v6.CIDR, v6.IPs, v6.Gateway, v6.Routes = fmt.Sprintf("fd00:6::%x:0/120", s.third), nil, "", nil
	pool := s.pool("pairs", []v1alpha1.PoolSubnet{v4, v6}, func(p *v1alpha1.IPPoolSpec) { p.Pairing = v1alpha1.PairingIndex })
	s.deployment("app", n, secondOf(pool))
	for range 2 {
		pods := s.readyPods("app", n, patience)
		for i := range pods {
			got, _ := s.boundTo(&pods[i], "net1")
			if len(got) != 2 || got[0].As4()[3] != got[1].As16()[15] {
				t.Errorf("pod %s has %v, no pair", pods[i].Name, got)
			}
		}
		s.deletePods("app")
	}
}

func (s *space) statefulSet(name string, replicas int32, options ...podOption) *appsv1.StatefulSet {
	s.Helper()
	set := &appsv1.StatefulSet{
		ObjectMeta: metaOf(s.name, name),
		Spec: appsv1.StatefulSetSpec{Replicas: &replicas, Selector: selector("app", name), Template: template(name, options...),
			PodManagementPolicy: appsv1.ParallelPodManagement},
	}
	must(s, on.Create(s.Context(), set))
	return set
}

func (s *space) scaleSet(set *appsv1.StatefulSet, replicas int32) {
	s.Helper()
	patch := client.MergeFrom(set.DeepCopy())
	set.Spec.Replicas = &replicas
	must(s, on.Patch(s.Context(), set, patch))
}

// byName returns the addresses of n ready pods of an app.
func (s *space) byName(app string, n int) map[string]string {
	s.Helper()
	out := map[string]string{}
	pods := s.readyPods(app, n, patience)
	for i := range pods {
		addrs, _ := s.boundTo(&pods[i], "net1")
		out[pods[i].Name] = fmt.Sprint(addrs)
	}
	return out
}

func (s *space) sameByName(want map[string]string, after string, n int) {
	s.Helper()
	for name, addrs := range s.byName("web", n) {
		if addrs != want[name] {
			s.Fatalf("after %s, %s has %s, and had %s", after, name, addrs, want[name])
		}
	}
}

func (s *space) nodeOf(pod string) node {
	s.Helper()
	var p corev1.Pod
	must(s, on.Get(s.Context(), client.ObjectKey{Namespace: s.name, Name: pod}, &p))
	return node(p.Spec.NodeName)
}

// pending pod of an app.
func (s *space) pending(app string) (out *corev1.Pod) {
	s.Helper()
	eventually(s, patience, "a pod of "+app+" is pending", func(ctx context.Context) error {
		var list corev1.PodList
		if err := on.List(ctx, &list, client.InNamespace(s.name), client.MatchingLabels{"app": app}); err != nil {
			return err
		}
		for i := range list.Items {
			if list.Items[i].Status.Phase == corev1.PodPending && metav1.GetControllerOf(&list.Items[i]) != nil {
				out = &list.Items[i]
				return nil
			}
		}
		return fmt.Errorf("none of %d is", len(list.Items))
	})
	return out
}

// reserved waits until n leases of the space are.
func (s *space) reserved(n int) {
	s.Helper()
	eventually(s, patience, fmt.Sprintf("%d leases are Reserved", n), func(ctx context.Context) error {
		all, err := s.leases(ctx)
		if err != nil {
			return err
		}
		got := 0
		for _, l := range all {
			if l.Spec.Phase == v1alpha1.LeaseReserved {
				got++
			}
		}
		if got != n {
			return fmt.Errorf("%d are", got)
		}
		return nil
	})
}
