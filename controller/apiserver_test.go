//go:build apiserver

package controller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/apps"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

const systemNamespace = "berth-system"

// cluster is a real API server on which deploy/install.yaml is applied, nothing of which runs.
type cluster struct {
	admin  client.WithWatch
	config *rest.Config
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	cfg := apitest.Connect(t)
	c := &cluster{config: cfg}
	c.install(t)
	c.eventually(t, func() (err error) { // the CRDs are served a moment after they are made
		if c.admin, err = client.NewWithWatch(cfg, client.Options{Scheme: newScheme()}); err != nil {
			return err
		}
		if err := c.admin.List(t.Context(), &v1alpha1.IPPoolList{}); err != nil {
			return err
		}
		return c.admin.List(t.Context(), &v1alpha1.IPLeaseList{})
	})
	return c
}

func (c *cluster) install(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile("../deploy/install.yaml")
	if err != nil {
		t.Fatal(err)
	}
	admin, err := client.New(c.config, client.Options{Scheme: runtime.NewScheme()})
	if err != nil {
		t.Fatal(err)
	}
	docs := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		u := &unstructured.Unstructured{}
		if err := docs.Decode(&u.Object); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if u.Object == nil {
			continue
		}
		if err := admin.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("test"), client.ForceOwnership); err != nil {
			t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

// start the controller with the rights of its service account and no others; it ends with the test, or by the function returned.
func (c *cluster) start(t *testing.T, change func(*Config), through ...func(*rest.Config) *rest.Config) (stop func()) {
	t.Helper()
	rc := c.account("berth-controller")
	for _, f := range through {
		rc = f(rc)
	}
	cfg := Config{
		Namespace: systemNamespace, NoLeaderElection: true, MetricsAddress: "0", HealthAddress: "0",
		Interval: 200 * time.Millisecond, ConfirmAfter: 2 * time.Second, ForgetAfter: time.Hour,
		ReserveFor: DefaultReserveFor, QuarantineFor: DefaultQuarantineFor, ShrinkAfter: apps.DefaultShrinkAfter, ReturnAfter: time.Second,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), ManyInProcess: true,
	}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := Run(ctx, rc, cfg); err != nil && ctx.Err() == nil {
			t.Errorf("controller: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// account is a service account of Berth's, with its rights and no others.
func (c *cluster) account(name string) *rest.Config {
	rc := rest.CopyConfig(c.config)
	rc.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + systemNamespace + ":" + name,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + systemNamespace, "system:authenticated"},
	}
	return rc
}

func (c *cluster) eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for range 300 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("30 seconds later still: %v", err)
}

// create an object for the length of the test.
func (c *cluster) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.admin.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.remove(t, o) })
}

func (c *cluster) remove(t *testing.T, o client.Object) {
	t.Helper()
	ctx := context.Background()
	if err := c.admin.Delete(ctx, o, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
		t.Error(err)
	}
	// No controller may be left to take the finalizer away.
	if err := c.admin.Patch(ctx, o, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))); client.IgnoreNotFound(err) != nil {
		t.Error(err)
	}
}

func (c *cluster) lease(t *testing.T, network, address, pool string, phase v1alpha1.LeasePhase, holder *v1alpha1.LeaseHolder) *v1alpha1.IPLease {
	t.Helper()
	l := lease(network, address, pool, phase)
	l.UID = ""
	l.Spec.Holder = holder
	if phase == v1alpha1.LeaseReleased {
		l.Spec.ReleasedAt = &metav1.Time{Time: time.Now()}
	}
	c.create(t, &l)
	return &l
}

func (c *cluster) status(t *testing.T, name string) (v1alpha1.IPPoolStatus, error) {
	t.Helper()
	var p v1alpha1.IPPool
	err := c.admin.Get(t.Context(), client.ObjectKey{Name: name}, &p)
	return p.Status, err
}

