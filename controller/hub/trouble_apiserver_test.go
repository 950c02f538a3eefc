//go:build apiserver

package hub

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/subnets/subnettest"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// TestNamesake: of two clusters of one name the second gets nothing, until a person gives away what the first had. Its own blocks stay its own,
// whatever name it has.
func TestNamesake(t *testing.T) {
	w := newWorld(t)
	s := w.subnet("", "10.6.0.0/22")
	a, b := w.members[0], w.members[1]
	stopA, stopB := a.start(nil), b.start(nil)
	a.wantInStep(s, "True InStep")
	b.wantInStep(s, "True InStep")
	p, q := a.pool(s, 300), b.pool(s, 20)
	a.wantHas(p, 300)
	b.wantHas(q, 20)
	stopB()

	west := b.name
	b.name = a.name
	stopB = b.start(nil)
	b.wantInStep(s, `False ClusterNameTaken: no further block can be claimed: the hub cannot be asked: in the hub the name "`+a.name+`" is another cluster's`)
	b.wantEvent(b.secret.Name, reasonNamesake)
	b.resize(q, 600)
	b.wantCarved(q, "False HubAway")
	b.resize(q, 30) // of what it has
	b.wantHas(q, 30)
	a.resize(p, 320)
	a.wantHas(p, 320)

	// Not by the way: what is left under the name keeps it.
	stopA()
	m := &v1alpha1.HubMember{ObjectMeta: metav1.ObjectMeta{Name: a.name}}
	if err := w.hub.admin.Delete(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	stopB()
	b.start(nil)
	b.resize(q, 600)
	b.wantCarved(q, "False HubAway")
	b.wantInStep(s, "False ClusterNameTaken")
	w.check()

	if err := w.hub.admin.DeleteAllOf(t.Context(), &v1alpha1.IPBlock{}, client.MatchingLabels{v1alpha1.LabelCluster: a.name}); err != nil {
		t.Fatal(err)
	}
	subnettest.RemoveNetwork(t, a.admin, w.network) // it is no more
	b.wantInStep(s, "True InStep")
	b.wantHas(q, 600)
	a.start(nil)
	a.wantEvent(a.secret.Name, reasonNamesake)
	for _, block := range w.hub.blocks() {
		if block.Spec.Cluster != b.name && block.Spec.Cluster != west {
			t.Errorf("block %s is %s's", block.Name, block.Spec.Cluster)
		}
	}
}

// TestKubeconfig: what the Secret has now counts, also while the hub is away, and what is wrong with it is said.
func TestKubeconfig(t *testing.T) {
	w := newWorld(t)
	s := w.subnet("", "10.6.0.0/22")
	a := w.members[0]
	a.start(nil)
	a.wantInStep(s, "True InStep")
	p := a.pool(s, 20)
	a.wantHas(p, 20)

	good := w.kubeconfig("member")
	for i, tc := range []struct{ kubeconfig, says string }{
		{"", "it is not there, or empty"},
		{"a: [", "no kubeconfig to use"},
		{string(w.kubeconfig("stranger")), "is forbidden"},
		{strings.Replace(string(good), "certificate-authority-data: ", "certificate-authority-data: "+a.authority()+" #", 1), "certificate signed by unknown authority"},
	} {
		a.hand([]byte(tc.kubeconfig))
		a.wantStatus(s, "InStep", "False KubeconfigRefused", func(st v1alpha1.SubnetStatus) string {
			if got := subnettest.Condition(st.Conditions, v1alpha1.SubnetInStep); strings.Contains(got, tc.says) {
				return got
			}
			return "not: " + tc.says + ": " + subnettest.Condition(st.Conditions, v1alpha1.SubnetInStep)
		})
		a.wantEvent(a.secret.Name, reasonKubeconfig)
		a.resize(p, int32(30+i))
		a.wantHas(p, 30+i)
		a.hand(good)
		a.wantInStep(s, "True InStep")
	}

	if err := a.admin.Delete(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: a.secret.Namespace, Name: a.secret.Name}}); err != nil {
		t.Fatal(err)
	}
	a.wantInStep(s, "False KubeconfigRefused")
	large := a.pool(s, 600)
	a.wantCarved(large, "False HubAway")

	// It is mended while the hub is away, which lived at another address before, says the Secret.
	w.lab("kill", "kube-apiserver")
	up := false
	defer func() {
		if !up {
			w.lab("start", "kube-apiserver")
		}
	}()
	a.hand([]byte(strings.Replace(string(good), "server: https://127.0.0.1:", "server: https://127.0.0.2:", 1)))
	a.wantInStep(s, "False HubAway")
	a.hand(good)
	w.lab("start", "kube-apiserver")
	up = true
	a.wantHas(large, 600)
	a.wantInStep(s, "True InStep")
	a.remove(p)
	a.remove(large)
	w.wantNoBlocks()
}

