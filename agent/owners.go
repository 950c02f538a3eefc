package agent

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/store"
)

// ownersOf a pod: its controllers, as far as the pod itself tells them.
func ownersOf(pod *corev1.Pod) []v1alpha1.PoolOwner {
	c := metav1.GetControllerOf(pod)
	if c == nil {
		return nil
	}
	out := []v1alpha1.PoolOwner{{APIVersion: c.APIVersion, Kind: c.Kind, Namespace: pod.Namespace, Name: c.Name}}
	// A Deployment names its ReplicaSets after the template's hash, which the pods carry. Others that make ReplicaSets have labels of
	// their own for it.
	hash := pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if name, ok := strings.CutSuffix(c.Name, "-"+hash); ok && hash != "" && c.Kind == "ReplicaSet" {
		out = append(out, v1alpha1.PoolOwner{APIVersion: c.APIVersion, Kind: "Deployment", Namespace: pod.Namespace, Name: name})
	}
	return out
}

// owners of pods beyond what the pods tell: the CronJob above a Job, and whatever is above an object of an unknown kind. Each costs a
// read of metadata, once in a while, and only for pods of which a pool may be at stake.
type owners struct {
	client metadata.Interface
	kinds  meta.RESTMapper

	mu    sync.Mutex
	above map[v1alpha1.PoolOwner]aboveOf
}

// aboveOf an object: its controller, as it was then; the zero owner if it has none, or nobody may know.
type aboveOf struct {
	owner v1alpha1.PoolOwner
	at    time.Time
}

const (
	// aboveFor is how long it is believed. Objects hardly ever change hands; but rights do.
	aboveFor = time.Minute
	// mostAbove are remembered.
	mostAbove = 1024
	// deepest chain of controllers.
	deepest = 8
)

// chain of a pod's controllers, the topmost last. What cannot be read for want of rights or of the kind ends it.
func (o *owners) chain(ctx context.Context, pod *corev1.Pod) ([]v1alpha1.PoolOwner, error) {
	out := ownersOf(pod)
	for len(out) > 0 && len(out) < deepest {
		last := out[len(out)-1]
		if makesPods(last) {
			break
		}
		above, err := o.of(ctx, last)
		if err != nil {
			return nil, err
		}
		if above == (v1alpha1.PoolOwner{}) {
			break
		}
		out = append(out, above)
	}
	return out, nil
}

// makesPods says whether an object is a workload, whatever is above it: as for the controller.
func makesPods(o v1alpha1.PoolOwner) bool {
	group, _, _ := strings.Cut(o.APIVersion, "/")
	switch o.Kind {
	case "Deployment", "StatefulSet", "DaemonSet":
		return group == appsv1.GroupName
	case "CronJob":
		return group == batchv1.GroupName
	}
	return false
}

func (o *owners) of(ctx context.Context, below v1alpha1.PoolOwner) (v1alpha1.PoolOwner, error) {
	o.mu.Lock()
	known, ok := o.above[below]
	o.mu.Unlock()
	if ok && time.Since(known.at) < aboveFor {
		return known.owner, nil
	}
	above, err := o.read(ctx, below)
	if err != nil {
		return above, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.above) >= mostAbove {
		clear(o.above)
	}
	o.above[below] = aboveOf{above, time.Now()}
	return above, nil
}

func (o *owners) read(ctx context.Context, below v1alpha1.PoolOwner) (above v1alpha1.PoolOwner, err error) {
	kind := schema.FromAPIVersionAndKind(below.APIVersion, below.Kind)
	var resource schema.GroupVersionResource
	switch kind.GroupKind() {
	case schema.GroupKind{Group: appsv1.GroupName, Kind: "ReplicaSet"}:
		resource = appsv1.SchemeGroupVersion.WithResource("replicasets")
	case schema.GroupKind{Group: batchv1.GroupName, Kind: "Job"}:
		resource = batchv1.SchemeGroupVersion.WithResource("jobs")
	default:
		m, err := o.kinds.RESTMapping(kind.GroupKind(), kind.Version)
		if meta.IsNoMatchError(err) {
			return above, nil
		}
		if err != nil {
			return above, fmt.Errorf("%w: kind %s: %w", store.ErrUnavailable, kind.GroupKind(), err)
		}
		resource = m.Resource
	}
	object, err := o.client.Resource(resource).Namespace(below.Namespace).Get(ctx, below.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return above, nil
	case err != nil:
		return above, fmt.Errorf("%w: read %s %s/%s: %w", store.ErrUnavailable, below.Kind, below.Namespace, below.Name, err)
	}
	if c := metav1.GetControllerOfNoCopy(object); c != nil {
		above = v1alpha1.PoolOwner{APIVersion: c.APIVersion, Kind: c.Kind, Namespace: below.Namespace, Name: c.Name}
	}
	return above, nil
}