func (c *cluster) wantFree(t *testing.T, pool, free string) {
	t.Helper()
	c.eventually(t, func() error {
		s, err := c.status(t, pool)
		if err == nil && s.Free != free {
			err = fmt.Errorf("%s free in pool %s, want %s", s.Free, pool, free)
		}
		return err
	})
}

func TestPoolStatusOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.start(t, nil)
	p := pool("status", "statusnet", subnet("10.6.0.0/24"), subnet("2001:db8::/64"))
	c.create(t, p)
	c.wantFree(t, "status", "254 + 2^64")
	holder := &v1alpha1.LeaseHolder{Node: "elsewhere"} // in doubt: stays
	l := c.lease(t, "statusnet", "10.6.0.9", "status", v1alpha1.LeaseBound, holder)
	c.lease(t, "statusnet", "2001:db8::9", "status", v1alpha1.LeaseBound, holder)
	c.lease(t, "statusnet", "10.6.0.10", "", v1alpha1.LeaseReserved, nil)
	c.wantFree(t, "status", "252 + 2^64")
	s, err := c.status(t, "status")
	if err != nil {
		t.Fatal(err)
	}
	if s.IPv4.Bound != 1 || s.IPv6.Bound != 1 || s.IPv6.Free != "18446744073709551614" || !strings.HasPrefix(condition(s, v1alpha1.PoolReady), "True") {
		t.Errorf("status %+v, %+v, %+v", s, s.IPv4, s.IPv6)
	}
	if err := c.admin.Delete(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	c.wantFree(t, "status", "253 + 2^64")

	// The reserved one, made by hand with a minimal spec, got its pool.
	c.eventually(t, func() error {
		var l v1alpha1.IPLease
		err := c.admin.Get(t.Context(), client.ObjectKey{Name: "statusnet.10.6.0.10"}, &l)
		if err == nil && l.Labels[v1alpha1.LabelPool] != "status" {
			err = fmt.Errorf("labels %v", l.Labels)
		}
		return err
	})

	// Another pool with the same addresses: both say so, and an event does.
	other := pool("status-too", "statusnet", subnet("10.6.0.0/16", "10.6.0.200-10.6.1.10"))
	c.create(t, other)
	for _, name := range []string{"status", "status-too"} {
		c.eventually(t, func() error {
			s, err := c.status(t, name)
			if cond := condition(s, v1alpha1.PoolOverlapping); err == nil && !strings.Contains(cond, "10.6.0.200-10.6.0.254") {
				err = fmt.Errorf("pool %s: Overlapping is %s", name, cond)
			}
			return err
		})
	}
	c.wantEvent(t, "IPPool", "status", reasonOverlap)
}

// TestLongNoteOnAPIServer: an event tells also what takes more words than the API server lets one have.
func TestLongNoteOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.start(t, nil)
	const cidr, most = "2001:db8:1111:2222::/64", "2001:db8:1111:2222:3333:4444:5555"
	var ips []string
	for _, n := range []string{"1111", "2222", "3333"} {
		ips = append(ips, fmt.Sprintf("%[1]s:%[2]s-%[1]s:%[2]s", most, n), fmt.Sprintf("%[1]s:a%[2]s-%[1]s:b%[2]s", most, n[1:]))
	}
	name := strings.Repeat("long-name-", 6)
	for i := range 5 {
		c.create(t, pool(fmt.Sprint(name, i), "longnet", subnet(cidr, ips...)))
	}
	c.create(t, pool("long", "longnet", subnet(cidr)))
	c.wantEvent(t, "IPPool", "long", reasonOverlap)
}

func (c *cluster) wantEvent(t *testing.T, kind, name, reason string) {
	t.Helper()
	c.eventually(t, func() error {
		var events eventsv1.EventList
		if err := c.admin.List(t.Context(), &events); err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Regarding.Kind == kind && e.Regarding.Name == name && e.Reason == reason {
				return nil
			}
		}
		return fmt.Errorf("no event %s of %s %s among %d", reason, kind, name, len(events.Items))
	})
}

