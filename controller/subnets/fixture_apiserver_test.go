//go:build apiserver

package subnets

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/subnets/subnettest"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// world is a network of its own on a real API server.
type world struct {
	*testing.T
	rc      *rest.Config
	admin   client.WithWatch
	network string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	rc, network := apitest.Config(t), apitest.Unique("net")
	return &world{T: t, rc: rc, admin: subnettest.Client(t, rc, network), network: network}
}

// start a controller, by its own connection; it ends with the test, or by the function returned.
func (w *world) start(rc *rest.Config, cfg Config) (c *Carver, stop func()) {
	w.Helper()
	stop = subnettest.Start(w.T, rc, w.network, func(mgr ctrl.Manager) (err error) {
		c, err = Add(mgr, cfg)
		return err
	})
	return c, stop
}

func (w *world) subnet(pairing v1alpha1.Pairing, cidrs ...string) *v1alpha1.Subnet {
	w.Helper()
	s := &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: apitest.Unique("sub")}}
	s.Spec.Network, s.Spec.Pairing = w.network, pairing
	for _, c := range cidrs {
		s.Spec.CIDRs = append(s.Spec.CIDRs, v1alpha1.SubnetCIDR{CIDR: c})
	}
	w.create(s)
	return s
}

func (w *world) create(o client.Object) {
	w.Helper()
	if err := w.admin.Create(context.Background(), o); err != nil {
		w.Fatal(err)
	}
}

func pool(name string, s *v1alpha1.Subnet, size int32) *v1alpha1.IPPool {
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Network, p.Spec.Subnet, p.Spec.Size = s.Spec.Network, s.Name, &size
	return p
}

func (w *world) pool(s *v1alpha1.Subnet, size int32) *v1alpha1.IPPool {
	w.Helper()
	p := pool(apitest.Unique("pool"), s, size)
	w.create(p)
	return p
}

