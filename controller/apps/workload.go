package apps

import (
	"context"
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// The kinds of workloads that Berth knows.
const (
	deployment  = "Deployment"
	replicaSet  = "ReplicaSet"
	statefulSet = "StatefulSet"
	daemonSet   = "DaemonSet"
	job         = "Job"
	cronJob     = "CronJob"
)

var (
	appsVersion  = appsv1.SchemeGroupVersion.String()
	batchVersion = batchv1.SchemeGroupVersion.String()
)

// builtin says whether an owner is of a kind that Berth knows.
func builtin(o v1alpha1.PoolOwner) bool {
	group, _, _ := strings.Cut(o.APIVersion, "/")
	switch o.Kind {
	case deployment, replicaSet, statefulSet, daemonSet:
		return group == appsv1.GroupName
	case job, cronJob:
		return group == batchv1.GroupName
	}
	return false
}

func describe(o v1alpha1.PoolOwner) string {
	return fmt.Sprintf("%s %s/%s", o.Kind, o.Namespace, o.Name)
}

// workload as it is known.
type workload struct {
	owner       v1alpha1.PoolOwner
	meta        metav1.Object     // nil: there is none
	annotations map[string]string // of its pods
	unknown     bool              // nothing is known of its annotations
	need        int32
}

// errElsewhere: the pods are another workload's.
var errElsewhere = errors.New("is made by another workload")

// workload that a request names: itself, or the one above a ReplicaSet, a Job, or an object of another kind that controls pods.
func (r *reconciler) workload(ctx context.Context, owner v1alpha1.PoolOwner) (*workload, error) {
	w := &workload{owner: owner}
	key := client.ObjectKey{Namespace: owner.Namespace, Name: owner.Name}
	var err error
	switch {
	case !builtin(owner):
		return r.customWorkload(ctx, owner)
	case owner.Kind == deployment:
		var o appsv1.Deployment
		if err = r.cached.Get(ctx, key, &o); err == nil {
			w.meta, w.annotations, w.need = &o, o.Spec.Template.Annotations, needOfDeployment(&o)
		}
	case owner.Kind == replicaSet:
		var o appsv1.ReplicaSet
		if err = r.cached.Get(ctx, key, &o); err == nil {
			w.meta, w.annotations, w.need = &o, o.Spec.Template.Annotations, needOfReplicaSet(&o)
		}
	case owner.Kind == statefulSet:
		var o appsv1.StatefulSet
		if err = r.cached.Get(ctx, key, &o); err == nil {
			w.meta, w.annotations, w.need = &o, o.Spec.Template.Annotations, needOfStatefulSet(&o)
		}
	case owner.Kind == daemonSet:
		var o appsv1.DaemonSet
		if err = r.cached.Get(ctx, key, &o); err == nil {
			w.meta, w.annotations, w.need = &o, o.Spec.Template.Annotations, needOfDaemonSet(&o)
		}
	case owner.Kind == job:
		var o batchv1.Job
		if err = r.cached.Get(ctx, key, &o); err == nil {
			w.meta, w.annotations, w.need = &o, o.Spec.Template.Annotations, needOfJob(&o)
		}
	case owner.Kind == cronJob:
		var o batchv1.CronJob
		if err = r.cached.Get(ctx, key, &o); err == nil {
			w.meta, w.annotations = &o, o.Spec.JobTemplate.Spec.Template.Annotations
			w.need, err = r.needOfCronJob(ctx, &o)
		}
	}
	if apierrors.IsNotFound(err) {
		return w, nil
	}
	if err != nil {
		return nil, err
	}
	if above := metav1.GetControllerOfNoCopy(w.meta); above != nil && (owner.Kind == replicaSet || owner.Kind == job) {
		return r.above(ctx, w, *above)
	}
	return w, nil
}

// above a ReplicaSet or a Job.
func (r *reconciler) above(ctx context.Context, w *workload, ref metav1.OwnerReference) (*workload, error) {
	next := v1alpha1.PoolOwner{APIVersion: ref.APIVersion, Kind: ref.Kind, Namespace: w.owner.Namespace, Name: ref.Name}
	if builtin(next) {
		return nil, errElsewhere // whose own events are heard
	}
	r.learn(next, w.annotations)
	up, err := r.customWorkload(ctx, next)
	if errors.Is(err, errNoWorkload) {
		r.forget(next)
		return w, nil
	}
	return up, err
}

func (r *reconciler) needOfCronJob(ctx context.Context, c *batchv1.CronJob) (int32, error) {
	var jobs, own batchv1.JobList
	if err := r.cached.List(ctx, &jobs, client.InNamespace(c.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return 0, err
	}
	for _, j := range jobs.Items {
		if metav1.IsControlledBy(&j, c) {
			own.Items = append(own.Items, j)
		}
	}
	return needOfCronJob(c, own.Items), nil
}

// customWorkload that an object of an unknown kind is, or belongs to.
func (r *reconciler) customWorkload(ctx context.Context, from v1alpha1.PoolOwner) (*workload, error) {
	top, err := r.custom.climb(ctx, from)
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		switch other, err := r.custom.served(from); {
		case err != nil:
			return nil, err
		case other != from:
			r.pass(from, other)
			return r.customWorkload(ctx, other)
		}
	}
	switch {
	case apierrors.IsNotFound(err):
		r.forget(from)
		return &workload{owner: from}, nil
	case err != nil:
		return nil, err
	}
	r.pass(from, top)
	var known bool
	w := &workload{owner: top}
	if w.annotations, known = r.learned(top); !known {
		w.unknown = true
	}
	if err := r.follow(ctx, top); err != nil {
		return nil, err
	}
	o, err := r.custom.get(ctx, top)
	if apierrors.IsNotFound(err) {
		r.forget(top)
		return w, nil
	}
	if err != nil {
		return nil, err
	}
	w.meta = o
	w.need, err = r.custom.replicas(ctx, top)
	return w, err
}
