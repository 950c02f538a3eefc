//go:build apiserver

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/nad"
)

// netspace for the test, seen by the agent if there is one.
func (r *rig) netspace(name, spec string) {
	r.Helper()
	c, err := v1alpha1.NewNetspaceClient(r.cfg)
	if err != nil {
		r.Fatal(err)
	}
	n := &v1alpha1.Netspace{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-" + name}}
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(spec, "$", r.name)), &n.Spec); err != nil {
		r.Fatal(err)
	}
	if _, err := c.Create(r.Context(), n, metav1.CreateOptions{}); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := c.Delete(context.Background(), n.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			r.Error(err)
		}
	})
	apitest.Eventually(r, "netspace "+n.Name+" is seen", func() error {
		if all, _ := r.netspaces.all(); all.Named(n.Name) == nil {
			return errors.New("not yet")
		}
		return nil
	})
}

func (r *rig) deleteNetspace(name string) {
	r.Helper()
	c, err := v1alpha1.NewNetspaceClient(r.cfg)
	if err == nil {
		err = c.Delete(r.Context(), r.name+"-"+name, metav1.DeleteOptions{})
	}
	if err != nil {
		r.Fatal(err)
	}
	apitest.Eventually(r, "the netspace is seen to be gone", func() error {
		if all, _ := r.netspaces.all(); all.Named(r.name+"-"+name) != nil {
			return errors.New("not yet")
		}
		return nil
	})
}

// A pod gets nothing of another's, whatever it asks for, and is told why; nothing is claimed on the way.
func TestIsolation(t *testing.T) {
	r := newRig(t,
		`shared: {default: true, subnets: [{cidr: 10.1.0.0/24}]}`,
		`named: {subnets: [{cidr: 10.2.0.0/24}]}`)
	web := &metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-6d4f", UID: "u", Controller: new(bool)}
	*web.Controller = true
	r.pool("web", fmt.Sprintf("{owner: {apiVersion: apps/v1, kind: ReplicaSet, namespace: %s, name: web-6d4f}, subnets: [{cidr: 10.3.0.0/24}]}", r.name))
	r.netspace("a", "{}")
	r.netspace("closed", "{guests: Refuse}")
	r.pool("a", fmt.Sprintf("{netspace: %s-a, subnets: [{cidr: 10.4.0.0/24}]}", r.name))
	r.pool("b", fmt.Sprintf("{netspace: %s-b, subnets: [{cidr: 10.5.0.0/24}]}", r.name))
	r.awaitPools(5)

	n := 0
	check := func(want string, code uint, message string, annotations ...string) {
		t.Helper()
		n++
		name := fmt.Sprintf("p%d", n)
		p := r.pod(name, annotations...)
		if want != "" {
			if got := r.add(p, "s-"+name, "net1"); !strings.HasPrefix(got, want) {
				t.Errorf("%v: %s, want one of %s", annotations, got, want)
			}
			r.del(p, "s-"+name, "net1")
			return
		}
		r.refused(request(p, "s-"+name, "net1", macvlan), code, strings.ReplaceAll(message, "$", r.name+"-"))
		r.event(name, "AddressNotAssigned", strings.ReplaceAll(message, "$", r.name+"-"))
		r.wantBound()
	}
	// A pod of nothing.
	check("10.1.", 0, "")
	check("10.2.", 0, "", "berth.dev/ippool=$named")
	check("", 100, `pool "$a" is of netspace "$a", and pod`, "berth.dev/ippool=$a")
	check("", 100, `pool "$web" is of ReplicaSet`, "berth.dev/ippool=$web")
	check("10.2.", 0, "", "berth.dev/ippool=$a,$web,$named")
	check("", 103, "10.4.0.9 asked for", "berth.dev/ippool=$named", "berth.dev/ips=10.4.0.9")
	check("", 100, "is of netspace", `berth.dev/ippools=net1=$b`, "k8s.v1.cni.cncf.io/networks=vlan910")
	// A guest.
	check("10.4.", 0, "", "berth.dev/netspace=$a")
	check("10.4.", 0, "", "ipam.com/netspace=$a")
	check("", 100, `pool "$b" is of netspace "$b", and pod "`+r.name+`/p10" is of netspace "$a"`, "berth.dev/netspace=$a", "berth.dev/ippool=$b")
	check("", 100, `pool "$shared" is of no netspace, and pod`, "berth.dev/netspace=$a", "berth.dev/ippool=$shared")
	check("", 103, `netspace "$closed" serves no guests`, "berth.dev/netspace=$closed")
	check("", 103, `pod annotation ipam.com/netspace "$nowhere": not of the netspace: netspace "$nowhere" does not exist`, "ipam.com/netspace=$nowhere")
	check("", 103, "is no name of a Netspace", "berth.dev/netspace=Team A")
	// A pod of the workload.
	r.owner = web
	check("10.3.", 0, "", "berth.dev/ippool=$web")
	check("10.1.", 0, "")
	check("", 100, "is of no netspace", "berth.dev/ippool=$web", "berth.dev/netspace=$a")
	r.owner = nil

	// What an interface has it keeps when its namespace becomes another's; a new one does not get it.
	held := r.pod("held", "berth.dev/ippool=$named")
	was := r.add(held, "s1", "net1")
	r.netspace("owner", "namespaces: [$]")
	r.pool("owner", fmt.Sprintf("{netspace: %s-owner, subnets: [{cidr: 10.7.0.0/24}]}", r.name))
	r.awaitPools(6)
	if got := r.add(held, "s2", "net1"); got != was {
		t.Errorf("made anew: %s, was %s", got, was)
	}
	r.del(held, "s2", "net1")
	check("10.7.", 0, "")
	check("10.7.", 0, "", "berth.dev/netspace=$owner")
	check("", 103, `namespace "`+r.name+`" is of netspace "$owner", whose pods no other serves; write "$owner"`, "berth.dev/netspace=$a")
	check("", 100, "is of no netspace", "berth.dev/ippool=$named")
	r.deleteNetspace("owner")
	check("10.1.", 0, "")
	check("", 100, `pool "$owner" is of netspace`, "berth.dev/ippool=$owner")
}

