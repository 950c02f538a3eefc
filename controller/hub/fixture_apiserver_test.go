//go:build apiserver

package hub

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/subnets"
	"github.com/berthdev/berth/controller/subnets/subnettest"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// world is three API servers: a hub, and two members, with a network of the test's own.
type world struct {
	*testing.T
	hub     *cluster
	members [2]*cluster
	network string
}

// cluster is one API server.
type cluster struct {
	*world
	name   string        // in the hub
	every  time.Duration // it looks at the hub
	secret types.NamespacedName
	rc     *rest.Config
	admin  client.Client
	backs  atomic.Int64 // times that it tried to give a block back
}

// counted counts what the carver asks for.
type counted struct {
	subnets.Blocks
	*cluster
}

// GiveBack a block, or try to.
func (c counted) GiveBack(ctx context.Context, b *v1alpha1.IPBlock) error {
	defer c.backs.Add(1)
	return c.Blocks.GiveBack(ctx, b)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, network: apitest.Unique("net")}
	w.hub = w.connect("KUBECONFIG_APISERVER_HUB", "hub")
	w.members[0] = w.connect("KUBECONFIG_APISERVER", apitest.Unique("east"))
	w.members[1] = w.connect("KUBECONFIG_APISERVER_B", apitest.Unique("west"))
	w.hub.allow("member")
	for _, m := range w.members {
		m.secret = types.NamespacedName{Namespace: "default", Name: m.name}
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: m.name}, Data: map[string][]byte{KubeconfigKey: w.kubeconfig("member")}}
		m.create(s)
		t.Cleanup(func() {
			_ = m.admin.Delete(context.Background(), s)
			_ = w.hub.admin.Delete(context.Background(), &v1alpha1.HubMember{ObjectMeta: metav1.ObjectMeta{Name: m.name}})
		})
	}
	return w
}

// kubeconfig of somebody in the hub.
func (w *world) kubeconfig(as string) []byte {
	w.Helper()
	c, err := clientcmd.LoadFromFile(os.Getenv("KUBECONFIG_APISERVER_HUB"))
	if err != nil {
		w.Fatal(err)
	}
	for _, user := range c.AuthInfos {
		user.Impersonate = as
	}
	out, err := clientcmd.Write(*c)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// allow somebody what the installation lets a member do in its hub.
func (c *cluster) allow(who string) {
	c.Helper()
	const role = "berth-hub-member"
	manifest, err := os.ReadFile("../../deploy/manifests/20-controller-rbac.yaml")
	if err != nil {
		c.Fatal(err)
	}
	rules := &rbacv1.ClusterRole{}
	for _, doc := range strings.Split(string(manifest), "\n---\n") {
		if strings.Contains(doc, "kind: ClusterRole\n") && strings.Contains(doc, "name: "+role+"\n") {
			if err := yaml.UnmarshalStrict([]byte(doc), rules); err != nil {
				c.Fatal(err)
			}
		}
	}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: who}}}
	for _, o := range []client.Object{rules, binding} {
		err := c.admin.Create(context.Background(), o)
		if apierrors.IsAlreadyExists(err) {
			err = c.admin.Update(context.Background(), o)
		}
		if err != nil {
			c.Fatal(err)
		}
	}
}

// hand the member another kubeconfig.
func (c *cluster) hand(kubeconfig []byte) {
	c.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: c.secret.Name}, Data: map[string][]byte{KubeconfigKey: kubeconfig}}
	err := c.admin.Update(context.Background(), s)
	if apierrors.IsNotFound(err) {
		err = c.admin.Create(context.Background(), s)
	}
	if err != nil {
		c.Fatal(err)
	}
}

func (w *world) connect(variable, name string) *cluster {
	w.Helper()
	rc := apitest.ConfigOf(w.T, variable)
	return &cluster{world: w, name: name, rc: rc, admin: subnettest.Client(w.T, rc, w.network)}
}

func (c *cluster) blocks() []v1alpha1.IPBlock {
	c.Helper()
	var list v1alpha1.IPBlockList
	if err := c.admin.List(context.Background(), &list, client.MatchingFields{networkIndex: c.network}); err != nil {
		c.Fatal(err)
	}
	return list.Items
}

func (c *cluster) create(o client.Object) {
	c.Helper()
	if err := c.admin.Create(context.Background(), o); err != nil {
		c.Fatal(err)
	}
}

const short = 100 * time.Millisecond

