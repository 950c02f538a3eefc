//go:build apiserver

// Package apitest connects tests to the real API server that make test-api starts.
package apitest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Connect gives the configuration of the API server as it is.
func Connect(t testing.TB) *rest.Config { t.Helper(); return connect(t, "KUBECONFIG_APISERVER") }

func connect(t testing.TB, variable string) *rest.Config {
	t.Helper()
	kubeconfig := os.Getenv(variable)
	if kubeconfig == "" {
		t.Fatalf("%s is not set: run make test-api, which starts an API server and sets it", variable)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	return cfg
}

// Config of the API server, with the CRDs installed.
func Config(t testing.TB) *rest.Config { t.Helper(); return ConfigOf(t, "KUBECONFIG_APISERVER") }

var (
	installing sync.Mutex
	installed  = map[string]bool{} // by host
)

// ConfigOf another API server, whose kubeconfig a variable of the environment names, with the CRDs installed.
func ConfigOf(t testing.TB, variable string) *rest.Config {
	t.Helper()
	cfg := connect(t, variable)
	installing.Lock()
	defer installing.Unlock()
	if installed[cfg.Host] {
		return cfg
	}
	if len(installed) == 0 {
		klog.SetLogger(logr.Discard()) // client-go's complaints of faults that the tests make would bury what a test says
	}
	_, here, _, _ := runtime.Caller(0)
	files, err := filepath.Glob(filepath.Join(filepath.Dir(here), "../../../api/v1alpha1/crds/*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no CRDs: %v", err)
	}
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		install(t, client, f)
	}
	installed[cfg.Host] = true
	return cfg
}

func install(t testing.TB, client dynamic.Interface, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(data, crd); err != nil {
		t.Fatal(err)
	}
	crds := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if _, err := crds.Apply(t.Context(), crd.GetName(), crd, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
		t.Fatal(err)
	}
	plural, _, _ := unstructured.NestedString(crd.Object, "spec", "names", "plural")
	Eventually(t, plural+" are served", func() error {
		_, err := client.Resource(v1alpha1.GroupVersion.WithResource(plural)).List(t.Context(), metav1.ListOptions{Limit: 1})
		return err
	})
}

// Eventually f succeeds. Tests wait for what must come, and never for time to pass.
func Eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	var err error
	for range 1200 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%s: a minute later still %v", what, err)
}

// Unique name, so that tests do not meet in the API server.
func Unique(prefix string) string { return fmt.Sprintf("%s-%08x", prefix, rand.Uint32()) }

// RemoveLeases of a network at the end of the test.
func RemoveLeases(t testing.TB, leases *v1alpha1.LeaseClient, network string) {
	t.Cleanup(func() {
		list, err := leases.List(context.Background(), metav1.ListOptions{FieldSelector: "spec.network=" + network})
		if err != nil {
			t.Error(err)
			return
		}
		for _, l := range list.Items {
			if err := leases.Delete(context.Background(), l.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				t.Error(err)
			}
		}
	})
}
