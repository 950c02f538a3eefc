//go:build apiserver

package controller

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/nad"
)

func TestAppsOfEveryKindOnAPIServer(t *testing.T) {
	y := newYard(t, newCluster(t))
	y.start(t, patiently)

	d := y.deployment("web", 4)
	y.create(t, d)
	p := y.wantSize(t, y.poolName("Deployment", "web"), 5)
	want := v1alpha1.PoolOwner{APIVersion: "apps/v1", Kind: "Deployment", Namespace: y.ns, Name: "web"}
	if *p.Spec.Owner != want || p.Spec.Subnet != y.subnet || p.Spec.Network != y.subnet || p.Spec.Keep || p.Spec.Netspace != "" {
		t.Errorf("%+v, owner %+v", p.Spec, p.Spec.Owner)
	}
	y.change(t, d, func() { d.Spec.Replicas = new(int32(50)) }) // as an autoscaler does
	y.wantSize(t, p.Name, 63)

	rs := &appsv1.ReplicaSet{ObjectMeta: y.meta("alone")}
	rs.Spec.Replicas, rs.Spec.Selector, rs.Spec.Template = new(int32(3)), d.Spec.Selector, y.template("web", nad.SizeAnnotation+"=+2")
	rs.Labels = d.Labels
	y.create(t, rs)
	y.wantSize(t, y.poolName("ReplicaSet", "alone"), 5)

	ss := &appsv1.StatefulSet{ObjectMeta: y.meta("db")}
	ss.Spec.Replicas, ss.Spec.Selector, ss.Spec.Template = new(int32(3)), &metav1.LabelSelector{MatchLabels: ss.Labels}, y.template("db", nad.ReclaimAnnotation+"=false")
	y.create(t, ss)
	if p := y.wantSize(t, y.poolName("StatefulSet", "db"), 3); !p.Spec.Keep {
		t.Error("not to be kept")
	}

	ds := &appsv1.DaemonSet{ObjectMeta: y.meta("probe")}
	ds.Spec.Selector, ds.Spec.Template = &metav1.LabelSelector{MatchLabels: ds.Labels}, y.template("probe")
	y.create(t, ds)
	y.wantSize(t, y.poolName("DaemonSet", "probe"), 0)
	ds.Status.DesiredNumberScheduled = 7
	if err := y.admin.Status().Update(t.Context(), ds); err != nil {
		t.Fatal(err)
	}
	y.wantSize(t, y.poolName("DaemonSet", "probe"), 7)

	j := &batchv1.Job{ObjectMeta: y.meta("once")}
	j.Spec.Parallelism, j.Spec.Template = new(int32(4)), y.template("once", nad.SizeAnnotation+"=2")
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	y.create(t, j)
	y.wantSize(t, y.poolName("Job", "once"), 2) // as asked

	cj := &batchv1.CronJob{ObjectMeta: y.meta("nightly")}
	cj.Spec.Schedule, cj.Spec.JobTemplate.Spec.Parallelism = "0 3 * * *", new(int32(2))
	cj.Spec.JobTemplate.Spec.Template = j.Spec.Template
	cj.Spec.JobTemplate.Spec.Template = y.template("nightly")
	cj.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	y.create(t, cj)
	y.wantSize(t, y.poolName("CronJob", "nightly"), 2)
	run := &batchv1.Job{ObjectMeta: y.meta("nightly-1"), Spec: *cj.Spec.JobTemplate.Spec.DeepCopy()}
	run.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(cj, batchv1.SchemeGroupVersion.WithKind("CronJob"))}
	y.create(t, run)
	y.wantSize(t, y.poolName("CronJob", "nightly"), 4)

	// What Deployments and CronJobs make has no pool of its own.
	owned := &appsv1.ReplicaSet{ObjectMeta: y.meta("web-abc"), Spec: *rs.Spec.DeepCopy()}
	owned.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}
	y.create(t, owned)
	y.create(t, y.deployment("last", 1))
	y.wantSize(t, y.poolName("Deployment", "last"), 2)
	for _, p := range y.pools(t) {
		if p.Spec.Owner.Name == "web-abc" || p.Spec.Owner.Name == "nightly-1" {
			t.Errorf("pool %s of %s", p.Name, p.Spec.Owner.Name)
		}
	}
	if n := len(y.pools(t)); n != 7 {
		t.Errorf("%d pools, want 7", n)
	}
}

