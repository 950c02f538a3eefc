//go:build apiserver

package controller

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// TestNetspaceOnAPIServer: a tenant's life. It has its share with its first namespace, of a VLAN that is its own, its pool and its network in each
// namespace; it goes when its pods are gone, and all is given back.
func TestNetspaceOnAPIServer(t *testing.T) {
	l := newLandlord(t, v1alpha1.SubnetCIDR{CIDR: "10.50.0.0/24", Gateway: "10.50.0.1", Routes: []v1alpha1.Route{{Dst: "172.16.0.0/12"}, {Dst: "192.0.2.0/24", GW: "10.50.0.9"}}},
		v1alpha1.SubnetCIDR{CIDR: "fd00:50::/64"})
	l.start(t, atOnce)
	late := apitest.Unique("late")
	a := l.netspace(nil, late)
	l.ready(a, "False NoNamespace: it has no namespace yet")
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: late}}
	l.create(t, ns)
	t.Cleanup(func() {
		if err := l.admin.DeleteAllOf(context.Background(), &nadv1.NetworkAttachmentDefinition{}, client.InNamespace(late)); err != nil {
			t.Error(err)
		}
	})
	l.ready(a, "True Serving")
	if a.Status.Subnet != l.total.Name+"-910" || *a.Status.VLAN != 910 || !slices.Equal(a.Status.Namespaces, []string{late}) {
		t.Fatalf("status %+v", a.Status)
	}
	child := &v1alpha1.Subnet{}
	if err := l.admin.Get(t.Context(), client.ObjectKey{Name: a.Status.Subnet}, child); err != nil {
		t.Fatal(err)
	}
	if c := child.Spec.CIDRs; child.Spec.Netspace != a.Name || child.Spec.Network != child.Name || *child.Spec.VLAN != 910 || child.Spec.Parent != l.link+".910" ||
		len(c) != 2 || !strings.HasSuffix(c[0].CIDR, "/28") || !strings.HasSuffix(c[1].CIDR, "/124") || c[0].Gateway == "" || c[1].Gateway != "" ||
		len(c[0].Routes) != 1 || len(c[0].Reserved) > 0 {
		t.Errorf("child %+v", child.Spec)
	}
	p := l.filled(a.Name)
	if p.Spec.Netspace != a.Name || p.Spec.VLAN == nil || *p.Spec.VLAN != 910 || len(p.Spec.Subnets) != 2 || *p.Spec.Size != 13 {
		t.Errorf("pool %+v, size %d", p.Spec, *p.Spec.Size) // 16 less network, broadcast and gateway
	}
	l.made(t, late, a.Name, fmt.Sprintf(`"master":"%s.910"`, l.link), fmt.Sprintf(`"ippools":[%q]`, a.Name))
	// Another namespace, another netspace, and one too many.
	second := l.namespace(t, nil)
	l.edit(t, a, func() { a.Spec.Namespaces = append(a.Spec.Namespaces, second) })
	l.made(t, second, a.Name)
	b, c := l.netspace(nil, l.namespace(t, nil)), &v1alpha1.Netspace{}
	l.ready(b, "True Serving")
	if *b.Status.VLAN != 911 {
		t.Errorf("VLAN %d", *b.Status.VLAN)
	}
	c = l.netspace(nil, l.namespace(t, nil))
	l.ready(c, "False VLANsExhausted: share.vlans: each VLAN of 910-911 is another Subnet's")
	l.check()
	// Its pods hold it.
	first, _, _ := strings.Cut(p.Spec.Subnets[0].IPs[0], "-")
	lease := l.lease(t, p.Spec.Network, first, p.Name, v1alpha1.LeaseBound, &v1alpha1.LeaseHolder{Node: "elsewhere"})
	l.wantFree(t, p.Name, "12 + 13")
	if err := l.admin.Delete(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	l.ready(a, fmt.Sprintf("False WaitsForPods: it is being deleted, and waits for the pods of pool %q (1 addresses)", p.Name))
	if err := l.admin.Delete(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	l.gone(a)
	for _, o := range []client.Object{p, child} {
		l.gone(o)
	}
	l.unmade(t, late, a.Name)
	l.unmade(t, second, a.Name)
	l.ready(c, "True Serving")
	if *c.Status.VLAN != 910 {
		t.Errorf("VLAN %d", *c.Status.VLAN)
	}
	for _, n := range []*v1alpha1.Netspace{b, c} {
		if err := l.admin.Delete(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		l.gone(n)
	}
	l.free(l.total, "252 + 2^64")
	l.check()
}

// TestNetspaceWithoutVLAN: the share stays in the VLAN, and on the link, of the Subnet, behind its gateway.
// TestNetspaceOwnsWhatIsIts: Kubernetes collects what an object of a UID owns that there is no more, so what a Netspace made anew under its name
// finds of the one before is to be its own.
func TestNetspaceOwnsWhatIsIts(t *testing.T) {
	l := newLandlord(t, v1alpha1.SubnetCIDR{CIDR: "10.50.0.0/24"})
	stop := l.start(t, atOnce)
	n := l.netspace(nil, l.namespace(t, nil))
	l.ready(n, "True Serving")
	l.filled(n.Name)
	stop()
	anew := &v1alpha1.Netspace{ObjectMeta: metav1.ObjectMeta{Name: n.Name}, Spec: n.Spec}
	l.remove(t, n) // by force
	l.create(t, anew)
	l.start(t, atOnce)
	l.ready(anew, "True Serving")
	for _, o := range []client.Object{&v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: anew.Status.Subnet}}, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}} {
		l.eventually(t, func() error {
			if err := l.admin.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
				return err
			}
			if c := metav1.GetControllerOf(o); c == nil || c.UID != anew.UID {
				return fmt.Errorf("%T is owned by %+v, want by %s", o, c, anew.UID)
			}
			return nil
		})
	}
}