// authority of this cluster, which is not the hub's.
func (c *cluster) authority() string { return base64.StdEncoding.EncodeToString(c.rc.CAData) }

// TestRestoredUnseen: a member whose controller begins when the hub was restored, and so has not seen what the hub was before, leaves to others
// what that has forgotten as much as one that has.
func TestRestoredUnseen(t *testing.T) {
	w := newWorld(t)
	s := w.subnet("", "10.6.0.0/22")
	a, b := w.members[0], w.members[1]
	a.every, b.every = time.Second, 5*time.Second
	var away atomic.Bool // the hub, from a
	a.start(func(rc *rest.Config) *rest.Config {
		return apitest.Wrap(rc, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			if away.Load() && "https://"+r.URL.Host == w.hub.rc.Host {
				return nil, errors.New("away, says the test")
			}
			return next.RoundTrip(r)
		})
	})
	stop := b.start(nil)
	a.wantInStep(s, "True InStep")
	b.wantInStep(s, "True InStep")
	stop()
	w.hub.patch(&v1alpha1.HubMember{ObjectMeta: metav1.ObjectMeta{Name: b.name}}, fmt.Sprintf(`{"spec":{"seen":%q}}`, time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)))
	backup := filepath.Join(t.TempDir(), "etcd")
	w.backup(backup)
	a.wantInStep(s, "True InStep")
	p := a.pool(s, 700)
	a.wantHas(p, 700)
	held := a.blocks()

	q := b.pool(s, 400) // more than is left
	away.Store(true)
	w.restore(backup)
	b.start(nil)
	apitest.Eventually(t, "what b makes of it", func() error {
		got := subnettest.Condition(b.get(q).Status.Conditions, v1alpha1.PoolCarved)
		if !strings.HasPrefix(got, "True") && !strings.Contains(got, "members first say what they hold") {
			return errors.New(got)
		}
		return nil
	})
	away.Store(false)
	for _, block := range held {
		a.wantEvent(block.Name, noteReclaimed)
	}
	b.wantCarved(q, "False SubnetExhausted")
	for _, c := range []*cluster{a, b} {
		c.wantDisputed(s, "none")
	}
	w.check()
	a.remove(p)
	b.remove(q)
	w.wantNoBlocks()
}

// TestRestored: the hub is restored from a backup. What members were given since they claim again, what they returned since they return again.
func TestRestored(t *testing.T) {
	w := newWorld(t)
	s := w.subnet(v1alpha1.PairingIndex, "10.6.0.0/21", "fd00:6::/117")
	a, b := w.members[0], w.members[1]
	b.every = 5 * time.Second // as by default; twice as long it leaves to others
	a.start(nil)
	b.start(nil)
	for _, m := range w.members {
		m.wantInStep(s, "True InStep")
	}
	old, gone := a.pool(s, 20), b.pool(s, 300)
	a.wantHas(old, 40)
	b.wantHas(gone, 600)

	known := map[types.UID]bool{}
	for _, block := range w.hub.blocks() {
		known[block.UID] = true
	}
	backup := filepath.Join(t.TempDir(), "etcd")
	w.backup(backup)
	for _, m := range w.members {
		m.wantInStep(s, "True InStep")
	}
	before := b.seen()
	since := a.pool(s, 400)
	a.wantHas(since, 800)
	b.remove(gone)
	apitest.Eventually(t, "what is returned", func() error {
		if n := len(b.blocks()); n > 0 {
			return fmt.Errorf("%d blocks", n)
		}
		return nil
	})
	apitest.Eventually(t, "another sign of life", func() error {
		if b.seen() == before {
			return fmt.Errorf("there is none since %s", before)
		}
		return nil
	})
	held, forgotten := a.blocks(), w.hub.blocks()
	forgotten = slices.DeleteFunc(forgotten, func(b v1alpha1.IPBlock) bool { return known[b.UID] })
	if len(forgotten) == 0 {
		t.Fatal("the backup has all")
	}
	w.lab("kill", "kube-apiserver")
	rest := b.pool(s, 500)
	w.lab("start", "kube-apiserver")
	w.restore(backup)
	apitest.Eventually(t, "patience", func() error {
		if got := subnettest.Condition(b.get(rest).Status.Conditions, v1alpha1.PoolCarved); !strings.Contains(got, "members first say what they hold") {
			return fmt.Errorf("Carved of %s is %s", rest, got)
		}
		return nil
	})
	a.wantEvent(forgotten[0].Name, noteReclaimed)
	apitest.Eventually(t, "the hub's blocks", func() error {
		there := w.hub.blocks()
		for _, block := range held {
			if i := slices.IndexFunc(there, func(o v1alpha1.IPBlock) bool { return o.Name == block.Name }); i < 0 || there[i].Spec.Cluster != a.name {
				return fmt.Errorf("block %s is not %s's", block.Name, a.name)
			}
		}
		return nil
	})
	b.wantHas(rest, 1000)
	w.check()
	a.wantHas(since, 800)
	for _, c := range []*cluster{a, b} {
		c.wantDisputed(s, "none")
	}
	a.remove(old)
	a.remove(since)
	b.remove(rest)
	w.wantNoBlocks()
}