func TestBurstIsFewWrites(t *testing.T) {
	c := newCluster(t)
	c.create(t, pool("burst", "burstnet", subnet("10.8.0.0/16")))
	c.start(t, nil)
	c.wantFree(t, "burst", "65534")

	// Count the writes of the status as a watcher sees them.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	w, err := c.admin.Watch(ctx, &v1alpha1.IPPoolList{}, client.MatchingFields{"metadata.name": "burst"})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	go func() {
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*v1alpha1.IPPool); ok {
				mu.Lock()
				seen[p.Status.Free] = true
				mu.Unlock()
			}
		}
	}()

	const leases, workers = 1000, 10
	begin := time.Now()
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			for i := k; i < leases; i += workers {
				a := netip.AddrFrom4([4]byte{10, 8, byte(1 + i/250), byte(1 + i%250)})
				l := lease("burstnet", a.String(), "burst", v1alpha1.LeaseBound)
				l.UID = ""
				l.Spec.Holder = &v1alpha1.LeaseHolder{}
				if err := c.admin.Create(t.Context(), &l); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() {
		if err := c.admin.DeleteAllOf(context.Background(), &v1alpha1.IPLease{}, client.MatchingLabels{v1alpha1.LabelPool: "burst"}); err != nil {
			t.Error(err)
		}
	})
	c.wantFree(t, "burst", "64534")
	took := time.Since(begin)
	mu.Lock()
	defer mu.Unlock()
	if most := int(took/statusInterval) + 2; len(seen) > most {
		t.Errorf("%d writes of the status in %s, want at most %d", len(seen), took, most)
	}
	t.Logf("%d leases in %s: %d writes of the status", leases, took, len(seen))
}

func (c *cluster) pod(t *testing.T, name string) *corev1.Pod {
	t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
	if err := c.admin.Create(t.Context(), sa); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	p.Spec.AutomountServiceAccountToken = new(false)
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "none"}}
	c.create(t, p)
	return p
}

func holderOf(p *corev1.Pod) *v1alpha1.LeaseHolder {
	return &v1alpha1.LeaseHolder{Namespace: p.Namespace, Pod: p.Name, UID: p.UID, Node: "gone", ContainerID: "c", Interface: "net1"}
}

func TestGarbageCollectionOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.start(t, nil)
	dying, living, finished := c.pod(t, "gc-dying"), c.pod(t, "gc-living"), c.pod(t, "gc-finished")
	replaced := c.pod(t, "gc-replaced")
	finished.Status.Phase = corev1.PodSucceeded
	finished.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	if err := c.admin.Status().Update(t.Context(), finished); err != nil {
		t.Fatal(err)
	}
	unknownHolder := holderOf(living)
	unknownHolder.UID = ""
	unknownHolder.Pod = "gc-never-was"
	oldReplaced := holderOf(replaced)
	c.remove(t, replaced)
	c.pod(t, "gc-replaced")

	keep := []*v1alpha1.IPLease{
		c.lease(t, "gcnet", "10.9.0.1", "", v1alpha1.LeaseBound, holderOf(living)),
		c.lease(t, "gcnet", "10.9.0.2", "", v1alpha1.LeaseBound, unknownHolder),
		c.lease(t, "gcnet", "10.9.0.3", "", v1alpha1.LeaseReserved, holderOf(dying)),
	}
	begin := time.Now()
	free := []*v1alpha1.IPLease{
		c.lease(t, "gcnet", "10.9.0.4", "", v1alpha1.LeaseBound, holderOf(dying)),
		c.lease(t, "gcnet", "2001:db8::4", "", v1alpha1.LeaseBound, holderOf(dying)),
		c.lease(t, "gcnet", "10.9.0.5", "", v1alpha1.LeaseBound, holderOf(finished)),
		c.lease(t, "gcnet", "10.9.0.6", "", v1alpha1.LeaseBound, oldReplaced),
	}
	c.remove(t, dying)
	for _, l := range free {
		c.eventually(t, func() error {
			var got v1alpha1.IPLease
			err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(l), &got)
			if err == nil && got.Spec.Phase != v1alpha1.LeaseReleased {
				err = fmt.Errorf("lease %s is %s", l.Name, got.Spec.Phase)
			}
			return err
		})
	}
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("freed after %s, before a second look", took)
	}
	for _, l := range keep {
		var got v1alpha1.IPLease
		if err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(l), &got); err != nil || got.Spec.Phase != l.Spec.Phase {
			t.Errorf("lease %s is %s (%v), want it kept %s", l.Name, got.Spec.Phase, err, l.Spec.Phase)
		}
	}
	c.wantEvent(t, "IPLease", free[0].Name, podGone)
}

func TestForgetOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.start(t, func(cfg *Config) { cfg.ForgetAfter = time.Second })
	l := c.lease(t, "forgetnet", "10.9.0.1", "", v1alpha1.LeaseReleased, nil)
	c.eventually(t, func() error {
		err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(l), &v1alpha1.IPLease{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err == nil:
			return fmt.Errorf("lease %s is still there", l.Name)
		}
		return fmt.Errorf("lease %s: %w", l.Name, err)
	})
}

func TestPoolDeletionOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.start(t, nil)
	p := pool("leaving", "leavingnet", subnet("10.9.0.0/24"))
	c.create(t, p)
	c.wantFree(t, "leaving", "254")
	c.eventually(t, func() error {
		var got v1alpha1.IPPool
		err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(p), &got)
		if err == nil && len(got.Finalizers) == 0 {
			err = errors.New("no finalizer")
		}
		return err
	})
	bound := c.lease(t, "leavingnet", "10.9.0.1", "leaving", v1alpha1.LeaseBound, &v1alpha1.LeaseHolder{})
	released := c.lease(t, "leavingnet", "10.9.0.2", "leaving", v1alpha1.LeaseReleased, nil)
	if err := c.admin.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * statusInterval)
	s, err := c.status(t, "leaving")
	if err != nil || !strings.HasPrefix(condition(s, v1alpha1.PoolReady), "False "+reasonDeleting) {
		t.Fatalf("Ready is %s (%v)", condition(s, v1alpha1.PoolReady), err)
	}
	ipam.Release(bound, bound.Spec.Holder, time.Now())
	if err := c.admin.Update(t.Context(), bound); err != nil {
		t.Fatal(err)
	}
	for _, o := range []client.Object{p, bound, released} {
		c.eventually(t, func() error {
			err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(o), o)
			switch {
			case apierrors.IsNotFound(err):
				return nil
			case err == nil:
				return fmt.Errorf("%s is still there", o.GetName())
			}
			return fmt.Errorf("%s: %w", o.GetName(), err)
		})
	}
}

func TestLeaderElection(t *testing.T) {
	c := newCluster(t)
	elect := func(cfg *Config) {
		cfg.NoLeaderElection = false
		cfg.LeaseDuration, cfg.RenewDeadline, cfg.RetryPeriod = 4*time.Second, 3*time.Second, 500*time.Millisecond
	}
	leader := func() string {
		var l coordinationv1.Lease
		err := c.admin.Get(t.Context(), client.ObjectKey{Namespace: systemNamespace, Name: Name}, &l)
		if err != nil || l.Spec.HolderIdentity == nil {
			return ""
		}
		return *l.Spec.HolderIdentity
	}
	stopFirst := c.start(t, elect)
	var first string
	c.eventually(t, func() error {
		if first = leader(); first == "" {
			return errors.New("no leader")
		}
		return nil
	})
	c.start(t, elect)
	time.Sleep(2 * time.Second)
	if now := leader(); now != first {
		t.Fatalf("leader %q, want %q to stay", now, first)
	}
	stopFirst()
	c.eventually(t, func() error {
		if now := leader(); now == "" || now == first {
			return fmt.Errorf("leader %q", now)
		}
		return nil
	})
	// The second one works.
	c.create(t, pool("elected", "electednet", subnet("10.9.0.0/24")))
	c.wantFree(t, "elected", "254")
}