func TestAppsByInterfaceOnAPIServer(t *testing.T) {
	y := newYard(t, newCluster(t))
	y.start(t, swiftly)
	other := &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: y.subnet + "-6"}}
	other.Spec.Network, other.Spec.CIDRs = y.subnet+"-6", []v1alpha1.SubnetCIDR{{CIDR: "fd00:64::/64"}}

	d := y.deployment("two", 1, "k8s.v1.cni.cncf.io/networks=a,b", nad.SubnetAnnotation+`=[{"interface":"net1","ipv4":["$"]},{"interface":"net2","ipv4":["$"],"ipv6":["$-6"]}]`)
	y.create(t, d)
	owner := y.owner("apps/v1", "Deployment", "two")
	net1, net2 := nad.PoolName(owner, "", "net1", y.subnet), nad.PoolName(owner, "", "net2", y.subnet)
	y.wantSize(t, net1, 2)
	y.wantSize(t, net2, 2)
	y.wantEvent(t, "Deployment", "two", "SubnetNotFound")
	y.create(t, other) // late
	net2v6 := nad.PoolName(owner, "", "net2", y.subnet+"-6")
	if p := y.wantSize(t, net2v6, 2); p.Spec.Network != other.Spec.Network {
		t.Errorf("network %q", p.Spec.Network)
	}

	// A pool that is asked for no longer goes once nobody has anything of it.
	leases := y.use(t, net1, 1)
	y.change(t, d, func() { d.Spec.Template.Annotations[nad.SubnetAnnotation] = "net2=" + y.subnet })
	y.wantGone(t, net2v6)
	if err := y.admin.Get(t.Context(), client.ObjectKey{Name: net1}, &v1alpha1.IPPool{}); err != nil {
		t.Error(err)
	}
	y.remove(t, leases[0])
	y.wantGone(t, net1)
	y.wantSize(t, net2, 2)

	// Bad annotations are told, and change nothing.
	y.change(t, d, func() { d.Spec.Template.Annotations[nad.SizeAnnotation], d.Spec.Replicas = "many", new(int32(7)) })
	y.wantEvent(t, "Deployment", "two", "AnnotationRefused")
	y.change(t, d, func() { delete(d.Spec.Template.Annotations, nad.SizeAnnotation) })
	y.wantSize(t, net2, 9)

	// Somebody else's object has the name.
	taken := pool(y.poolName("Deployment", "taken"), y.subnet, subnet("10.99.0.0/24"))
	y.create(t, taken)
	y.create(t, y.deployment("taken", 1))
	y.wantEvent(t, "Deployment", "taken", "PoolNameTaken")
}

