//go:build apiserver

package hub

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/subnets/subnettest"
	"github.com/berthdev/berth/ipam/carve"
	"github.com/berthdev/berth/ipam/store/apitest"
)

func clusters(st v1alpha1.SubnetStatus) string {
	var out []string
	for _, c := range st.Clusters {
		out = append(out, fmt.Sprintf("%s %d", c.Name, c.Blocks))
	}
	return strings.Join(out, ", ")
}

// TestCopies: the hub's Subnets come, stay as they are, and go, and those of the member's own are left alone.
func TestCopies(t *testing.T) {
	w := newWorld(t)
	w.hub.start(nil)
	a := w.members[0]
	own := &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: apitest.Unique("own")}}
	own.Spec.Network, own.Spec.CIDRs = w.network, []v1alpha1.SubnetCIDR{{CIDR: "10.9.0.0/24"}}
	a.create(own.DeepCopy())
	w.hub.create(own.DeepCopy())
	s := w.subnet("", "10.6.0.0/22")
	a.start(nil)
	a.wantInStep(s, "True InStep")
	a.wantInStep(own, "False HubNameTaken")
	a.wantEvent(own.Name, reasonTaken)
	p := a.pool(s, 20)
	a.wantHas(p, 20)
	w.hub.wantStatus(s, "clusters", a.name+" 1", clusters)

	key := &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: s.Name}}
	a.patch(key, `{"spec":{"vlan":7}}`)
	a.wantEvent(s.Name, noteRestored)
	w.hub.patch(key, `{"spec":{"vlan":8}}`)
	apitest.Eventually(t, "the copy", func() error {
		var c v1alpha1.Subnet
		if err := a.admin.Get(t.Context(), client.ObjectKeyFromObject(s), &c); err != nil {
			return err
		}
		if c.Spec.VLAN == nil || *c.Spec.VLAN != 8 || !c.Spec.Hub {
			return fmt.Errorf("%+v", c.Spec)
		}
		return nil
	})
	if err := a.admin.Patch(t.Context(), key, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"hub":false}}`))); !apierrors.IsInvalid(err) {
		t.Errorf("hub: false of a copy: %v, want a refusal", err)
	}

	if err := w.hub.admin.Delete(t.Context(), s.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	a.wantInStep(s, "False Withdrawn")
	w.hub.wantStatus(s, "Ready", "False WaitsForPools", func(st v1alpha1.SubnetStatus) string {
		return subnettest.Condition(st.Conditions, v1alpha1.SubnetReady)
	})
	a.resize(p, 30)
	a.wantHas(p, 30)
	a.remove(p)
	for _, c := range []*cluster{a, w.hub} {
		apitest.Eventually(t, "the Subnet goes", func() error {
			if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(s), &v1alpha1.Subnet{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("in %s: %w, %+v", c.name, err, c.blocks())
			}
			return nil
		})
	}
	w.wantNoBlocks()
}

// TestRace has both members, and the hub itself, carve from one Subnet whatever random pools want.
func TestRace(t *testing.T) {
	w := newWorld(t)
	s := w.subnet(v1alpha1.PairingIndex, "10.6.0.0/22", "fd00:6::/118")
	for _, m := range w.members {
		m.start(nil)
		m.start(nil) // without election
		m.wantInStep(s, "True InStep")
	}
	w.hub.start(nil)
	random := rand.New(rand.NewPCG(5, 7))
	type wish struct {
		*cluster
		name string
		size int32
	}
	wishes := map[int]*wish{}
	all := []*cluster{w.members[0], w.members[1], w.hub}
	for range 120 {
		k, size := random.IntN(12), random.Int32N(200)
		switch p := wishes[k]; {
		case p == nil:
			c := all[k%3]
			wishes[k] = &wish{c, c.pool(s, size), size}
		case random.IntN(3) == 0:
			p.remove(p.name)
			delete(wishes, k)
		default:
			p.resize(p.name, size)
			p.size = size
		}
		w.check()
	}
	for _, p := range wishes { // that all of them together fit
		p.size = 40
		p.resize(p.name, p.size)
	}
	for _, p := range wishes {
		p.wantHas(p.name, int(2*p.size))
	}
	for _, p := range wishes {
		p.remove(p.name)
	}
	w.wantNoBlocks()
	for _, c := range all {
		c.wantFree(s, "1022 + 1022")
	}
	w.hub.wantStatus(s, "clusters", "", clusters)
}

// TestHubAway kills the hub: members go on with what they have, through a restart too, and get more when it is back.
func TestHubAway(t *testing.T) {
	w := newWorld(t)
	s := w.subnet(v1alpha1.PairingIndex, "10.6.0.0/20", "fd00:6::/116")
	a, b := w.members[0], w.members[1]
	stop := a.start(nil)
	b.start(nil)
	p, q := "", ""
	for _, m := range w.members {
		m.wantInStep(s, "True InStep")
	}
	p, q = a.pool(s, 20), b.pool(s, 20)
	a.wantHas(p, 40)
	b.wantHas(q, 40)

	w.lab("kill", "kube-apiserver")
	up := false
	defer func() {
		if !up {
			w.lab("start", "kube-apiserver")
		}
	}()
	a.wantInStep(s, "False HubAway")
	a.wantEvent(s.Name, reasonAway)
	a.resize(p, 50)
	a.wantHas(p, 100)
	a.resize(p, 10)
	a.wantHas(p, 20)
	stop()
	stop = a.start(nil)
	defer stop()
	small := a.pool(s, 30)
	a.wantHas(small, 60)
	large := a.pool(s, 600)
	a.wantCarved(large, "False HubAway: size 600: wants 600 IPv4 addresses more")
	before := b.backs.Load()
	b.remove(q)
	apitest.Eventually(t, "a block to return", func() error {
		if b.backs.Load() == before {
			return errors.New("nobody tried to give it back")
		}
		return nil
	})
	again := b.pool(s, 100) // in the block that is kept
	b.wantHas(again, 200)

	w.lab("start", "kube-apiserver")
	up = true
	a.wantHas(large, 1200)
	a.wantInStep(s, "True InStep")
	for _, name := range []string{p, small, large} {
		a.remove(name)
	}
	b.remove(again)
	w.wantNoBlocks()
	a.wantFree(s, "4094 + 4094")
}

// TestHubSilent: a hub that takes requests and does not answer is away, too.
func TestHubSilent(t *testing.T) {
	w := newWorld(t)
	s := w.subnet("", "10.6.0.0/22")
	a := w.members[0]
	silent := atomic.Bool{}
	a.start(func(rc *rest.Config) *rest.Config {
		if rc.Host == a.rc.Host {
			return rc
		}
		return apitest.Wrap(rc, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			if silent.Load() {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return next.RoundTrip(r)
		})
	})
	a.wantInStep(s, "True InStep")
	p := a.pool(s, 20)
	a.wantHas(p, 20)
	silent.Store(true)
	a.wantInStep(s, "False HubAway")
	a.resize(p, 600)
	a.wantCarved(p, "False HubAway")
	a.resize(p, 30)
	a.wantHas(p, 30)
	silent.Store(false)
	a.wantInStep(s, "True InStep")
	a.resize(p, 600)
	a.wantHas(p, 600)
	a.remove(p)
	w.wantNoBlocks()
}

// TestVanishedMember: what a member has is nobody else's until a person deletes it in the hub. If it comes back after all, it claims again
// what none has, and both leave what another one has meanwhile.
func TestVanishedMember(t *testing.T) {
	w := newWorld(t)
	w.hub.start(nil)
	s := w.subnet("", "10.6.0.0/23")
	a, b := w.members[0], w.members[1]
	stop := a.start(nil)
	a.wantInStep(s, "True InStep")
	p := a.pool(s, 300) // of both blocks
	a.wantHas(p, 300)
	inUse := []*v1alpha1.IPLease{a.lease(p, netip.MustParseAddr("10.6.0.10")), a.lease(p, netip.MustParseAddr("10.6.1.10"))}
	stop()

	b.start(nil)
	b.wantInStep(s, "True InStep")
	q := b.pool(s, 20)
	b.wantCarved(q, "False SubnetExhausted")

	blocks := w.hub.blocks()
	if len(blocks) != 2 || blocks[0].Labels[v1alpha1.LabelCluster] != a.name {
		t.Fatalf("in the hub: %+v", blocks)
	}
	if err := w.hub.admin.DeleteAllOf(t.Context(), &v1alpha1.IPBlock{}, client.MatchingLabels{v1alpha1.LabelCluster: a.name}); err != nil {
		t.Fatal(err)
	}
	b.wantFree(s, "49") // of 510
	apitest.Eventually(t, "pool "+q, func() error { return b.has(q, 20) })

	taken := carve.FirstOf(ranges(b.get(q))[0].From)
	bound := b.lease(q, ranges(b.get(q))[0].From)
	a.start(nil)
	a.wantEvent(carve.Name(w.network, taken), noteLost)
	for _, c := range []*cluster{a, b, w.hub} {
		c.wantDisputed(s, "True BlocksDisputed: more than one cluster has block "+taken.String())
	}
	for c, pool := range map[*cluster]string{a: p, b: q} {
		c.wantNone(pool, carve.Range(taken)) // of what is in dispute
	}
	a.wantCarved(p, "False SubnetExhausted")
	w.hub.wantStatus(s, "clusters", a.name+" 1, "+b.name+" 1", clusters)
	if err := b.admin.Delete(t.Context(), bound); err != nil {
		t.Fatal(err)
	}
	b.remove(q)
	a.wantHas(p, 300)
	for _, l := range inUse {
		if err := a.admin.Delete(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	a.remove(p)
	w.wantNoBlocks()
	for _, c := range []*cluster{a, b, w.hub} {
		c.wantDisputed(s, "none")
	}
}