// awaitPools until the agent knows that many of this test.
func (r *rig) awaitPools(n int) {
	r.Helper()
	apitest.Eventually(r, "the pools are seen", func() error {
		seen := 0
		for _, p := range r.pools.all() {
			if p.Network == r.name {
				seen++
			}
		}
		if seen != n {
			return fmt.Errorf("%d", seen)
		}
		return nil
	})
}

// Leases of workloads' pools are followed where a pod of the workload is, not everywhere.
func TestApplicationPoolsAreFollowedWhereWanted(t *testing.T) {
	r := newRig(t)
	r.pool("web", fmt.Sprintf("{owner: {apiVersion: apps/v1, kind: StatefulSet, namespace: %s, name: web}, subnets: [{cidr: 10.3.0.0/24}]}", r.name))
	r.pool("db", fmt.Sprintf("{owner: {apiVersion: apps/v1, kind: StatefulSet, namespace: %s, name: db}, subnets: [{cidr: 10.4.0.0/24}]}", r.name))
	r.awaitPools(2)
	if r.store.Followed(r.name+"-web") || r.store.Followed(r.name+"-db") {
		t.Error("followed without a pod")
	}
	yes := true
	r.owner = &metav1.OwnerReference{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", UID: "u", Controller: &yes}
	p := r.pod("web-0", "berth.dev/ippool=$web")
	apitest.Eventually(t, "the pool is followed", func() error {
		if !r.store.Followed(r.name + "-web") {
			return errors.New("not yet")
		}
		return nil
	})
	if got := r.add(p, "s1", "net1"); !strings.HasPrefix(got, "10.3.") {
		t.Error(got)
	}
	if r.store.Followed(r.name + "-db") {
		t.Error("the other is followed, too")
	}
}

// fakeLinks of a node.
type fakeLinks map[string][2]int32

func (f fakeLinks) VLAN(name string) (int32, int32, error) {
	v, ok := f[name]
	if !ok {
		return 0, 0, fmt.Errorf("link %q does not exist on this node", name)
	}
	return v[0], v[1], nil
}

// A pool with a VLAN serves what is on it, and says of anything else why not, before an address is claimed.
func TestVLANBinding(t *testing.T) {
	r := newRig(t, `a: {vlan: 910, subnets: [{cidr: 10.6.0.0/24}]}`, `any: {subnets: [{cidr: 10.7.0.0/24}]}`)
	r.links = fakeLinks{"eth0.910": {910}, "eth0.911": {911}, "eth1": {}, "eth2": {}, "qinq": {910, 100}}
	annotate := func(value string) {
		t.Helper()
		patch := fmt.Sprintf(`{"metadata": {"annotations": {%q: %q}}}`, nad.AccessVLANsAnnotation, value)
		if _, err := r.kube.CoreV1().Nodes().Patch(t.Context(), r.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		apitest.Eventually(t, "the annotation is seen", func() error {
			if r.Agent.pods.thisNode().Annotations[nad.AccessVLANsAnnotation] != value {
				return errors.New("not yet")
			}
			return nil
		})
	}
	conf := func(s string) string {
		return `{"cniVersion": "1.1.0", "name": "x", "ipam": {"type": "berth"}, ` + s + `}`
	}
	annotate("eth1=910,eth0.911=910")
	for i, tc := range []struct{ name, conf, want string }{
		{"its VLAN link", `"type": "macvlan", "master": "eth0.910"`, ""},
		{"ipvlan", `"type": "ipvlan", "master": "eth0.910"`, ""},
		{"passthru", `"type": "macvlan", "mode": "passthru", "master": "eth0.910"`, ""},
		{"an access port", `"type": "macvlan", "master": "eth1"`, ""},
		{"another VLAN, whatever the annotation says", `"type": "macvlan", "master": "eth0.911"`,
			"is of VLAN 910, and the interface's parent eth0.911 is on VLAN 911; name a pool of VLAN 911, or a network whose master is on VLAN 910"},
		{"a VLAN in a VLAN", `"type": "macvlan", "master": "qinq"`, "the interface's parent qinq is VLAN 910 within VLAN 100"},
		{"a link of which nothing is said", `"type": "macvlan", "master": "eth2"`,
			`the interface's parent eth2 is no VLAN link; name a master that is, such as eth2.910, or say of an access port which VLAN it is on: node annotation berth.dev/access-vlans: "eth2=910"`},
		{"no such link", `"type": "macvlan", "master": "eth9"`, `the interface's parent is not known: link "eth9" does not exist`},
		{"a bridge", `"type": "bridge", "bridge": "br0"`, "the interface is of type bridge, which has no parent link; use macvlan or ipvlan with a master on that VLAN"},
		{"ptp", `"type": "ptp"`, "the interface is of type ptp, which has no parent link"},
		{"a parent in the pod", `"type": "macvlan", "linkInContainer": true, "master": "eth0.910"`, "the interface's parent is in the pod's own namespace"},
		{"no master", `"type": "tap"`, "the network configuration (type tap) names no master"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := r.pod(fmt.Sprintf("p%d", i), "berth.dev/ippool=$a")
			req := request(p, "s1", "net1", conf(tc.conf))
			if tc.want != "" {
				r.refused(req, delegate.CodeNoPool, tc.want)
				r.event(p.Name, "AddressNotAssigned", tc.want)
				r.wantBound()
				return
			}
			if _, err := r.call(t.Context(), delegate.PathAdd, req); err != nil {
				t.Fatal(err)
			}
			if _, err := r.call(t.Context(), delegate.PathDel, req); err != nil {
				t.Fatal(err)
			}
		})
	}
	annotate("eth1")
	p := r.pod("typo", "berth.dev/ippool=$a")
	r.refused(request(p, "s1", "net1", conf(`"type": "macvlan", "master": "eth1"`)), delegate.CodeNoPool,
		"the interface's parent eth1 is no VLAN link; node annotation berth.dev/access-vlans: `eth1`", "write LINK=VLAN")
	p = r.pod("elsewhere", "berth.dev/ippool=$a,$any") // a pool of any VLAN does not mind
	if _, err := r.call(t.Context(), delegate.PathAdd, request(p, "s1", "net1", conf(`"type": "macvlan", "master": "eth2"`))); err != nil {
		t.Error(err)
	}
}

// Where Netspaces cannot be read, an agent goes by those that it knew; one that knew none gives no new address if there are tenants.
func TestNetspacesUnread(t *testing.T) {
	r := newRig(t, `shared: {default: true, subnets: [{cidr: 10.1.0.0/24}]}`)
	r.stop()
	r.conf.Journal = r.socket + ".journal"
	r.start()
	r.netspace("mine", "namespaces: [$]")
	r.pool("mine", fmt.Sprintf("{netspace: %s-mine, subnets: [{cidr: 10.4.0.0/24}]}", r.name))
	r.awaitPools(2)
	held := r.pod("held")
	was := r.add(held, "s1", "net1")
	if !strings.HasPrefix(was, "10.4.") {
		t.Fatal(was)
	}
	for _, code := range []int{403, 404} {
		r.stop()
		r.faults.Refuse("/netspaces", code)
		r.start()
		if got := r.add(r.pod(fmt.Sprintf("known-%d", code)), fmt.Sprintf("k%d", code), "net1"); !strings.HasPrefix(got, "10.4.") {
			t.Errorf("%d: %s, though its netspace was known", code, got)
		}
		r.refused(request(r.pod(fmt.Sprintf("other-%d", code), "berth.dev/netspace="+r.name+"-other"), fmt.Sprintf("o%d", code), "net1", macvlan), 103,
			"whose pods no other serves")
	}
	// Nothing is known any more.
	r.stop()
	r.conf.Journal = r.socket + ".new"
	r.start()
	for _, annotations := range [][]string{nil, {"berth.dev/ippool=$shared"}, {"berth.dev/netspace=$mine"}} {
		p := r.pod("fresh", annotations...)
		r.refused(request(p, "f", "net1", macvlan), 11, "Netspaces cannot be read", "says the test", "apply the deploy/install.yaml of this version of Berth")
		r.deletePod("fresh")
	}
	r.faults.Refuse("/netspaces", 0)
	apitest.Eventually(t, "they are read again", func() error {
		_, err := r.netspaces.all()
		return err
	})
	if got := r.add(r.pod("again"), "a", "net1"); !strings.HasPrefix(got, "10.4.") {
		t.Error(got)
	}
}

// A cluster without Netspaces is as it was before there were any.
func TestWithoutNetspaces(t *testing.T) {
	r := newRig(t, `shared: {default: true, subnets: [{cidr: 10.1.0.0/24}]}`)
	r.stop()
	r.faults.Refuse("/netspaces", 404)
	r.start()
	if tenants := r.pools.anyNetspace(); tenants != "" {
		t.Skipf("another test's pool %s is there", tenants)
	}
	if got := r.add(r.pod("web"), "s1", "net1"); !strings.HasPrefix(got, "10.1.") {
		t.Error(got)
	}
	r.refused(request(r.pod("tenant", "berth.dev/netspace=a"), "s2", "net1", macvlan), 11, "names one, but Netspaces cannot be read")
}

// The service path knows whose a pod is before it is made, also after a restart of the agent, and keeps that for one without the API.
func TestTenantsAreTold(t *testing.T) {
	r := newRig(t)
	r.stop()
	r.conf.Journal = r.socket + ".journal"
	r.start()
	r.netspace("a", "{}")
	r.pool("a", fmt.Sprintf("{netspace: %s-a, subnets: [{cidr: 10.4.0.0/30}]}", r.name))
	r.awaitPools(1)
	told := func() string {
		r.path.mu.Lock()
		defer r.path.mu.Unlock()
		return fmt.Sprint(r.path.tenants.Ranges[r.name+"-a"], r.path.tenants.Of["eth0"])
	}
	want := fmt.Sprintf("[{10.4.0.1 10.4.0.2}] [%s-a]", r.name)
	atAttach := ""
	r.path.setOnAttach(func() error { atAttach = told(); return nil })
	p := r.pod("web", "berth.dev/netspace=$a")
	r.add(p, "s1", "net1")
	if atAttach != want {
		t.Errorf("at Attach: %s, want %s", atAttach, want)
	}
	r.stop()
	r.start()
	if got := told(); got != want {
		t.Errorf("after a restart: %s, want %s", got, want)
	}
	r.stop()
	r.faults.SetAway(true)
	r.launch()
	if got := told(); got != want {
		t.Errorf("without the API: %s, want %s", got, want)
	}
	r.faults.SetAway(false)
	r.awaitAgent()
	r.del(p, "s1", "net1")
	if err := r.ippools.Delete(t.Context(), r.name+"-a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "nobody is kept apart", func() error {
		if got := told(); got != "[] []" {
			return errors.New(got)
		}
		return nil
	})
}
