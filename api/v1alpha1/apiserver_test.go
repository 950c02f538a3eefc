//go:build apiserver

package v1alpha1

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

// apiserver connects to the real API server that make test-api starts, and installs the CRDs there.
func apiserver(t *testing.T) dynamic.Interface {
	t.Helper()
	cfg := restConfig(t)
	c, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("crds/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no CRDs: %v", err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		installCRD(t, c, data)
	}
	return c
}

func restConfig(t *testing.T) *rest.Config {
	t.Helper()
	path := os.Getenv("KUBECONFIG_APISERVER")
	if path == "" {
		t.Fatal("KUBECONFIG_APISERVER is not set: run make test-api, which starts an API server and sets it")
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	return cfg
}

func installCRD(t *testing.T, c dynamic.Interface, data []byte) {
	t.Helper()
	ctx := t.Context()
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(data, crd); err != nil {
		t.Fatal(err)
	}
	crds := c.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if _, err := crds.Apply(ctx, crd.GetName(), crd, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
		t.Fatal(err)
	}
	plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural")
	// The CRD's Established condition may come before the server serves it.
	eventually(t, func() error {
		_, err := c.Resource(GroupVersion.WithResource(plural)).List(ctx, metav1.ListOptions{Limit: 1})
		return err
	})
}

func eventually(t *testing.T, f func() error) {
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

// create returns what the API server says to a manifest; what it accepts is removed at the end of the test.
func create(t *testing.T, r dynamic.ResourceInterface, manifest string) (*unstructured.Unstructured, error) {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(manifest), u); err != nil {
		t.Fatalf("%v in\n%s", err, manifest)
	}
	got, err := r.Create(t.Context(), u, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if err == nil {
		t.Cleanup(func() {
			if err := r.Delete(context.Background(), u.GetName(), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		})
	}
	return got, err
}