func (w *world) resize(p *v1alpha1.IPPool, size int32) {
	w.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"size":%d}}`, size)
	if err := w.admin.Patch(context.Background(), &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: p.Name}}, client.RawPatch(types.MergePatchType, patch)); err != nil {
		w.Fatal(err)
	}
}

// remove a pool as the pools' controller does when it has no lease in use.
func (w *world) remove(p *v1alpha1.IPPool) { w.Helper(); subnettest.RemovePool(w.T, w.admin, p.Name) }

func (w *world) get(name string) *v1alpha1.IPPool {
	w.Helper()
	var p v1alpha1.IPPool
	if err := w.admin.Get(context.Background(), client.ObjectKey{Name: name}, &p); err != nil {
		w.Fatal(err)
	}
	return &p
}

func ips(p *v1alpha1.IPPool) string {
	var out []string
	for _, s := range p.Spec.Subnets {
		out = append(out, s.IPs...)
	}
	return strings.Join(out, " ")
}

// wantIPs waits until a pool lists these, and says so.
func (w *world) wantIPs(name, want string) {
	w.Helper()
	apitest.Eventually(w.T, "pool "+name, func() error {
		p := w.get(name)
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.PoolCarved)
		if got := ips(p); got != want || c == nil || c.ObservedGeneration != p.Generation {
			return fmt.Errorf("lists %q, want %q; %s", got, want, subnettest.Condition(p.Status.Conditions, v1alpha1.PoolCarved))
		}
		return nil
	})
}

func (w *world) wantCarved(name, want string) {
	w.Helper()
	apitest.Eventually(w.T, "pool "+name, func() error {
		if got := subnettest.Condition(w.get(name).Status.Conditions, v1alpha1.PoolCarved); !strings.HasPrefix(got, want) {
			return fmt.Errorf("Carved is %s, want %s", got, want)
		}
		return nil
	})
}

func (w *world) status(name string) v1alpha1.SubnetStatus {
	w.Helper()
	var s v1alpha1.Subnet
	if err := w.admin.Get(context.Background(), client.ObjectKey{Name: name}, &s); err != nil {
		w.Fatal(err)
	}
	return s.Status
}

func (w *world) wantReady(name string, want ...string) {
	w.Helper()
	apitest.Eventually(w.T, "subnet "+name, func() error {
		got := subnettest.Condition(w.status(name).Conditions, v1alpha1.SubnetReady)
		for _, part := range want {
			if !strings.Contains(got, part) {
				return fmt.Errorf("Ready is %s, want %s", got, part)
			}
		}
		return nil
	})
}

func (w *world) wantFree(name, want string) {
	w.Helper()
	apitest.Eventually(w.T, "subnet "+name, func() error {
		if got := w.status(name); got.Free != want {
			return fmt.Errorf("free %q, want %q: %+v, %+v", got.Free, want, got.IPv4, got.IPv6)
		}
		return nil
	})
}

// blocks of the network, which must be well at any time.
func (w *world) blocks() []*carve.Block {
	w.Helper()
	return w.blocksAt(&metav1.ListOptions{})
}

func (w *world) blocksAt(version *metav1.ListOptions) []*carve.Block {
	w.Helper()
	var list v1alpha1.IPBlockList
	if err := w.admin.List(context.Background(), &list, client.MatchingFields{"spec.network": w.network}, &client.ListOptions{Raw: version}); err != nil {
		w.Fatal(err)
	}
	var out []*carve.Block
	for i := range list.Items {
		b, err := carve.Read(&list.Items[i])
		if err != nil {
			w.Fatal(err)
		}
		out = append(out, b)
	}
	if wrong := carve.Check(out...); len(wrong) > 0 {
		w.Fatalf("blocks: %s", strings.Join(wrong, "; "))
	}
	return out
}

// check that no two pools share an address, and that each gives out only what the blocks say it has, both as they were at one moment.
func (w *world) check() {
	w.Helper()
	var pools v1alpha1.IPPoolList
	if err := w.admin.List(context.Background(), &pools); err != nil {
		w.Fatal(err)
	}
	var mine []*v1alpha1.IPPool
	for i := range pools.Items {
		if p := &pools.Items[i]; p.Spec.Network == w.network {
			mine = append(mine, p)
		}
	}
	same := &metav1.ListOptions{ResourceVersion: pools.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}
	if wrong := carve.CheckPools(mine, w.blocksAt(same)...); len(wrong) > 0 {
		w.Fatalf("pools: %s", strings.Join(wrong, "; "))
	}
}

func (w *world) wantNoBlocks() {
	w.Helper()
	apitest.Eventually(w.T, "blocks", func() error {
		if blocks := w.blocks(); len(blocks) > 0 {
			return fmt.Errorf("there are %d blocks, with %v", len(blocks), blocks[0].Parts)
		}
		return nil
	})
}

func (w *world) wantEvent(name, reason string) {
	w.Helper()
	apitest.Eventually(w.T, "event "+reason, func() error {
		var events eventsv1.EventList
		if err := w.admin.List(context.Background(), &events); err != nil {
			return err
		}
		if !slices.ContainsFunc(events.Items, func(e eventsv1.Event) bool { return e.Regarding.Name == name && e.Reason == reason }) {
			return fmt.Errorf("none of %s among %d", name, len(events.Items))
		}
		return nil
	})
}

// lease of an address, in use.
func (w *world) lease(p *v1alpha1.IPPool, address string) *v1alpha1.IPLease {
	w.Helper()
	l := &v1alpha1.IPLease{}
	a, err := ipam.ParseRange(address)
	if err != nil {
		w.Fatal(err)
	}
	l.Name = ipam.LeaseName(w.network, a.From)
	l.Labels = map[string]string{v1alpha1.LabelPool: p.Name}
	l.Spec.Network, l.Spec.Address, l.Spec.Pool, l.Spec.Phase = w.network, address, p.Name, v1alpha1.LeaseBound
	l.Spec.Holder = &v1alpha1.LeaseHolder{Node: "elsewhere"}
	w.create(l)
	return l
}

func (w *world) gone(o client.Object) {
	w.Helper()
	apitest.Eventually(w.T, o.GetName(), func() error {
		err := w.admin.Get(context.Background(), client.ObjectKeyFromObject(o), o)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is still there: %w", err)
	})
}

const short = 300 * time.Millisecond

func parse(t *testing.T, s string) ipam.Range {
	t.Helper()
	r, err := ipam.ParseRange(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