// seen in the hub.
func (c *cluster) seen() string {
	c.Helper()
	var m v1alpha1.HubMember
	if err := c.hub.admin.Get(c.Context(), client.ObjectKey{Name: c.name}, &m); err != nil {
		c.Fatal(err)
	}
	return m.Spec.Seen.String()
}

// TestDisputed: a restored hub gives to one member what another, which is away, was given before. When that one is back, both learn of it,
// nobody is given an address of that which has none yet, and who first has nothing left there leaves it to the other.
func TestDisputed(t *testing.T) {
	w := newWorld(t)
	s := w.subnet("", "10.6.0.0/22")
	a, b := w.members[0], w.members[1]
	stopHub := w.hub.start(nil)
	stop := a.start(nil)
	b.start(nil)
	a.wantInStep(s, "True InStep")
	b.wantInStep(s, "True InStep")
	stopHub()
	backup := filepath.Join(t.TempDir(), "etcd")
	w.backup(backup)
	a.wantInStep(s, "True InStep")
	p := a.pool(s, 100)
	a.wantHas(p, 100)
	disputed := carve.Range(carve.FirstOf(ranges(a.get(p))[0].From))
	bound := a.lease(p, ranges(a.get(p))[0].From)
	stop()

	w.restore(backup)
	q := b.pool(s, 1000) // of all that there is
	apitest.Eventually(t, "pool "+q, func() error { return b.has(q, 1000) })
	free := ranges(b.get(q)).Overlap(ipam.Ranges{disputed})
	theirs := b.lease(q, free[len(free)-1].To)

	stop = a.start(nil)
	defer stop()
	w.hub.start(nil)
	block := carve.Name(w.network, disputed.From)
	a.wantEvent(block, noteLost)
	for _, c := range []*cluster{a, b, w.hub} {
		c.wantDisputed(s, "True BlocksDisputed: more than one cluster has block "+disputed.From.String())
		c.wantEvent(s.Name, "BlocksDisputed")
	}
	for c, pool := range map[*cluster]string{a: p, b: q} {
		c.wantNone(pool, disputed)
	}
	w.check()
	b.resize(q, 400) // which gives blocks back
	b.wantHas(q, 400)
	a.wantHas(p, 100) // and these are elsewhere
	other := a.pool(s, 100)
	a.wantHas(other, 100)
	for c, pools := range map[*cluster][]string{a: {p, other}, b: {q}} {
		for _, pool := range pools {
			c.wantNone(pool, disputed)
		}
	}
	for c, l := range map[*cluster]*v1alpha1.IPLease{a: bound, b: theirs} {
		c.wantHeld(block, l)
	}

	// The member that the hub has given it to leaves it first: it is the other's again.
	if err := b.admin.Delete(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*cluster{a, b, w.hub} {
		c.wantDisputed(s, "none")
	}
	a.wantEvent(block, noteReclaimed)
	apitest.Eventually(t, "the block", func() error {
		for _, there := range w.hub.blocks() {
			if there.Name == block && there.Spec.Cluster == a.name {
				return nil
			}
		}
		return fmt.Errorf("is not %s's", a.name)
	})
	w.check()
	if err := a.admin.Delete(t.Context(), bound); err != nil {
		t.Fatal(err)
	}
	a.remove(p)
	a.remove(other)
	b.remove(q)
	w.wantNoBlocks()
}

// wantHeld: a lease keeps its address from others, in the block.
func (c *cluster) wantHeld(block string, l *v1alpha1.IPLease) {
	c.Helper()
	var b v1alpha1.IPBlock
	if err := c.admin.Get(c.Context(), client.ObjectKey{Name: block}, &b); err != nil {
		c.Fatal(err)
	}
	read, err := carve.Read(&b)
	if err != nil {
		c.Fatal(err)
	}
	a := netip.MustParseAddr(l.Spec.Address)
	for _, part := range read.Parts {
		if (ipam.Ranges{part.Range}).Contains(a) {
			return
		}
	}
	c.Errorf("in %s block %s does not keep %s: %+v", c.name, block, a, read.Parts)
}