func TestNetspaceWithoutVLAN(t *testing.T) {
	l := newLandlord(t, v1alpha1.SubnetCIDR{CIDR: "10.51.0.0/24", Gateway: "10.51.0.1"})
	l.edit(t, l.total, func() { l.total.Spec.Parent = l.link })
	l.start(t, atOnce)
	ns := l.namespace(t, nil)
	n := l.netspace(func(s *v1alpha1.NetspaceSpec) { s.Share.VLANs, s.Share.Parent = "", "" }, ns)
	l.ready(n, "True Serving")
	p := l.filled(n.Name)
	if s := p.Spec.Subnets[0]; n.Status.Subnet != l.total.Name+"-"+n.Name || n.Status.VLAN != nil || s.CIDR != "10.51.0.0/24" || s.Gateway != "10.51.0.1" || *p.Spec.Size != 16 {
		t.Errorf("status %+v, pool %+v", n.Status, p.Spec)
	}
	l.made(t, ns, n.Name, fmt.Sprintf(`"master":%q`, l.link))
	l.check()
}

// TestPoolOfNetspaceGrows before it is empty, and shrinks after.
func TestPoolOfNetspaceGrows(t *testing.T) {
	l := newLandlord(t, v1alpha1.SubnetCIDR{CIDR: "10.52.0.0/23"})
	l.start(t, atOnce)
	n := l.netspace(func(s *v1alpha1.NetspaceSpec) { s.Share.Size = 128 }, l.namespace(t, nil))
	l.ready(n, "True Serving")
	size := func(want int32) *v1alpha1.IPPool {
		t.Helper()
		p := l.filled(n.Name)
		apitest.Eventually(t, "size", func() error {
			if err := l.admin.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
				return err
			}
			if *p.Spec.Size != want {
				return fmt.Errorf("size %d, want %d", *p.Spec.Size, want)
			}
			return nil
		})
		return l.filled(n.Name)
	}
	p := size(16)
	l.free(&v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: n.Status.Subnet}}, "110") // workloads may have pools of it
	first, _, _ := strings.Cut(p.Spec.Subnets[0].IPs[0], "-")
	l.lease(t, p.Spec.Network, first, p.Name, v1alpha1.LeaseBound, &v1alpha1.LeaseHolder{Node: "elsewhere"})
	size(32)
	// A workload's pool of the same share is not grown into.
	own := int32(90)
	w := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: apitest.Unique("app")}}
	w.Spec = v1alpha1.IPPoolSpec{Network: p.Spec.Network, Subnet: n.Status.Subnet, Size: &own, Netspace: n.Name, Owner: &v1alpha1.PoolOwner{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "x", Name: "web"}}
	l.create(t, w)
	l.filled(w.Name)
	size(32)
	l.check()
	l.edit(t, w, func() { *w.Spec.Size = 100 })
	size(26) // 126 less 100
	// It is not taken from a workload.
	if err := l.admin.Delete(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	l.ready(n, fmt.Sprintf("False WaitsForPods: it is being deleted, and waits for pool %q of Deployment x/web; delete that, and the pool if it is kept", w.Name))
	if err := l.admin.Get(t.Context(), client.ObjectKeyFromObject(w), w); err != nil || w.DeletionTimestamp != nil {
		t.Errorf("the workload's pool: %v, %v", err, w.DeletionTimestamp)
	}
	l.remove(t, w)
	var leases v1alpha1.IPLeaseList
	if err := l.admin.List(t.Context(), &leases, client.MatchingFields{"spec.network": p.Spec.Network}); err != nil {
		t.Fatal(err)
	}
	for i := range leases.Items {
		l.remove(t, &leases.Items[i])
	}
	l.gone(n)
}