func TestAppsShrinkAndReturnOnAPIServer(t *testing.T) {
	y := newYard(t, newCluster(t))
	stop := y.start(t, swiftly)
	d := y.deployment("web", 8)
	y.create(t, d)
	name := y.poolName("Deployment", "web")
	y.wantSize(t, name, 10)
	leases := y.use(t, name, 6)
	y.change(t, d, func() { d.Spec.Replicas = new(int32(2)) })
	y.wantSize(t, name, 6) // not below what is in use
	for _, l := range leases {
		y.remove(t, l)
	}
	y.wantSize(t, name, 3)

	// Deleted and made again, with the controller dead in between.
	y.remove(t, d)
	y.wantGone(t, name)
	y.create(t, y.deployment("web", 2))
	y.wantSize(t, name, 3)
	stop()
	y.remove(t, y.deployment("web", 2))
	y.start(t, swiftly)
	y.wantGone(t, name)

	// Kept without its workload, and given back to one of that name.
	kept := y.deployment("kept", 3, nad.ReclaimAnnotation+"=false")
	y.create(t, kept)
	keptName := y.poolName("Deployment", "kept")
	before := y.wantSize(t, keptName, 4)
	y.remove(t, kept)
	y.create(t, y.deployment("marker", 1))
	y.wantSize(t, y.poolName("Deployment", "marker"), 2)
	y.remove(t, y.deployment("marker", 1))
	y.wantGone(t, y.poolName("Deployment", "marker")) // which was deleted later
	y.create(t, y.deployment("kept", 5, nad.ReclaimAnnotation+"=true"))
	if after := y.wantSize(t, keptName, 7); after.UID != before.UID || after.Spec.Keep {
		t.Errorf("another pool, or kept still: %v", after.Spec.Keep)
	}

	// A pool that a person made for the workload is theirs.
	own := pool("own-"+y.ns, y.subnet, subnet("10.98.0.0/24"))
	owner := y.owner("apps/v1", "Deployment", "nobody")
	own.Spec.Owner = &owner
	y.create(t, own)
	y.create(t, y.deployment("marker2", 1))
	y.wantSize(t, y.poolName("Deployment", "marker2"), 2)
	y.remove(t, y.deployment("marker2", 1))
	y.wantGone(t, y.poolName("Deployment", "marker2"))
	if _, err := y.status(t, own.Name); err != nil {
		t.Error(err)
	}
}

func TestAppsNetspaceOnAPIServer(t *testing.T) {
	y := newYard(t, newCluster(t))
	n := &v1alpha1.Netspace{ObjectMeta: metav1.ObjectMeta{Name: y.ns}, Spec: v1alpha1.NetspaceSpec{Namespaces: []string{y.ns}, Subnets: []string{y.subnet}}}
	y.create(t, n)
	y.start(t, patiently)
	y.create(t, y.deployment("web", 1))
	p := y.wantSize(t, nad.PoolName(y.owner("apps/v1", "Deployment", "web"), y.ns, "eth0", y.subnet), 2)
	if p.Spec.Netspace != y.ns {
		t.Errorf("netspace %q", p.Spec.Netspace)
	}
	y.create(t, y.deployment("guest", 1, nad.NetspaceAnnotation+"=another"))
	y.wantEvent(t, "Deployment", "guest", "AnnotationRefused")
}

