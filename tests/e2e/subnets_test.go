package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/nad"
)

// condition waits until one of an object has these words, as "STATUS REASON: MESSAGE".
func (s *space) condition(o client.Object, conditions *[]metav1.Condition, kind string, words ...string) {
	s.Helper()
	eventually(s, patience, fmt.Sprintf("%s of %s is %q", kind, o.GetName(), words), func(ctx context.Context) error {
		if err := on.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		c := meta.FindStatusCondition(*conditions, kind)
		if c == nil {
			return errors.New("it has no such condition")
		}
		got := fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
		for _, w := range words {
			if !strings.Contains(got, w) {
				return errors.New(got)
			}
		}
		return nil
	})
}

// noted waits for an event about an object of the space.
func (s *space) noted(name, reason string, words ...string) {
	s.Helper()
	eventually(s, patience, fmt.Sprintf("event %s of %s with %q", reason, name, words), func(ctx context.Context) error {
		var list eventsv1.EventList
		if err := on.List(ctx, &list, client.InNamespace(s.name)); err != nil {
			return err
		}
		var seen []string
		for _, e := range list.Items {
			if e.Regarding.Name != name || e.Reason != reason {
				continue
			}
			missing := ""
			for _, w := range words {
				if !strings.Contains(e.Note, w) {
					missing = w
				}
			}
			if missing == "" {
				return nil
			}
			seen = append(seen, e.Note)
		}
		return fmt.Errorf("there are %q", seen)
	})
}

// setConfig of a network, as kubectl edit would.
func (s *space) setConfig(name, config string) {
	s.Helper()
	must(s, on.Patch(s.Context(), networkNamed(s.name, name), client.RawPatch("application/merge-patch+json",
		[]byte(fmt.Sprintf(`{"spec":{"config":%q}}`, config)))))
}