// start a controller of the cluster; it ends with the test, or by the function returned. Into, unless it is nil, is between it and both API
// servers.
func (c *cluster) start(into func(*rest.Config) *rest.Config) func() {
	c.Helper()
	rc := c.rc
	cfg := Config{Cluster: c.name, Secret: c.secret, Interval: cmp.Or(c.every, short)}
	if into != nil {
		rc, cfg.wrap = into(rc), into
	}
	return subnettest.Start(c.T, rc, c.name, func(mgr ctrl.Manager) error {
		carver := subnets.Config{ReturnAfter: time.Nanosecond}
		if c.name != "hub" {
			h, err := Add(mgr, cfg)
			if err != nil {
				return err
			}
			carver.Blocks, carver.Changed, carver.Seed = counted{h, c}, h.Changed, c.name
		}
		_, err := subnets.Add(mgr, carver)
		return err
	})
}

// subnet in the hub, for both members.
func (w *world) subnet(pairing v1alpha1.Pairing, cidrs ...string) *v1alpha1.Subnet {
	w.Helper()
	s := &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: apitest.Unique("plan")}}
	s.Spec.Network, s.Spec.Pairing = w.network, pairing
	s.Spec.Clusters = []string{w.members[0].name, w.members[1].name}
	for _, c := range cidrs {
		s.Spec.CIDRs = append(s.Spec.CIDRs, v1alpha1.SubnetCIDR{CIDR: c})
	}
	w.hub.create(s)
	return s
}

func (c *cluster) pool(s *v1alpha1.Subnet, size int32) string {
	c.Helper()
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: apitest.Unique("pool")}}
	p.Spec.Network, p.Spec.Subnet, p.Spec.Size = c.network, s.Name, &size
	c.create(p)
	return p.Name
}

func (c *cluster) patch(o client.Object, patch string) {
	c.Helper()
	if err := c.admin.Patch(context.Background(), o, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) resize(pool string, size int32) {
	c.Helper()
	c.patch(&v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: pool}}, fmt.Sprintf(`{"spec":{"size":%d}}`, size))
}

// remove a pool as the pools' controller does when it has no lease in use.
func (c *cluster) remove(pool string) { c.Helper(); subnettest.RemovePool(c.T, c.admin, pool) }

func (c *cluster) get(pool string) *v1alpha1.IPPool {
	c.Helper()
	var p v1alpha1.IPPool
	if err := c.admin.Get(context.Background(), client.ObjectKey{Name: pool}, &p); err != nil {
		c.Fatal(err)
	}
	return &p
}

// ranges that a pool lists.
func ranges(p *v1alpha1.IPPool) ipam.Ranges {
	var out []ipam.Range
	for _, s := range p.Spec.Subnets {
		for _, r := range s.IPs {
			if r, err := ipam.ParseRange(r); err == nil {
				out = append(out, r)
			}
		}
	}
	return ipam.NewRanges(out...)
}

// lease of an address, in use.
func (c *cluster) lease(pool string, a netip.Addr) *v1alpha1.IPLease {
	c.Helper()
	l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: ipam.LeaseName(c.network, a), Labels: map[string]string{v1alpha1.LabelPool: pool}}}
	l.Spec.Network, l.Spec.Address, l.Spec.Pool, l.Spec.Phase = c.network, a.String(), pool, v1alpha1.LeaseBound
	l.Spec.Holder = &v1alpha1.LeaseHolder{Node: "elsewhere"}
	c.create(l)
	return l
}

// backup and restore the hub's data, while it is stopped.
func (w *world) backup(to string)    { w.Helper(); w.swap(w.data(), to) }
func (w *world) restore(from string) { w.Helper(); w.swap(from, w.data()) }

func (w *world) data() string {
	return filepath.Join(filepath.Dir(os.Getenv("KUBECONFIG_APISERVER_HUB")), "etcd")
}

func (w *world) swap(from, to string) {
	w.Helper()
	w.lab("kill", "kube-apiserver")
	w.lab("kill", "etcd")
	if err := os.RemoveAll(to); err != nil {
		w.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		w.Fatal(err)
	}
	w.lab("start", "etcd")
	w.lab("start", "kube-apiserver")
	apitest.Eventually(w.T, "the hub", func() error { return w.hub.admin.List(context.Background(), &v1alpha1.SubnetList{}) })
}

// lab runs a part of the hub: "kill" or "start".
func (w *world) lab(verb, part string) {
	w.Helper()
	lab := strings.Fields(os.Getenv("LAB_APISERVER_HUB")) // the program, and the flags that tell which
	if len(lab) == 0 {
		w.Fatal("LAB_APISERVER_HUB is not set: run make test-api")
	}
	args := slices.Concat([]string{"apiserver", verb}, lab[1:], []string{part})
	if out, err := exec.Command(lab[0], args...).CombinedOutput(); err != nil {
		w.Fatalf("lab apiserver %s: %v: %s", verb, err, out)
	}
}
