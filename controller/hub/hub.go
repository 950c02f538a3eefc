// Package hub lets a cluster be a member of several under one plan: the Subnets of another cluster, the hub, are copied here, and a block of
// them is carved from only while the hub has an IPBlock of its name that is this cluster's. The name is the lock, there as here.
//
// A block in the member is one of:
//
//	block here      means                                       next
//	(absent)        not ours                                    claim → claimed
//	claimed         spec.cluster set, no mark: we ask the hub   the hub's is ours → open; another's → (absent); crash → returning
//	open            spec.cluster empty, mark = UID of the       empty → returning; the hub's is another's → lost;
//	                hub's: it is carved from                    the hub has none → claimed again there, and open
//	lost            mark "lost", disputed = who has it          empty → (absent); the hub has none → claimed again there, and open
//	returning       spec.cluster set, mark = UID of the hub's   the hub's deleted by that UID → (absent)
//
// Each arrow is one write that is compared with what was read, so a controller may end anywhere, and two may run. Why no block is in two
// hands: only what was claimed is opened, and only if it was not touched since before the hub said that the block is ours; who takes it
// back touches it first, by the mark, and deletes in the hub only the very block that it read before. With the hub's block ours and none here,
// a returning one is made here first: its name locks the claim out.
//
// Two hands there are only if the hub forgot a block: it was restored from a backup, or a person deleted it. Who finds the block that he
// has lost to another writes so into the hub's (disputed), from which the other copies it: then neither carves from it, and pools of both
// leave it, until one of the two has nothing left in it.
package hub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
	"github.com/berthdev/berth/controller/subnets"
)

// Config of the package.
type Config struct {
	// Cluster is this cluster's name in the hub.
	Cluster string
	// Secret with the kubeconfig of the hub under KubeconfigKey.
	Secret types.NamespacedName
	// Interval of looks at the hub; 0: 5 s.
	Interval time.Duration

	wrap func(*rest.Config) *rest.Config // between us and the hub, in tests
}

// KubeconfigKey of the Secret.
const KubeconfigKey = "kubeconfig"

// Hub is the other cluster, from the view of a member. It is the subnets.Blocks of the carver.
type Hub struct {
	cfg      Config
	client   client.Client
	live     client.Reader // uncached
	recorder round.Recorder
	log      logr.Logger
	local    subnets.Local
	// Changed names Subnets whose blocks in the hub changed.
	Changed chan event.GenericEvent

	uid  atomic.Pointer[types.UID] // of this cluster
	wake chan struct{}

	mu      sync.Mutex
	link    *link // nil: none yet
	away    error // why it cannot be asked; nil: it can
	learned map[string]time.Time
	reason  string                         // for which the hub could not be asked at the last look
	seen    map[string]string              // resourceVersions of what the last look found unfinished, by name
	wrote   map[string]v1alpha1.SubnetSpec // copies, as they were last written or found right

	forbidden bool // what the last look was about
}

var _ subnets.Blocks = (*Hub)(nil)

// name of the controller in events.
const name = "berth-controller"

// Add what keeps a member in step with its hub. The Hub is what the carver makes its blocks by.
func Add(mgr ctrl.Manager, cfg Config) (*Hub, error) {
	if cfg.Interval == 0 {
		cfg.Interval = 5 * time.Second
	}
	h := &Hub{
		cfg: cfg, client: mgr.GetClient(), live: mgr.GetAPIReader(), recorder: round.Brief{Recorder: mgr.GetEventRecorder(name)},
		log: mgr.GetLogger().WithName("hub"), local: subnets.Local{Client: mgr.GetClient()}, Changed: make(chan event.GenericEvent),
		wake: make(chan struct{}, 1), away: fmt.Errorf("the controller has not reached it yet"),
		learned: map[string]time.Time{}, seen: map[string]string{}, wrote: map[string]v1alpha1.SubnetSpec{},
	}
	return h, mgr.Add(h)
}

// Start looks at the hub until ctx ends.
func (h *Hub) Start(ctx context.Context) error {
	defer func() { h.setLink(nil, ctx.Err()) }()
	for {
		h.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-h.wake:
		case <-time.After(h.cfg.Interval):
		}
	}
}

// look once: reach the hub, copy its Subnets, mend blocks.
func (h *Hub) look(ctx context.Context) {
	err := h.identify(ctx)
	if err == nil {
		err = h.reach(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	err = h.standing(err)
	h.setAway(err)
	h.complain(err)
	if err := h.copySubnets(ctx); err != nil {
		h.log.Error(err, "Subnets of the hub")
	}
	if err != nil {
		return
	}
	if err := h.tend(ctx); err != nil && ctx.Err() == nil {
		h.log.Error(err, "blocks of the hub")
	}
}

// standing is err, but for the refusal to do what is forbidden, which counts at the second look in a row: an API server that begins
// forbids all until it has read its roles.
func (h *Hub) standing(err error) error {
	before := h.forbidden
	h.forbidden = apierrors.IsForbidden(err)
	if r := (refusal{}); h.forbidden && !before && errors.As(err, &r) {
		return r.error
	}
	return err
}

// identify this cluster: of two with one name only one is the member, and neither takes the other's blocks for its own.
func (h *Hub) identify(ctx context.Context) error {
	if h.uid.Load() != nil {
		return nil
	}
	var ns corev1.Namespace
	if err := h.live.Get(ctx, client.ObjectKey{Name: "kube-system"}, &ns); err != nil {
		return fmt.Errorf("the UID of this cluster: %w", err)
	}
	h.uid.Store(&ns.UID)
	return nil
}

// ours says whether a block of the hub is this cluster's, under whatever name it claimed it.
func (h *Hub) ours(b *v1alpha1.IPBlock) bool {
	uid := h.uid.Load()
	return uid != nil && b.Spec.Cluster != "" && b.Annotations[v1alpha1.AnnotationClusterUID] == string(*uid)
}

// setAway notes whether the hub can be asked.
func (h *Hub) setAway(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err != nil && h.away == nil:
		h.log.Info("the hub cannot be asked", "reason", err.Error())
	case err == nil && h.away != nil:
		h.log.Info("the hub can be asked")
	}
	h.away = err
	if err == nil {
		hubUp.Set(1)
	} else {
		hubUp.Set(0)
	}
}

// refusal is why the hub cannot be asked, where waiting does not help, with the reason for conditions and events.
type refusal struct {
	reason string
	error
}

func (r refusal) Unwrap() error { return r.error }

func reasonOf(away error) string {
	if r := (refusal{}); errors.As(away, &r) {
		return r.reason
	}
	return reasonAway
}

// complain of a refusal by an event of the Secret: there may be no copy yet whose condition could tell.
func (h *Hub) complain(away error) {
	was := h.reason
	h.reason = ""
	if r := (refusal{}); errors.As(away, &r) {
		if h.reason = r.reason; h.reason != was {
			h.recorder.Eventf(&corev1.Secret{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
				ObjectMeta: metav1.ObjectMeta{Namespace: h.cfg.Secret.Namespace, Name: h.cfg.Secret.Name},
			}, nil, corev1.EventTypeWarning, r.reason, "Connect", "%s", r.Error())
		}
	}
}

// ready gives the link to the hub, or an error that Is subnets.ErrAway.
func (h *Hub) ready() (*link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away != nil {
		return nil, fmt.Errorf("%w: the hub cannot be asked: %w", subnets.ErrAway, h.away)
	}
	return h.link, nil
}