// TestSubnet: one of six addresses, used to the last. The next workload's pool and pod say why they get none, and get one once there are
// more. What is in use is neither cut off nor deleted, and the Subnet says whose it is. Its network is made, and mended; people's own networks
// are told what is wrong with them, and that it no longer is.
func TestSubnet(t *testing.T) {
	s := newSpace(t)
	cidr := func(first, length int) v1alpha1.SubnetCIDR {
		return v1alpha1.SubnetCIDR{CIDR: fmt.Sprintf("10.6.%d.%d/%d", s.third, first, length)}
	}
	total := &v1alpha1.Subnet{ObjectMeta: metaOf("", s.name)}
	total.Spec = v1alpha1.SubnetSpec{Network: s.name, Parent: "eth0", NodeAffinity: selector("zone", "a"),
		CIDRs: []v1alpha1.SubnetCIDR{cidr(0, 29)}, Attachments: &v1alpha1.Attachments{NamespaceSelector: selector("e2e", s.name)}}
	must(t, on.Create(t.Context(), total))
	size := int32(1)
	hand := &v1alpha1.IPPool{ObjectMeta: metaOf("", s.name), Spec: v1alpha1.IPPoolSpec{Network: s.name, Subnet: s.name, Size: &size}}
	t.Cleanup(func() {
		for _, o := range []client.Object{hand, total} {
			must(t, client.IgnoreNotFound(on.Delete(context.Background(), o)))
		}
	})
	ready := func(words ...string) {
		t.Helper()
		s.condition(total, &total.Status.Conditions, v1alpha1.SubnetReady, words...)
	}
	carve := func(cidrs ...v1alpha1.SubnetCIDR) {
		t.Helper()
		eventually(t, patience, "the plan is changed", func(ctx context.Context) error {
			must(t, on.Get(ctx, client.ObjectKeyFromObject(total), total))
			total.Spec.CIDRs = cidrs
			return on.Update(ctx, total)
		})
	}

	// Networks, before any pod.
	const config = `{"cniVersion": "1.0.0", "type": "macvlan", "master": "eth0", "mode": "bridge", "ipam": {"type": "berth", "ippools": [%q]}}`
	s.attachment("mode", map[string]any{"master": "eth0", "mode": "brigde", "ipam": map[string]any{"type": "berth", "ippools": []string{s.name}}})
	s.underlay("pool", map[string]any{"ippools": []string{s.name + "-x"}})
	for name, word := range map[string]string{
		s.name: fmt.Sprintf("ipam ippools: there is no pool %q; make it", s.name), // Berth's own
		"pool": fmt.Sprintf("ipam ippools: there is no pool %q; make it, or write the name of one that is there", s.name+"-x"),
		"mode": `mode "brigde" is none of macvlan's (bridge, private, vepa, passthru); write "mode": "bridge"`,
	} {
		s.problem(name, word)
		s.noted(name, "AttachmentProblem", word)
	}
	must(t, on.Create(t.Context(), hand))
	s.setConfig("mode", fmt.Sprintf(config, s.name))
	s.setConfig("pool", fmt.Sprintf(config, s.name))
	s.setConfig(s.name, "{}") // undone
	for _, name := range []string{s.name, "mode", "pool"} {
		s.noted(name, "AttachmentMended")
		eventually(t, patience, name+" has no problem", func(ctx context.Context) error {
			u := networkNamed(s.name, name)
			must(t, on.Get(ctx, client.ObjectKeyFromObject(u), u))
			spec, _ := u.Object["spec"].(map[string]any)
			if is, has := u.GetAnnotations()["berth.dev/problem"]; has || spec["config"] == "{}" {
				return fmt.Errorf("problem %q, config %v", is, spec["config"])
			}
			return nil
		})
	}

	// To the last address.
	one := s.pod("one", onNode(nodeA), note(networks, s.name))
	own := func(size string) podOption {
		return func(p *corev1.PodTemplateSpec) {
			note(networks, s.name)(p)
			note(nad.SubnetAnnotation, s.name)(p)
			note(nad.SizeAnnotation, size)(p)
		}
	}
	s.deployment("three", 3, onNode(nodeA), own("3"))
	s.deployment("two", 2, onNode(nodeA), own("2"))
	s.ready(one)
	s.readyPods("three", 3, patience)
	s.readyPods("two", 2, patience)
	full := s.bound()
	for last := 1; last <= 6; last++ {
		if l, ok := full[s.addr4("a", last)]; !ok || len(full) != 6 {
			t.Errorf("%s is %+v; bound are %d", s.addr4("a", last), l.Spec, len(full))
		}
	}
	eventually(t, patience, "none is free", func(ctx context.Context) error {
		must(t, on.Get(ctx, client.ObjectKeyFromObject(total), total))
		if c := total.Status.IPv4; c == nil || c.Free != "0" || c.Carved != "6" {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	s.deployment("late", 1, onNode(nodeA), own("1"))
	late := &v1alpha1.IPPool{ObjectMeta: metaOf("", s.poolOfWorkload("apps/v1", "Deployment", "late"))}
	short := fmt.Sprintf("wants 1 IPv4 addresses more of subnet %q, in which 0 are free", s.name)
	s.condition(late, &late.Status.Conditions, v1alpha1.PoolCarved, "False SubnetExhausted", short)
	var pods corev1.PodList
	eventually(t, patience, "the late pod is made", func(ctx context.Context) error {
		must(t, on.List(ctx, &pods, client.InNamespace(s.name), client.MatchingLabels{"app": "late"}))
		if len(pods.Items) != 1 {
			return fmt.Errorf("%d pods", len(pods.Items))
		}
		return nil
	})
	s.refused(&pods.Items[0], short)

	// What is in use is not cut off.
	ready("True Serving")
	carve(cidr(0, 30))
	ready("False CarvedOutside", "has 10.6.", "allow it again, or delete these first")
	if got := s.bound(); len(got) != 6 {
		t.Errorf("bound are %d addresses", len(got))
	}
	carve(cidr(0, 29), cidr(8, 30))
	ready("True Serving")
	s.readyPods("late", 1, patience)

	// Nor is the Subnet deleted, before its pools.
	must(t, on.Delete(t.Context(), total))
	ready("False WaitsForPools", fmt.Sprintf("pool %q", s.name), fmt.Sprintf("pool %q", late.Name), "delete these")
	if got := s.bound(); len(got) != 7 {
		t.Errorf("bound are %d addresses", len(got))
	}
	must(t, on.Delete(t.Context(), one))
	must(t, on.Delete(t.Context(), hand))
	for _, name := range []string{"one", "three", "two", "late"} {
		if _, err := kubectl(t, "", "-n", s.name, "delete", "deployment", name, "--ignore-not-found", "--wait=false"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, returned, "the Subnet is gone", func(ctx context.Context) error {
		if exists(ctx, total) {
			return fmt.Errorf("%+v", total.Status)
		}
		return nil
	})
	gone(t, networkNamed(s.name, s.name))
}

// TestVLAN: a pool of a VLAN serves interfaces on that VLAN and no others, before any address is taken. The lab's kernel has no VLAN links; so
// the nodes' links are access ports, by annotation.
func TestVLAN(t *testing.T) {
	s := newSpace(t)
	s.underlay("underlay", nil)
	of := func(id int32) func(*v1alpha1.IPPoolSpec) { return func(p *v1alpha1.IPPoolSpec) { p.VLAN = &id } }
	right, wrong := s.pool("right", s.ranges("a", 1, 5), of(910)), s.pool("wrong", s.ranges("a", 11, 15), of(911))
	access := func(n node, value string) {
		t.Helper()
		_, err := kubectl(t, "", "annotate", "--overwrite", "node", string(n), nad.AccessVLANsAnnotation+value)
		must(t, err)
	}
	t.Cleanup(func() {
		for _, n := range nodes {
			access(n, "-")
		}
	})
	access(nodeA, "=eth0=910")
	p := s.start("right", onNode(nodeA), secondOf(right))
	other := s.pod("wrong", onNode(nodeA), secondOf(wrong))
	untold := s.pod("untold", onNode(nodeB), secondOf(right))
	s.refused(other, fmt.Sprintf("pool %q is of VLAN 911, and the interface's parent eth0 is on VLAN 910; name a pool of VLAN 910, or a network whose master is on VLAN 911", wrong))
	s.refused(untold, fmt.Sprintf(`pool %q is of VLAN 910, and the interface's parent eth0 is no VLAN link`, right), "eth0=910")
	addrs, _ := s.boundTo(p, "net1")
	if got := s.bound(); len(got) != 2 || len(addrs) != 2 {
		t.Errorf("the pod has %v; bound are %v", addrs, got)
	}
	for _, n := range nodes {
		for a := range n.inPods(t) {
			for last := 11; last <= 15; last++ {
				if a == s.addr4("a", last) {
					t.Errorf("%s is on an interface of a pod of %s", a, n)
				}
			}
		}
	}
	access(nodeB, "=eth0=910") // and what mends it lets the pod start
	s.ready(untold)
	access(nodeA, "=eth0=911")
	s.ready(other)
	if got := s.poolOf(other, "net1"); got != wrong {
		t.Errorf("an address of pool %s", got)
	}
}
