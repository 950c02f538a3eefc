package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// What deploy/install.yaml makes.
const (
	berthNamespace = "berth-system"
	agentName      = "berth-agent"
	controllerName = "berth-controller"
)

var agentPods = client.MatchingLabels{"app.kubernetes.io/name": "berth", "app.kubernetes.io/component": "agent"}

const (
	// patience is how long anything may take that takes seconds on an idle machine.
	patience = 2 * time.Minute
	// crowd is patience for what dozens of pods do.
	crowd = 6 * time.Minute
	tick  = 200 * time.Millisecond
)

// cluster is where the tests are.
type cluster struct {
	client.Client
	lab *lab
}

// on is the cluster of all tests.
var on *cluster

func connect(l *lab) (*cluster, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", l.kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("lab %q is not up: %w", l.name, err)
	}
	cfg.QPS = -1
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	return &cluster{c, l}, nil
}

// eventually waits until ok returns no error; its last one is the test's if it never does.
func eventually(t testing.TB, limit time.Duration, what string, ok func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var last error
	for {
		err := ok(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s: %v", limit, what, last)
		case <-time.After(tick):
		}
	}
}

// must is for calls that have to work.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kubectl as a user.
func kubectl(t testing.TB, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := on.lab.kubectl(ctx, args...)
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	return output(cmd)
}

// remove an object and wait until it is gone.
func remove(t testing.TB, o client.Object, opts ...client.DeleteOption) {
	t.Helper()
	ctx := context.Background()
	if err := on.Delete(ctx, o, opts...); client.IgnoreNotFound(err) != nil {
		t.Fatalf("delete %s: %v", o.GetName(), err)
	}
	gone(t, o)
}

// gone waits until an object is.
func gone(t testing.TB, o client.Object) {
	t.Helper()
	key, uid := client.ObjectKeyFromObject(o), o.GetUID()
	deadline := time.Now().Add(patience)
	for {
		err := on.Get(context.Background(), key, o)
		if apierrors.IsNotFound(err) || err == nil && uid != "" && o.GetUID() != uid {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still there after %v; finalizers %v", key, patience, o.GetFinalizers())
		}
		time.Sleep(tick)
	}
}

// rolledOut waits until every pod of the installation is the newest and ready.
func rolledOut(t testing.TB, what string) {
	t.Helper()
	if _, err := kubectl(t, "", "-n", berthNamespace, "rollout", "status", what, "--timeout=2m"); err != nil {
		t.Fatal(err)
	}
}

// agentOn returns the ready agent pod of the node, if there is one.
func agentOn(ctx context.Context, n node) (*corev1.Pod, error) {
	var list corev1.PodList
	if err := on.List(ctx, &list, client.InNamespace(berthNamespace), agentPods); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if p := &list.Items[i]; p.Spec.NodeName == string(n) && p.DeletionTimestamp == nil {
			return p, notReady(p)
		}
	}
	return nil, fmt.Errorf("no agent on %s", n)
}

// notReady says why a pod is not ready; nil if it is.
func notReady(p *corev1.Pod) error {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("pod %s on %q is %s, not ready", p.Name, p.Spec.NodeName, p.Status.Phase)
}
