package hub

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// link to the hub by one kubeconfig.
type link struct {
	kubeconfig []byte
	live       client.Client
	cached     cache.Cache
	cancel     context.CancelFunc
	done       chan struct{}
}

// patience with one request: longer, and the hub is away. Nothing but a claim waits for one.
const patience = 5 * time.Second

const networkIndex = "spec.network"

// reach the hub by the kubeconfig that the Secret has now.
func (h *Hub) reach(ctx context.Context) error {
	var secret corev1.Secret
	if err := h.live.Get(ctx, client.ObjectKey(h.cfg.Secret), &secret); err != nil {
		return fmt.Errorf("its kubeconfig: %w", err)
	}
	kubeconfig := secret.Data[KubeconfigKey]
	l := h.current()
	if l == nil || !bytes.Equal(l.kubeconfig, kubeconfig) {
		h.setLink(nil, errors.New("its kubeconfig has changed"))
		var err error
		if l, err = h.connect(ctx, kubeconfig); err != nil {
			return fmt.Errorf("Secret %s, key %s: %w", h.cfg.Secret, KubeconfigKey, err)
		}
		h.setLink(l, errors.New("its Subnets and IPBlocks have not been read yet"))
	}
	for _, list := range []client.ObjectList{&v1alpha1.SubnetList{}, &v1alpha1.IPBlockList{}} {
		if err := l.live.List(ctx, list, client.Limit(1)); err != nil {
			return err
		}
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if !l.cached.WaitForCacheSync(wait) {
		return errors.New("its Subnets and IPBlocks have not been read yet")
	}
	return nil
}

func (h *Hub) current() *link {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.link
}

// setLink replaces the link; the old one ends.
func (h *Hub) setLink(l *link, away error) {
	h.mu.Lock()
	old := h.link
	h.link, h.away = l, cmp.Or(away, h.away)
	h.mu.Unlock()
	if old != nil {
		old.cancel()
		<-old.done
	}
}

func (h *Hub) connect(ctx context.Context, kubeconfig []byte) (*link, error) {
	rc, err := restConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	rc.QPS, rc.Burst = 50, 100
	rc.UserAgent = "berth-controller/" + h.cfg.Cluster
	if h.cfg.wrap != nil {
		rc = h.cfg.wrap(rc)
	}
	scheme, mapper := kinds()
	l := &link{kubeconfig: kubeconfig, done: make(chan struct{})}
	if l.cached, err = cache.New(rc, cache.Options{Scheme: scheme, Mapper: mapper, DefaultTransform: cache.TransformStripManagedFields()}); err != nil {
		return nil, err
	}
	quick := rest.CopyConfig(rc)
	quick.Timeout = patience
	if l.live, err = client.New(quick, client.Options{Scheme: scheme, Mapper: mapper}); err != nil {
		return nil, err
	}
	ctx, l.cancel = context.WithCancel(ctx)
	if err := h.listen(ctx, l.cached); err != nil {
		l.cancel()
		return nil, err
	}
	go func() {
		defer close(l.done)
		if err := l.cached.Start(ctx); err != nil {
			h.log.Error(err, "watching the hub")
		}
	}()
	return l, nil
}

// listen to what changes in the hub: any of it is a reason to look.
func (h *Hub) listen(ctx context.Context, c cache.Cache) error {
	index := func(o client.Object) []string { return []string{o.(*v1alpha1.IPBlock).Spec.Network} }
	if err := c.IndexField(ctx, &v1alpha1.IPBlock{}, networkIndex, index); err != nil {
		return err
	}
	subnets, err := c.GetInformer(ctx, &v1alpha1.Subnet{}, cache.BlockUntilSynced(false))
	if err != nil {
		return err
	}
	poke := func() {
		select {
		case h.wake <- struct{}{}:
		default: // it is going to look anyway
		}
	}
	_, err = subnets.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { poke() }, DeleteFunc: func(any) { poke() },
		UpdateFunc: func(a, b any) {
			x, y := a.(client.Object), b.(client.Object)
			if x.GetGeneration() != y.GetGeneration() || (x.GetDeletionTimestamp() == nil) != (y.GetDeletionTimestamp() == nil) {
				poke()
			}
		},
	})
	return err
}

func restConfig(kubeconfig []byte) (*rest.Config, error) {
	if len(kubeconfig) == 0 {
		return nil, errors.New("is not there, or empty")
	}
	rc, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	if rc.ExecProvider != nil || rc.AuthProvider != nil {
		return nil, errors.New("wants a program to log in by (exec), which the controller's image has not; use a token or a certificate")
	}
	return rc, nil
}

// kinds that are read and written in a hub. They are known, so it need not be there to be asked for them.
func kinds() (*runtime.Scheme, meta.RESTMapper) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		panic(err) // the same kinds at each start
	}
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{v1alpha1.GroupVersion})
	for _, kind := range []string{"Subnet", "IPBlock"} {
		mapper.Add(v1alpha1.GroupVersion.WithKind(kind), meta.RESTScopeRoot)
	}
	return scheme, mapper
}
