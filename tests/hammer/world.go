package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

const (
	namespace = "hammer"
	network   = "hammer"
	labName   = "hammer"
)

// world is all that a run has: one API server, agents, a controller, and lives of pods.
type world struct {
	opts
	dir     string // sockets, journals, the namespaces of sandboxes
	history *history
	config  *rest.Config
	kube    kubernetes.Interface
	pools   *v1alpha1.PoolClient
	leases  *v1alpha1.LeaseClient
	blocks  *v1alpha1.BlockClient
	subnets *v1alpha1.SubnetClient
	trace   *trace

	machines   []*machine
	controller *program
	sets       []*set
	pairs      []*ipam.Pool
	all        []*ipam.Pool // as they were made
	ops        atomic.Int64
	tasks      sync.WaitGroup // that end with the run
	errands    sync.WaitGroup // that end by themselves
}

// random source of one actor. What it does depends on the seed, and on what it meets; not on the other actors' sources.
func (o opts) random(actor string, n int) *rand.Rand {
	stream := uint64(n)
	for _, b := range []byte(actor) {
		stream = stream*131 + uint64(b) + 1<<32
	}
	return rand.New(rand.NewPCG(o.seed, stream))
}

// op counts an operation, and says whether there are more to come.
func (w *world) op() bool { return w.ops.Add(1) < int64(w.n) }

func (w *world) more(ctx context.Context) bool {
	select {
	case <-w.history.violated:
		return false
	default:
		return ctx.Err() == nil && w.ops.Load() < int64(w.n)
	}
}

// lab runs a command of the lab's API server.
func (w *world) lab(ctx context.Context, args ...string) (string, error) {
	args = append([]string{"apiserver"}, args...)
	args = append(args[:2], append([]string{"--dir", w.labDir, "--name", labName}, args[2:]...)...)
	out, err := exec.CommandContext(ctx, w.labBin, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("lab %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// start the API server and put in it what the run needs.
func (w *world) start(ctx context.Context) error {
	if _, err := w.lab(ctx, "down"); err != nil { // of a run that was killed
		return err
	}
	out, err := w.lab(ctx, "up")
	if err != nil {
		return err
	}
	_, kubeconfig, _ := strings.Cut(strings.TrimSpace(out), "export KUBECONFIG=")
	if w.config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return err
	}
	w.config.QPS = -1
	if w.kube, err = kubernetes.NewForConfig(w.config); err != nil {
		return err
	}
	if w.pools, w.leases, err = v1alpha1.NewClients(w.config); err != nil {
		return err
	}
	if w.subnets, w.blocks, err = v1alpha1.NewSubnetClients(w.config); err != nil {
		return err
	}
	kubectl := exec.CommandContext(ctx, filepath.Join(w.labDir, "bin/kubectl"), "--kubeconfig", kubeconfig, "apply", "--server-side", "-f", "api/v1alpha1/crds")
	if out, err := kubectl.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w\n%s", err, out)
	}
	return w.objects(ctx)
}

func (w *world) objects(ctx context.Context) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}} // no controller runs to make it
	if err := w.insist(ctx, func() error {
		_, err := w.kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	if err := w.insist(ctx, func() error {
		_, err := w.kube.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	netspaces, err := v1alpha1.NewNetspaceClient(w.config)
	if err != nil {
		return err
	}
	for _, name := range []string{poolTenant, poolNeighbor} {
		n := &v1alpha1.Netspace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := w.insist(ctx, func() error { _, err := netspaces.Create(ctx, n, metav1.CreateOptions{}); return err }); err != nil {
			return err
		}
	}
	for _, p := range poolSpecs(w.opts) {
		compiled, err := ipam.Compile(p)
		if err != nil {
			return err
		}
		w.all = append(w.all, compiled)
		if p.Name == poolPairs {
			w.pairs = append(w.pairs, compiled)
		}
		if err := w.insist(ctx, func() error { _, err := w.pools.Create(ctx, p, metav1.CreateOptions{}); return err }); err != nil {
			return err
		}
	}
	for _, s := range subnetSpecs() {
		if err := w.insist(ctx, func() error { _, err := w.subnets.Create(ctx, s, metav1.CreateOptions{}); return err }); err != nil {
			return err
		}
	}
	compiled, err := ipam.Compile(twins())
	if err != nil {
		return err
	}
	w.pairs = append(w.pairs, compiled)
	for i := range w.agents / 4 {
		if err := w.newSet(ctx, setName(i)); err != nil {
			return err
		}
	}
	return nil
}

// insist on a request of the hammer's own, which has no faults but an API server that is away. Found so is as good as made so, which a
// try may have done whose answer was lost.
func (w *world) insist(ctx context.Context, f func() error) error {
	var err error
	for ctx.Err() == nil {
		if err = f(); err == nil || apierrors.IsAlreadyExists(err) {
			return nil
		}
		if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) && !strings.Contains(err.Error(), "not yet ready") {
			return err
		}
		pause(ctx, 100*time.Millisecond)
	}
	return errors.Join(ctx.Err(), err)
}

// unlessGone makes nothing of an object that is not there.
func unlessGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// stop everything and remove it.
func (w *world) stop() error {
	for _, m := range w.machines {
		m.kill("the run ends")
	}
	w.controller.kill()
	_, err := w.lab(context.Background(), "down")
	return errors.Join(err, os.RemoveAll(w.dir))
}
