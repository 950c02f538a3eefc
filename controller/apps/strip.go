package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/nad"
)

// ByObject says what the cache holds of workloads: of those that ask for a pool what their size depends on, of the others their names.
func ByObject() map[client.Object]cache.ByObject {
	out := map[client.Object]cache.ByObject{}
	for _, o := range []client.Object{&appsv1.Deployment{}, &appsv1.ReplicaSet{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}, &batchv1.Job{}, &batchv1.CronJob{}} {
		out[o] = cache.ByObject{Transform: strip}
	}
	return out
}

func strip(o any) (any, error) {
	switch o := o.(type) {
	case *appsv1.Deployment:
		out := &appsv1.Deployment{ObjectMeta: stripMeta(o)}
		if nad.Carves(o.Spec.Template.Annotations) {
			out.Spec.Replicas, out.Spec.Strategy, out.Spec.Template = o.Spec.Replicas, o.Spec.Strategy, stripTemplate(o.Spec.Template)
		}
		return out, nil
	case *appsv1.ReplicaSet:
		out := &appsv1.ReplicaSet{ObjectMeta: stripMeta(o)}
		if nad.Carves(o.Spec.Template.Annotations) {
			out.Spec.Replicas, out.Spec.Template = o.Spec.Replicas, stripTemplate(o.Spec.Template)
		}
		return out, nil
	case *appsv1.StatefulSet:
		out := &appsv1.StatefulSet{ObjectMeta: stripMeta(o)}
		if nad.Carves(o.Spec.Template.Annotations) {
			out.Spec.Replicas, out.Spec.Template = o.Spec.Replicas, stripTemplate(o.Spec.Template)
		}
		return out, nil
	case *appsv1.DaemonSet:
		out := &appsv1.DaemonSet{ObjectMeta: stripMeta(o)}
		if nad.Carves(o.Spec.Template.Annotations) {
			out.Spec.UpdateStrategy, out.Spec.Template = o.Spec.UpdateStrategy, stripTemplate(o.Spec.Template)
			out.Status.DesiredNumberScheduled = o.Status.DesiredNumberScheduled
		}
		return out, nil
	case *batchv1.Job:
		out := &batchv1.Job{ObjectMeta: stripMeta(o)}
		if nad.Carves(o.Spec.Template.Annotations) {
			out.Spec, out.Status.Conditions = stripJob(o.Spec), o.Status.Conditions
		}
		return out, nil
	case *batchv1.CronJob:
		out := &batchv1.CronJob{ObjectMeta: stripMeta(o)}
		if nad.Carves(o.Spec.JobTemplate.Spec.Template.Annotations) {
			out.Spec.Suspend, out.Spec.ConcurrencyPolicy = o.Spec.Suspend, o.Spec.ConcurrencyPolicy
			out.Spec.JobTemplate.Spec = stripJob(o.Spec.JobTemplate.Spec)
		}
		return out, nil
	}
	return o, nil
}

func stripJob(s batchv1.JobSpec) batchv1.JobSpec {
	return batchv1.JobSpec{Parallelism: s.Parallelism, Completions: s.Completions, Suspend: s.Suspend, Template: stripTemplate(s.Template)}
}

func stripTemplate(t corev1.PodTemplateSpec) (out corev1.PodTemplateSpec) {
	out.Annotations = nad.Relevant(t.Annotations)
	return out
}

func stripMeta(o metav1.Object) metav1.ObjectMeta {
	out := metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(),
		DeletionTimestamp: o.GetDeletionTimestamp()}
	if c := metav1.GetControllerOfNoCopy(o); c != nil {
		out.OwnerReferences = []metav1.OwnerReference{*c}
	}
	return out
}

// StripPod gives of a pod what is read here; nothing of one that asks for no pool.
func StripPod(p *corev1.Pod, out *metav1.ObjectMeta) {
	relevant := nad.Relevant(p.Annotations)
	if relevant == nil {
		return
	}
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	for key, value := range relevant {
		out.Annotations[key] = value
	}
	if c := metav1.GetControllerOfNoCopy(p); c != nil {
		out.OwnerReferences = []metav1.OwnerReference{*c}
	}
}
