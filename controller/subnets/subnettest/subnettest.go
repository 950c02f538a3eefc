//go:build apiserver

// Package subnettest is what the tests of Subnets do on a real API server, be it those of one cluster or of several.
package subnettest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/berthdev/berth/api/v1alpha1"
)

func scheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Client of Berth's kinds and of Kubernetes' own, which removes all that there is of a network at the end of the test.
func Client(t testing.TB, rc *rest.Config, network string) client.WithWatch {
	t.Helper()
	c, err := client.NewWithWatch(rc, client.Options{Scheme: scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { RemoveNetwork(t, c, network) })
	return c
}

// RemoveNetwork removes all that there is of a network.
func RemoveNetwork(t testing.TB, c client.Client, network string) {
	t.Helper()
	for _, kind := range []string{"IPLease", "IPPool", "Subnet", "IPBlock"} {
		var list unstructured.UnstructuredList
		list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind + "List"))
		if err := c.List(context.Background(), &list); err != nil {
			t.Error(err)
		}
		for i := range list.Items {
			if of, _, _ := unstructured.NestedString(list.Items[i].Object, "spec", "network"); of == network {
				remove(t, c, &list.Items[i])
			}
		}
	}
}

// RemovePool as the pools' controller does when it has no lease in use.
func RemovePool(t testing.TB, c client.Client, name string) {
	t.Helper()
	remove(t, c, &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}})
}

func remove(t testing.TB, c client.Client, o client.Object) {
	t.Helper()
	ctx := context.Background()
	if err := c.Delete(ctx, o); client.IgnoreNotFound(err) != nil {
		t.Error(err)
	}
	// No controller may be left to take the finalizer away.
	if err := c.Patch(ctx, o, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))); client.IgnoreNotFound(err) != nil {
		t.Error(err)
	}
}

// Start a controller, of the parts that add gives it, by its own connection; it ends with the test, or by the function returned.
func Start(t testing.TB, rc *rest.Config, name string, add func(ctrl.Manager) error) (stop func()) {
	t.Helper()
	off := true
	mgr, err := ctrl.NewManager(rc, ctrl.Options{
		Scheme: scheme(t), Logger: logr.FromSlogHandler(slog.NewTextHandler(t.Output(), nil)).WithName(name),
		Metrics: server.Options{BindAddress: "0"}, HealthProbeBindAddress: "0", Controller: config.Controller{SkipNameValidation: &off},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := add(mgr); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("controller of %s: %v", name, err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

// Condition in words.
func Condition(conditions []metav1.Condition, kind string) string {
	c := meta.FindStatusCondition(conditions, kind)
	if c == nil {
		return "none"
	}
	return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
}
