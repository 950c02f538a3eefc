package hub

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

	synced bool      // cached has been read
	quiet  time.Time // until when nothing is claimed

	mu      sync.Mutex
	version string // of our HubMember, as last written
}

// patience with one request: longer, and the hub is away. Nothing but a claim waits for one.
const patience = 5 * time.Second

const networkIndex = "spec.network"

var errUnread = errors.New("its Subnets and IPBlocks have not been read yet")

// reach the hub by the kubeconfig that the Secret has now.
func (h *Hub) reach(ctx context.Context) error {
	var secret corev1.Secret
	err := h.live.Get(ctx, client.ObjectKey(h.cfg.Secret), &secret)
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		h.setLink(nil, err)
		return h.refused(err)
	case err != nil:
		return fmt.Errorf("its kubeconfig: %w", err)
	}
	l, kubeconfig := h.current(), secret.Data[KubeconfigKey]
	if l == nil || !bytes.Equal(l.kubeconfig, kubeconfig) {
		h.setLink(nil, errors.New("its kubeconfig has changed"))
		if l, err = h.connect(ctx, kubeconfig); err != nil {
			return h.refused(err)
		}
		h.setLink(l, errUnread)
	}
	for _, list := range []client.ObjectList{&v1alpha1.SubnetList{}, &v1alpha1.IPBlockList{}} {
		if err := l.live.List(ctx, list, client.Limit(1)); err != nil {
			return h.refused(err)
		}
	}
	err = h.register(ctx, l)
	if err != nil && !errors.Is(err, errRestored) {
		return err
	}
	if _, away := h.ready(); l.synced && (err != nil || away != nil) {
		if l, err = h.anew(ctx, kubeconfig); err != nil {
			return err
		}
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if l.synced = l.cached.WaitForCacheSync(wait); !l.synced {
		return errUnread
	}
	return nil
}

// refused marks an error that is the kubeconfig's.
func (h *Hub) refused(err error) error {
	switch {
	case errors.Is(err, errKubeconfig), apierrors.IsNotFound(err), apierrors.IsUnauthorized(err), apierrors.IsForbidden(err),
		errors.As(err, new(*tls.CertificateVerificationError)):
		return refusal{reasonKubeconfig, fmt.Errorf("Secret %s, key %s: %w", h.cfg.Secret, KubeconfigKey, err)}
	}
	return err
}

// anew reads the hub from the beginning. One that was away may have been restored from a backup: then a watch that goes on from a version to
// come may miss what was before that, and members may hold blocks that the hub has forgotten. They are given time to say so before anything
// is claimed.
func (h *Hub) anew(ctx context.Context, kubeconfig []byte) (*link, error) {
	l, err := h.connect(ctx, kubeconfig)
	if err != nil {
		return nil, err
	}
	h.hush(l)
	h.setLink(l, errUnread)
	h.log.Info("the hub is read anew, since it was away, or has been restored from a backup")
	return l, nil
}

// hush has nothing claimed by a link for two looks of the members.
func (h *Hub) hush(l *link) { l.quiet = time.Now().Add(2 * h.cfg.Interval) }

// errRestored: the hub is not as we left it.
var errRestored = errors.New("the hub has been restored from a backup, says the HubMember")

// unseenFor is how old the last sign of life of another controller of this cluster may be for it not to be a backup's. With an older one nobody
// has seen the hub since, so that it may have been restored meanwhile.
const unseenFor = time.Minute

// register the name of this cluster, or find that it is another's. What another left under it must be given back first, by a person.
func (h *Hub) register(ctx context.Context, l *link) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, err := h.member(ctx, l)
	switch {
	case apierrors.IsNotFound(err):
		if err := h.nameless(ctx, l); err != nil {
			return err
		}
		m.Name, m.Spec.UID, m.Spec.Seen = h.cfg.Cluster, string(*h.uid.Load()), metav1.Now()
		err = l.live.Create(ctx, m)
	case err == nil && time.Since(m.Spec.Seen.Time) > 2*h.cfg.Interval:
		if l.version == "" && time.Since(m.Spec.Seen.Time) > unseenFor {
			h.hush(l)
		}
		m.Spec.Seen = metav1.Now()
		err = l.live.Update(ctx, m)
	case errors.Is(err, errRestored):
		l.version = m.ResourceVersion
		return err
	case errors.As(err, new(refusal)):
		return err
	}
	if err != nil {
		return h.refused(fmt.Errorf("HubMember %q: %w", h.cfg.Cluster, err))
	}
	l.version = m.ResourceVersion
	return nil
}

// member is ours in the hub, which must be as we left it. The caller holds the lock of l.
func (h *Hub) member(ctx context.Context, l *link) (*v1alpha1.HubMember, error) {
	m := &v1alpha1.HubMember{}
	err := l.live.Get(ctx, client.ObjectKey{Name: h.cfg.Cluster}, m)
	switch {
	case err == nil && m.Spec.UID != string(*h.uid.Load()):
		return nil, h.namesake(m.Spec.UID)
	case err == nil && l.version != "" && m.ResourceVersion != l.version:
		return m, errRestored
	}
	return m, err
}

// nameless says whether nothing is left in the hub under our name by another cluster.
func (h *Hub) nameless(ctx context.Context, l *link) error {
	var blocks v1alpha1.IPBlockList
	if err := l.live.List(ctx, &blocks, client.MatchingFields{"spec.cluster": h.cfg.Cluster}); err != nil {
		return err
	}
	for i := range blocks.Items {
		if !h.ours(&blocks.Items[i]) {
			return h.namesake(blocks.Items[i].Annotations[v1alpha1.AnnotationClusterUID])
		}
	}
	return nil
}

func (h *Hub) namesake(other string) error {
	return refusal{reasonNamesake, fmt.Errorf("in the hub the name %[1]q is another cluster's, of UID %[2]s (of its namespace kube-system), and this one has UID %[3]s; "+
		"give this one another --cluster-name; or, if the other is no more, delete in the hub what it had: kubectl delete ipblocks -l %[4]s=%[1]s && kubectl delete hubmember --ignore-not-found %[1]s",
		h.cfg.Cluster, other, *h.uid.Load(), v1alpha1.LabelCluster)}
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

// errKubeconfig: no connection can be made of it.
var errKubeconfig = errors.New("no kubeconfig to use")

func restConfig(kubeconfig []byte) (*rest.Config, error) {
	if len(kubeconfig) == 0 {
		return nil, fmt.Errorf("%w: it is not there, or empty", errKubeconfig)
	}
	rc, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKubeconfig, err)
	}
	if rc.ExecProvider != nil || rc.AuthProvider != nil {
		return nil, fmt.Errorf("%w: %s", errKubeconfig, "it wants a program to log in by (exec), which the controller's image has not; use a token or a certificate")
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
	for _, kind := range []string{"Subnet", "IPBlock", "HubMember"} {
		mapper.Add(v1alpha1.GroupVersion.WithKind(kind), meta.RESTScopeRoot)
	}
	return scheme, mapper
}