// TestWholeSubnet: a Subnet that is the netspace's whole has a pool and a network, if both say so.
func TestWholeSubnet(t *testing.T) {
	l := newLandlord(t, v1alpha1.SubnetCIDR{CIDR: "10.53.0.0/24"})
	l.start(t, atOnce)
	ns := l.namespace(t, map[string]string{"team": l.link})
	n := l.netspace(func(s *v1alpha1.NetspaceSpec) {
		s.Share, s.Subnets, s.NamespaceSelector = nil, []string{l.total.Name}, &metav1.LabelSelector{MatchLabels: map[string]string{"team": l.link}}
	})
	l.ready(n, fmt.Sprintf("False NoSuchSubnet: subnets: Subnet %q is of no netspace; write netspace: %s in it", l.total.Name, n.Name))
	l.edit(t, l.total, func() { l.total.Spec.Netspace, l.total.Spec.Parent = n.Name, l.link })
	l.ready(n, "True Serving")
	p := l.filled(v1alpha1.NetspacePool(n.Name, l.total.Name))
	l.made(t, ns, l.total.Name, fmt.Sprintf(`"master":%q`, l.link), fmt.Sprintf(`"ippools":[%q]`, p.Name))
	l.edit(t, n, func() { n.Spec.Subnets = nil })
	l.ready(n, fmt.Sprintf("False NoSuchSubnet: Subnet %q says netspace %q, which does not name it in subnets", l.total.Name, n.Name))
	l.unmade(t, ns, l.total.Name)
	l.edit(t, n, func() { n.Spec.Subnets = []string{"not-there"} })
	l.ready(n, `there is no Subnet "not-there"`)
	if err := l.admin.Delete(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	l.gone(n)
	l.gone(p)
	if err := l.admin.Get(t.Context(), client.ObjectKeyFromObject(l.total), l.total); err != nil || l.total.DeletionTimestamp != nil {
		t.Errorf("a Subnet that a person made went with the netspace: %v", err)
	}
}

// TestNetspaceRefusals: what cannot be had is said with its field, value and remedy, and changes nothing for the one who has it.
func TestNetspaceRefusals(t *testing.T) {
	l := newLandlord(t, v1alpha1.SubnetCIDR{CIDR: "10.54.0.0/26"})
	l.start(t, atOnce)
	ns := l.namespace(t, map[string]string{"both": l.link})
	a := l.netspace(nil, ns)
	l.ready(a, "True Serving")
	b := l.netspace(func(s *v1alpha1.NetspaceSpec) {
		s.Share = nil
		s.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"both": l.link}}
	}, l.namespace(t, nil))
	l.ready(b, fmt.Sprintf("False NamespaceTaken: namespace %q is of netspace %q; a namespace is of one netspace: take it out of that one", ns, a.Name))
	if len(b.Status.Namespaces) != 1 || slices.Contains(b.Status.Namespaces, ns) {
		t.Errorf("namespaces %q", b.Status.Namespaces)
	}
	// The older claims what the younger has.
	own := b.Status.Namespaces[0]
	l.edit(t, a, func() { a.Spec.Namespaces = append(a.Spec.Namespaces, own) })
	l.ready(a, fmt.Sprintf("False NamespaceTaken: namespace %q is of netspace %q", own, b.Name))
	if !slices.Equal(a.Status.Namespaces, []string{ns}) {
		t.Errorf("namespaces %q", a.Status.Namespaces)
	}
	l.eventually(t, func() error {
		if got := l.events(t, "default", a.Name, "NamespaceTaken"); len(got) != 1 {
			return fmt.Errorf("events %q", got)
		}
		return nil
	})
	c := l.netspace(func(s *v1alpha1.NetspaceSpec) { s.Share.Size = 64 }, l.namespace(t, nil))
	l.ready(c, "False ShareRefused: share: size 64:")
	d := l.netspace(func(s *v1alpha1.NetspaceSpec) { s.Share.Subnet = "not-there" }, l.namespace(t, nil))
	l.ready(d, `False NoSuchSubnet: share.subnet: there is no Subnet "not-there"; make it, or name another`)
	l.edit(t, l.total, func() { l.total.Spec.Parent = "" })
	theirs := l.subnet(apitest.Unique("whole"), v1alpha1.SubnetCIDR{CIDR: "10.55.0.0/24"})
	l.edit(t, theirs, func() { theirs.Spec.Netspace = a.Name })
	e := l.netspace(func(s *v1alpha1.NetspaceSpec) { s.Share.Subnet = theirs.Name }, l.namespace(t, nil))
	l.ready(e, fmt.Sprintf("False NoSuchSubnet: share.subnet: Subnet %q is netspace %q's; name another", theirs.Name, a.Name))
	// A pool of the name that is somebody else's.
	taken := pool(apitest.Unique("n"), "elsewhere", subnet("10.56.0.0/24"))
	l.create(t, taken)
	f := &v1alpha1.Netspace{ObjectMeta: metav1.ObjectMeta{Name: taken.Name}}
	f.Spec = v1alpha1.NetspaceSpec{Namespaces: []string{l.namespace(t, nil)}, Share: &v1alpha1.NetspaceShare{Subnet: theirs.Name, Size: 4}}
	f.Spec.Share.Subnet = l.total.Name
	l.create(t, f)
	t.Cleanup(func() { l.clean(f.Name) })
	l.ready(f, fmt.Sprintf("False NameTaken: there is a pool %q that is not made for netspace %q", f.Name, f.Name))
	l.check()
}