// TestAppsRaceOnAPIServer: a hundred equal workloads at once, seen by two controllers, make one pool; a thousand different ones a pool each.
func TestAppsRaceOnAPIServer(t *testing.T) {
	y := newYard(t, newCluster(t))
	y.start(t, patiently)
	y.start(t, patiently)
	var wg sync.WaitGroup
	var made atomic.Int32
	for range 100 {
		wg.Go(func() {
			switch err := y.admin.Create(t.Context(), y.deployment("same", 4)); {
			case err == nil:
				made.Add(1)
			case !apierrors.IsAlreadyExists(err):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() { y.remove(t, y.deployment("same", 4)) })
	y.wantSize(t, y.poolName("Deployment", "same"), 5)
	if n := len(y.pools(t)); n != 1 || made.Load() != 1 {
		t.Errorf("%d pools of %d workloads", n, made.Load())
	}
}

func TestAppsBurstOnAPIServer(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 50
	}
	y := newYard(t, newCluster(t))
	var requests atomic.Int64
	y.start(t, func(cfg *Config) { patiently(cfg) }, apitest.Count(&requests, func(r *http.Request) bool { return r.URL.Query().Get("watch") == "" }))
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < n; i += 8 {
				if err := y.admin.Create(t.Context(), y.deployment(fmt.Sprint("w", i), 2)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	begin := time.Now()
	wg.Wait()
	created := time.Since(begin)
	y.eventually(t, func() error {
		if have := len(y.pools(t)); have != n {
			return fmt.Errorf("%d pools of %d", have, n)
		}
		return nil
	})
	t.Logf("%d workloads made in %s, their pools %s after the first; %.1f requests a pool", n, created.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond),
		float64(requests.Load())/float64(n))
	if err := y.admin.DeleteAllOf(context.Background(), &appsv1.Deployment{}, client.InNamespace(y.ns)); err != nil {
		t.Error(err)
	}
}

// TestAppsKilledOnAPIServer: a controller that dies at any of its writes, heard or not, leaves nothing that the next does not mend.
func TestAppsKilledOnAPIServer(t *testing.T) {
	y := newYard(t, newCluster(t))
	for _, lost := range []bool{false, true} { // the request, or the answer
		for _, method := range []string{http.MethodPost, http.MethodPatch, http.MethodDelete} {
			t.Run(fmt.Sprintf("%s lost=%v", method, lost), func(t *testing.T) {
				m := apitest.NewMortal(func(r *http.Request) bool {
					return r.Method == method && strings.Contains(r.URL.Path, "/ippools") && !strings.HasSuffix(r.URL.Path, "/status")
				}, 0, lost)
				d := y.deployment(apitest.Unique("web"), 2)
				name := y.poolName("Deployment", d.Name)
				if method != http.MethodPost {
					stop := y.start(t, swiftly)
					y.create(t, d)
					y.wantSize(t, name, 3)
					stop()
				} else {
					y.create(t, d)
				}
				switch method {
				case http.MethodPatch:
					y.change(t, d, func() { d.Spec.Replicas = new(int32(20)) })
				case http.MethodDelete:
					y.remove(t, d)
				}
				stop := y.start(t, swiftly, m.Into)
				<-m.Dead()
				stop()
				y.start(t, swiftly)
				switch method {
				case http.MethodPost:
					y.wantSize(t, name, 3)
				case http.MethodPatch:
					y.wantSize(t, name, 25)
				case http.MethodDelete:
					y.wantGone(t, name)
				}
			})
		}
	}
}

// TestAppsGiveBackOnAPIServer: after a hundred times there and away again the Subnet has all that it had, and the workload the same pool.
func TestAppsGiveBackOnAPIServer(t *testing.T) {
	cycles := 100
	if testing.Short() {
		cycles = 5
	}
	y := newYard(t, newCluster(t))
	y.start(t, func(cfg *Config) {
		cfg.ShrinkAfter, cfg.ReturnAfter, cfg.ConfirmAfter = time.Millisecond, time.Millisecond, time.Hour
	})
	free := func() (string, error) {
		var s v1alpha1.Subnet
		err := y.admin.Get(t.Context(), client.ObjectKey{Name: y.subnet}, &s)
		if err == nil && (s.Status.IPv4 == nil || s.Status.IPv4.Carved != "0" || s.Status.IPv4.Returning != "" && s.Status.IPv4.Returning != "0") {
			err = fmt.Errorf("%+v", s.Status.IPv4)
		}
		return s.Status.Free, err
	}
	var before string
	y.eventually(t, func() (err error) { before, err = free(); return err })
	name := y.poolName("Deployment", "web")
	for i := range cycles {
		n := int32(1 + i%7)
		d := y.deployment("web", n)
		if err := y.admin.Create(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		size := *y.wantSize(t, name, n+(n+3)/4).Spec.Size
		if i%10 == 0 {
			leases := y.use(t, name, int(size))
			for _, l := range leases {
				y.remove(t, l)
			}
		}
		y.remove(t, d)
		y.wantGone(t, name)
	}
	y.eventually(t, func() error {
		after, err := free()
		if err == nil && after != before {
			err = fmt.Errorf("%s free, before %s", after, before)
		}
		return err
	})
	y.eventually(t, func() error {
		var blocks v1alpha1.IPBlockList
		if err := y.admin.List(t.Context(), &blocks, client.MatchingFields{"spec.network": y.subnet}); err != nil {
			return err
		}
		for _, b := range blocks.Items {
			if len(b.Spec.Parts) > 0 {
				return fmt.Errorf("block %s has %+v", b.Name, b.Spec.Parts)
			}
		}
		return nil
	})
}
