package apps

import (
	"context"
	"testing"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/nad"
)

// harbour is an API server with Fleets, which can be scaled, and Boats, which cannot; there are those that stand in it, with what controls them.
type harbour struct {
	client.Client
	discovery.DiscoveryInterface
	there map[string]string // kind and name, by kind and name of what it controls
}

var sea = schema.GroupVersion{Group: "example.berth.dev", Version: "v1"}

func (harbour) RESTMapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []string{"Fleet", "Boat"} {
		m.Add(sea.WithKind(kind), meta.RESTScopeNamespace)
	}
	return m
}

func (harbour) ServerResourcesForGroupVersion(string) (*metav1.APIResourceList, error) {
	return &metav1.APIResourceList{APIResources: []metav1.APIResource{{Name: "fleets", Kind: "Fleet"}, {Name: "fleets/scale", Kind: "Scale"}, {Name: "boats", Kind: "Boat"}}}, nil
}

func (harbour) ServerGroups() (*metav1.APIGroupList, error) { return &metav1.APIGroupList{}, nil }

func (h harbour) Get(_ context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	kind := o.GetObjectKind().GroupVersionKind().Kind
	above, ok := h.there[kind+" "+key.Name]
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Resource: kind}, key.Name)
	}
	o.SetName(key.Name)
	if above != "" {
		o.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: sea.String(), Kind: "Fleet", Name: above, Controller: new(true)}})
	}
	return nil
}

func (harbour) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

func (h harbour) SubResource(string) client.SubResourceClient { return scaled{} }

type scaled struct{ client.SubResourceClient }

func (scaled) Get(_ context.Context, _, scale client.Object, _ ...client.SubResourceGetOption) error {
	scale.(*unstructured.Unstructured).Object = map[string]any{"spec": map[string]any{"replicas": int64(1)}}
	return nil
}

type silent struct{}

func (silent) Eventf(_, _ runtime.Object, _, _, _, _ string, _ ...any) {}

// TestForgetsWhoIsGone: of what controlled pods and is no more nothing is remembered, be it a workload or not.
func TestForgetsWhoIsGone(t *testing.T) {
	h := harbour{there: map[string]string{}}
	r := &reconciler{
		cached: h, live: h, recorder: silent{}, log: logr.Discard(), now: time.Now, after: time.Hour,
		custom:    &custom{live: h, kinds: h, scales: map[schema.GroupVersionKind]scalable{}},
		watch:     func(schema.GroupVersionKind) error { return nil },
		templates: map[v1alpha1.PoolOwner]map[string]string{}, followed: map[schema.GroupVersionKind]bool{},
		patient: map[v1alpha1.PoolOwner]patience{}, told: map[v1alpha1.PoolOwner][]string{}, lacking: map[string]map[v1alpha1.PoolOwner]bool{},
	}
	boat := v1alpha1.PoolOwner{APIVersion: sea.String(), Kind: "Boat", Namespace: "ns", Name: "boat"}
	look := func() time.Duration {
		t.Helper()
		out, err := r.Reconcile(t.Context(), boat)
		if err != nil {
			t.Fatal(err)
		}
		return out.RequeueAfter
	}
	for _, above := range []string{"", "fleet"} { // nothing that can be scaled, and something
		h.there["Boat boat"] = above
		h.there["Fleet fleet"] = ""
		r.learn(boat, map[string]string{nad.SizeAnnotation: "1"}) // as of its pod
		again := look()
		delete(h.there, "Boat boat")
		if again > 0 {
			look()
		}
		if _, ok := r.templates[boat]; ok || len(r.told[boat]) > 0 {
			t.Errorf("below %q: it still knows %v, and has told %q", above, r.templates[boat], r.told[boat])
		}
	}
}
