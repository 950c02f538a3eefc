package apps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// custom workloads are those of kinds that Berth does not know: what controls a pod, or a ReplicaSet or Job of it, and has a scale
// subresource (kubectl scale works on it); of several one above the other, the topmost. Its replicas are read from there, its template
// from its pods.
type custom struct {
	live  client.Client // uncached
	kinds discovery.DiscoveryInterface

	mu     sync.Mutex
	scales map[schema.GroupVersionKind]scalable
}

// scalable is what discovery said of a kind.
type scalable struct {
	yes bool
	at  time.Time
}

// forgetScale is how long it is remembered that a kind has no scale subresource.
const forgetScale = time.Minute

// errNoWorkload: nothing that controls the pods can be scaled.
var errNoWorkload = errors.New("has no scale subresource")

// climb from a controller of pods, or of what makes them, to the topmost that can be scaled.
func (c *custom) climb(ctx context.Context, from v1alpha1.PoolOwner) (v1alpha1.PoolOwner, error) {
	var found v1alpha1.PoolOwner
	for at, depth := from, 0; depth < 8; depth++ { // no chain is that long, unless it is a ring
		if builtin(at) { // above a workload there is nothing that makes pods
			break
		}
		ok, err := c.canScale(gvkOf(at))
		if err != nil {
			return found, err
		}
		if ok {
			found = at
		}
		o, err := c.get(ctx, at)
		if err != nil {
			return found, err
		}
		above := metav1.GetControllerOfNoCopy(o)
		if above == nil {
			break
		}
		at = v1alpha1.PoolOwner{APIVersion: above.APIVersion, Kind: above.Kind, Namespace: at.Namespace, Name: above.Name}
	}
	if found == (v1alpha1.PoolOwner{}) {
		return found, errNoWorkload
	}
	return found, nil
}

func gvkOf(o v1alpha1.PoolOwner) schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(o.APIVersion, o.Kind)
}

// get its metadata.
func (c *custom) get(ctx context.Context, owner v1alpha1.PoolOwner) (*metav1.PartialObjectMetadata, error) {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(gvkOf(owner))
	if err := c.live.Get(ctx, client.ObjectKey{Namespace: owner.Namespace, Name: owner.Name}, o); err != nil {
		return nil, fmt.Errorf("%s: %w", describe(owner), err)
	}
	return o, nil
}

// mayList says why objects of a kind cannot be listed, if so.
func (c *custom) mayList(ctx context.Context, kind schema.GroupVersionKind) error {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	if err := c.live.List(ctx, list, client.Limit(1)); err != nil {
		return fmt.Errorf("list of %s: %w", kind.GroupKind(), err)
	}
	return nil
}

// replicas that it is to have.
func (c *custom) replicas(ctx context.Context, owner v1alpha1.PoolOwner) (int32, error) {
	o, scale := &unstructured.Unstructured{}, &unstructured.Unstructured{}
	o.SetGroupVersionKind(gvkOf(owner))
	o.SetNamespace(owner.Namespace)
	o.SetName(owner.Name)
	if err := c.live.SubResource("scale").Get(ctx, o, scale); err != nil {
		return 0, fmt.Errorf("scale of %s: %w", describe(owner), err)
	}
	n, _, err := unstructured.NestedInt64(scale.Object, "spec", "replicas") // absent: 0 (autoscaling/v1 ScaleSpec)
	if err != nil {
		return 0, fmt.Errorf("scale of %s: %w", describe(owner), err)
	}
	return int32(min(max(n, 0), 65536)), nil
}

// canScale says whether a kind has a scale subresource.
func (c *custom) canScale(kind schema.GroupVersionKind) (bool, error) {
	c.mu.Lock()
	s, ok := c.scales[kind]
	c.mu.Unlock()
	if ok && (s.yes || time.Since(s.at) < forgetScale) {
		return s.yes, nil
	}
	m, err := c.live.RESTMapper().RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return false, fmt.Errorf("kind %s: %w", kind.GroupKind(), err)
	}
	list, err := c.kinds.ServerResourcesForGroupVersion(kind.GroupVersion().String())
	if err != nil {
		return false, fmt.Errorf("discovery of %s: %w", kind.GroupVersion(), err)
	}
	s = scalable{at: time.Now()}
	for _, r := range list.APIResources {
		s.yes = s.yes || r.Name == m.Resource.Resource+"/scale"
	}
	c.mu.Lock()
	c.scales[kind] = s
	c.mu.Unlock()
	return s.yes, nil
}

// served is the owner in a version of its kind that the API server has: itself, unless its own is served no longer and another one is. Then
// the API server says of the object what it says of one that is gone.
func (c *custom) served(owner v1alpha1.PoolOwner) (v1alpha1.PoolOwner, error) {
	groups, err := c.kinds.ServerGroups()
	if err != nil {
		return owner, fmt.Errorf("discovery: %w", err)
	}
	i := slices.IndexFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == gvkOf(owner).Group })
	if i < 0 {
		return owner, nil
	}
	other := owner
	for _, v := range groups.Groups[i].Versions { // the preferred one first
		list, err := c.kinds.ServerResourcesForGroupVersion(v.GroupVersion)
		if err != nil {
			return owner, fmt.Errorf("discovery of %s: %w", v.GroupVersion, err)
		}
		switch {
		case !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Kind == owner.Kind && !strings.Contains(r.Name, "/") }):
		case v.GroupVersion == owner.APIVersion:
			return owner, nil
		case other == owner:
			other.APIVersion = v.GroupVersion
		}
	}
	return other, nil
}

// hidden says that nothing is known of an object since the cluster does not serve its kind, or not to the controller.
func hidden(err error) bool {
	return meta.IsNoMatchError(err) || apierrors.IsForbidden(err)
}
