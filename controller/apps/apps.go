// Package apps keeps the pools of workloads: for each whose pod template has the annotation berth.dev/subnet (or Spiderpool's), one IPPool
// for each interface and Subnet, as large as the workload needs it at once. It writes what a person would write, an IPPool with
// subnet, size and owner; package controller/subnets carves it. Names are a pure function of the workload (nad.PoolName), so that whoever
// makes the pool, and however often, makes one object.
//
// It hears of workloads by watches: of Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs and CronJobs, of which the cache holds
// what their size depends on (strip.go), and of pods, whose controllers may be of any other kind (custom.go). Such a kind is watched
// from its first pod on, as metadata.
package apps

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
	"github.com/berthdev/berth/nad"
)

// InterfaceAnnotation of an IPPool says for which interface of its workload's pods the controller has made it.
const InterfaceAnnotation = "berth.dev/interface"

// DefaultShrinkAfter is for how long a workload has needed less before its pool becomes smaller, and for how long it is gone before the
// pool goes: an update, a restart or a flapping autoscaler moves no address.
const DefaultShrinkAfter = 30 * time.Second

// concurrency of reconciling: each waits for a write as a rule.
const concurrency = 8

// Config of the controller.
type Config struct {
	// ShrinkAfter see DefaultShrinkAfter.
	ShrinkAfter time.Duration
}

type (
	queue  = workqueue.TypedRateLimitingInterface[v1alpha1.PoolOwner]
	object = client.Object
)

// reconciler of the pools of one workload.
type reconciler struct {
	cached   client.Client
	live     client.Reader
	custom   *custom
	recorder round.Recorder
	log      logr.Logger
	after    time.Duration
	now      func() time.Time

	watch func(schema.GroupVersionKind) error // objects of that kind

	mu        sync.Mutex
	templates map[v1alpha1.PoolOwner]map[string]string // annotations of pods, by what controls them, as far as that is of an unknown kind
	followed  map[schema.GroupVersionKind]bool
	patient   map[v1alpha1.PoolOwner]patience
	told      map[v1alpha1.PoolOwner][]string        // notes of events
	lacking   map[string]map[v1alpha1.PoolOwner]bool // whom a Subnet is missing
}

// Add the controller to a manager, whose cache has the objects of ByObject, and whose scheme has NetworkAttachmentDefinitions.
func Add(mgr ctrl.Manager, recorder round.Recorder, cfg Config) error {
	kinds, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return err
	}
	live, err := client.New(mgr.GetConfig(), client.Options{HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return err
	}
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.IPPool{}, ownerIndex, indexOwner); err != nil {
		return err
	}
	r := &reconciler{
		cached: mgr.GetClient(), live: live, recorder: recorder, log: mgr.GetLogger().WithName("apps"), after: cfg.ShrinkAfter, now: time.Now,
		custom:    &custom{live: live, kinds: kinds, scales: map[schema.GroupVersionKind]scalable{}},
		templates: map[v1alpha1.PoolOwner]map[string]string{}, followed: map[schema.GroupVersionKind]bool{},
		patient: map[v1alpha1.PoolOwner]patience{}, told: map[v1alpha1.PoolOwner][]string{},
		lacking: map[string]map[v1alpha1.PoolOwner]bool{},
	}
	b := builder.TypedControllerManagedBy[v1alpha1.PoolOwner](mgr).
		Named("apps").
		WithOptions(controller.TypedOptions[v1alpha1.PoolOwner]{MaxConcurrentReconciles: concurrency}).
		WithLogConstructor(func(o *v1alpha1.PoolOwner) logr.Logger {
			if o == nil {
				return r.log
			}
			return r.log.WithValues("workload", describe(*o))
		}).
		Watches(&appsv1.Deployment{}, r.of(appsVersion, deployment)).
		Watches(&appsv1.ReplicaSet{}, r.of(appsVersion, replicaSet)).
		Watches(&appsv1.StatefulSet{}, r.of(appsVersion, statefulSet)).
		Watches(&appsv1.DaemonSet{}, r.of(appsVersion, daemonSet)).
		Watches(&batchv1.Job{}, r.ofJob()).
		Watches(&batchv1.CronJob{}, r.of(batchVersion, cronJob)).
		Watches(&corev1.Pod{}, r.ofPod()).
		Watches(&v1alpha1.IPPool{}, r.ofPool()).
		Watches(&v1alpha1.Subnet{}, r.ofSubnet())
	c, err := b.Build(r)
	if err != nil {
		return err
	}
	r.watch = func(kind schema.GroupVersionKind) error {
		o := &metav1.PartialObjectMetadata{}
		o.SetGroupVersionKind(kind)
		return c.Watch(source.TypedKind(mgr.GetCache(), client.Object(o), r.ofCustom(kind)))
	}
	return nil
}