// TestNetspacesRace: two controllers, two Subnets on one link, and as many netspaces as there are VLANs: each gets one.
func TestNetspacesRace(t *testing.T) {
	l := newLandlord(t, v1alpha1.SubnetCIDR{CIDR: "10.57.0.0/24"})
	other := l.subnet(apitest.Unique("o"), v1alpha1.SubnetCIDR{CIDR: "10.58.0.0/24"})
	l.start(t, atOnce)
	l.start(t, atOnce)
	var all []*v1alpha1.Netspace
	for i := range 8 {
		all = append(all, l.netspace(func(s *v1alpha1.NetspaceSpec) {
			s.Share.VLANs = "910-917"
			if i%2 == 1 {
				s.Share.Subnet = other.Name
			}
		}, l.namespace(t, nil)))
	}
	vlans := map[int32]bool{}
	for _, n := range all {
		l.ready(n, "True Serving")
		l.filled(n.Name)
		vlans[*n.Status.VLAN] = true
	}
	if len(vlans) != 8 {
		t.Errorf("VLANs %v", vlans)
	}
	l.check()
	for _, n := range all {
		if err := l.admin.Delete(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range all {
		l.gone(n)
	}
	l.free(l.total, "254")
	l.free(other, "254")
}

// TestNetspaceCycles: what is given back is what was there.
func TestNetspaceCycles(t *testing.T) {
	l := newLandlord(t, v1alpha1.SubnetCIDR{CIDR: "10.59.0.0/27"}) // room for one share
	l.start(t, atOnce)
	ns := l.namespace(t, nil)
	for range 50 {
		n := l.netspace(func(s *v1alpha1.NetspaceSpec) { s.Share.Size, s.Share.VLANs = 8, "910" }, ns)
		l.ready(n, "True Serving")
		l.filled(n.Name)
		if err := l.admin.Delete(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		l.gone(n)
	}
	l.free(l.total, "30")
	l.check()
}

// counts says whether a write is one of what a netspace is made of.
func counts(r *http.Request) bool {
	return slices.ContainsFunc([]string{"/netspaces", "/subnets", "/ippools", "/ipblocks", "/network-attachment"}, func(s string) bool {
		return strings.Contains(r.URL.Path, s)
	})
}

// TestNetspaceInterrupted: the controller ends at each write, of making as of giving back, and the next one goes on: nothing is lost and
// nothing double.
func TestNetspaceInterrupted(t *testing.T) {
	l := newLandlord(t, v1alpha1.SubnetCIDR{CIDR: "10.60.0.0/24"})
	ns := l.namespace(t, nil)
	for step, done := 0, false; !done; step++ {
		if step > 60 {
			t.Fatal("a netspace takes more than 60 writes")
		}
		m := apitest.NewMortal(counts, step, step%2 == 0)
		stop := l.start(t, atOnce, m.Into)
		n := l.netspace(nil, ns)
		whole := make(chan struct{})
		go func() { // made and given back without reaching that write
			defer close(whole)
			for l.Context().Err() == nil {
				got := &v1alpha1.Netspace{}
				err := l.admin.Get(l.Context(), client.ObjectKeyFromObject(n), got)
				if client.IgnoreNotFound(err) == nil && err != nil {
					return
				}
				if c := meta.FindStatusCondition(got.Status.Conditions, v1alpha1.NetspaceReady); c != nil && c.Reason == "Serving" && got.DeletionTimestamp == nil {
					p := &v1alpha1.IPPool{}
					if l.admin.Get(l.Context(), client.ObjectKey{Name: n.Name}, p) == nil && len(p.Spec.Subnets) > 0 {
						_ = l.admin.Delete(l.Context(), got)
					}
				}
				select {
				case <-m.Dead():
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		}()
		<-whole
		select {
		case <-m.Dead():
		default:
			done = true
		}
		stop()
		l.check()
		stop = l.start(t, atOnce)
		if err := l.admin.Get(t.Context(), client.ObjectKeyFromObject(n), n); err == nil && n.DeletionTimestamp == nil {
			l.ready(n, "True Serving")
			l.filled(n.Name)
			l.made(t, ns, n.Name, `"type":"berth"`)
			l.check()
			if err := l.admin.Delete(t.Context(), n); err != nil {
				t.Fatal(err)
			}
		}
		l.gone(n)
		l.unmade(t, ns, n.Name)
		l.free(l.total, "254")
		stop()
		var subnets v1alpha1.SubnetList
		if err := l.admin.List(t.Context(), &subnets); err != nil {
			t.Fatal(err)
		}
		for _, s := range subnets.Items {
			if s.Spec.Netspace == n.Name {
				t.Errorf("after a crash at write %d Subnet %s is left", step, s.Name)
			}
		}
		t.Logf("write %d is passed", step)
	}
}