// annotationsOf the pods of a workload, as the cache has it.
func annotationsOf(o object) map[string]string {
	switch o := o.(type) {
	case *appsv1.Deployment:
		return o.Spec.Template.Annotations
	case *appsv1.ReplicaSet:
		return o.Spec.Template.Annotations
	case *appsv1.StatefulSet:
		return o.Spec.Template.Annotations
	case *appsv1.DaemonSet:
		return o.Spec.Template.Annotations
	case *batchv1.Job:
		return o.Spec.Template.Annotations
	case *batchv1.CronJob:
		return o.Spec.JobTemplate.Spec.Template.Annotations
	}
	return nil
}

// of wakes a workload that asks for a pool, or did.
func (r *reconciler) of(apiVersion, kind string) handler.TypedEventHandler[object, v1alpha1.PoolOwner] {
	return each(func(q queue, old, o object) {
		if nad.Carves(annotationsOf(o)) || old != nil && nad.Carves(annotationsOf(old)) {
			q.Add(v1alpha1.PoolOwner{APIVersion: apiVersion, Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()})
		}
	})
}

// ofJob wakes the CronJob above as well.
func (r *reconciler) ofJob() handler.TypedEventHandler[object, v1alpha1.PoolOwner] {
	return each(func(q queue, old, o object) {
		if !nad.Carves(annotationsOf(o)) {
			return
		}
		name := v1alpha1.PoolOwner{APIVersion: batchVersion, Kind: job, Namespace: o.GetNamespace(), Name: o.GetName()}
		if c := metav1.GetControllerOfNoCopy(o); c != nil && c.Kind == cronJob && builtin(v1alpha1.PoolOwner{APIVersion: c.APIVersion, Kind: c.Kind}) {
			name.Kind, name.Name = cronJob, c.Name
		}
		q.Add(name)
	})
}

// ofPod wakes what controls a pod that asks for a pool, where that is of an unknown kind; the others are watched themselves.
func (r *reconciler) ofPod() handler.TypedEventHandler[object, v1alpha1.PoolOwner] {
	return handler.TypedFuncs[object, v1alpha1.PoolOwner]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[object], q queue) {
			c := metav1.GetControllerOfNoCopy(e.Object)
			if c == nil || !nad.Carves(e.Object.GetAnnotations()) {
				return
			}
			o := v1alpha1.PoolOwner{APIVersion: c.APIVersion, Kind: c.Kind, Namespace: e.Object.GetNamespace(), Name: c.Name}
			if !builtin(o) {
				r.learn(o, e.Object.GetAnnotations())
				q.Add(o)
			}
		},
	}
}

// ofPool wakes its owner.
func (r *reconciler) ofPool() handler.TypedEventHandler[object, v1alpha1.PoolOwner] {
	return each(func(q queue, _, o object) {
		if p := o.(*v1alpha1.IPPool); ours(p) {
			q.Add(*p.Spec.Owner)
		}
	})
}

// ofSubnet wakes whom it was missing.
func (r *reconciler) ofSubnet() handler.TypedEventHandler[object, v1alpha1.PoolOwner] {
	return handler.TypedFuncs[object, v1alpha1.PoolOwner]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[object], q queue) {
			for _, o := range r.missing(e.Object.GetName()) {
				q.Add(o)
			}
		},
	}
}

// ofCustom wakes the workloads of a kind of which a pod was seen, or a pool is there.
func (r *reconciler) ofCustom(kind schema.GroupVersionKind) handler.TypedEventHandler[object, v1alpha1.PoolOwner] {
	return each(func(q queue, _, o object) {
		owner := v1alpha1.PoolOwner{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Namespace: o.GetNamespace(), Name: o.GetName()}
		_, known := r.learned(owner)
		if !known {
			pools, err := r.poolsOf(context.Background(), owner)
			known = err == nil && len(pools) > 0
		}
		if known {
			q.Add(owner)
		}
	})
}

// each event alike; old is nil but for updates.
func each(f func(q queue, old, o object)) handler.TypedEventHandler[object, v1alpha1.PoolOwner] {
	return handler.TypedFuncs[object, v1alpha1.PoolOwner]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[object], q queue) { f(q, nil, e.Object) },
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[object], q queue) { f(q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[object], q queue) { f(q, nil, e.Object) },
	}
}

// follow objects of the owner's kind from now on.
func (r *reconciler) follow(ctx context.Context, owner v1alpha1.PoolOwner) error {
	kind := gvkOf(owner)
	r.mu.Lock()
	followed := r.followed[kind]
	r.mu.Unlock()
	if followed {
		return nil
	}
	if err := r.custom.mayList(ctx, kind); err != nil {
		return err // which a watch would only log, for ever
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.followed[kind] {
		return nil
	}
	if err := r.watch(kind); err != nil {
		return fmt.Errorf("watch %s: %w", kind.GroupKind(), err)
	}
	r.followed[kind] = true
	return nil
}
