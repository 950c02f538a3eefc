// Package subnets carves pools from Subnets: it keeps the status of Subnets, gives pools with spec.subnet their addresses, takes back what
// they give up, and forgets it after a while. Package ipam/carve decides; here blocks are read, and written by comparison with what was
// read, so that of two who want the same addresses one must look again, whatever happens and however many controllers run.
//
//	step                       write, in this order                    a crash after it
//	carve, grow                parts into blocks (IPv4 first);         the pool has parts that it does not list: the next look lists them
//	                           the pool's subnets
//	shrink, owner gone         parts → returning (IPv6 first);         the pool lists addresses that it gave up: nobody else gets
//	                           the pool's subnets                      them, and the next look takes them off the list
//	forget                     after a while, no lease is in use       the next look goes on
//	                           there, and the pool does not list
//	                           them: parts → (absent)
//	empty block                deleted as it was seen                  the next look deletes it
package subnets

import (
	"context"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
)

// Finalizer keeps a deleted Subnet until nothing is carved from it.
const Finalizer = "berth.dev/carved"

// DefaultReturnAfter is how long addresses that a pool gave up are kept from others: longer than agent.DefaultMaxSilence and an ADD together.
const DefaultReturnAfter = 5 * time.Minute

// Config of the package.
type Config struct {
	// ReturnAfter is how long addresses that were given up are kept from others.
	ReturnAfter time.Duration
	// Blocks makes and deletes blocks; nil: here alone, without a hub.
	Blocks Blocks
	// Changed names Subnets whose blocks elsewhere changed; nil: nobody tells.
	Changed chan event.GenericEvent
	// Seed says where in a hub's Subnets to look for new blocks first: the cluster's name.
	Seed string
	// Status writes the status of a pool, which was old, as far as it is not known here either; nil: as it is.
	Status func(ctx context.Context, old, pool *v1alpha1.IPPool) error
}

// workers that carve at a time: so many pools may share a write of their block, and each waits for two writes of its own.
const workers = 32

// Carver carves from Subnets.
type Carver struct {
	cfg      Config
	client   client.Client
	live     client.Reader // uncached
	recorder round.Recorder
	ledger   *ledger
	now      func() time.Time
	written  memory // of pools' derived fields
	waiting  waiting
	turns    turns
}

// name of the controller in events.
const name = "berth-controller"

// Add the controllers of Subnets, of pools with spec.subnet, and of blocks.
func Add(mgr ctrl.Manager, cfg Config) (*Carver, error) {
	index := func(o client.Object) []string { return []string{o.(*v1alpha1.IPBlock).Spec.Network} }
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.IPBlock{}, networkIndex, index); err != nil {
		return nil, err
	}
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.IPPool{}, PlainIndex, IndexPlain); err != nil {
		return nil, err
	}
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &v1alpha1.IPBlock{}, ownerIndex, indexOwners); err != nil {
		return nil, err
	}
	if cfg.Blocks == nil {
		cfg.Blocks = Local{mgr.GetClient()}
	}
	if cfg.Status == nil {
		cfg.Status = func(ctx context.Context, old, pool *v1alpha1.IPPool) error {
			return mgr.GetClient().Status().Patch(ctx, pool, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{}))
		}
	}
	c := &Carver{
		cfg: cfg, client: mgr.GetClient(), live: mgr.GetAPIReader(), recorder: round.Brief{Recorder: mgr.GetEventRecorder(name)}, now: time.Now,
		ledger: newLedger(mgr.GetClient(), mgr.GetAPIReader(), cfg.Blocks),
	}
	for _, setup := range []func(ctrl.Manager) error{c.setupSubnets, c.setupPools, c.setupBlocks} {
		if err := setup(mgr); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Carver) setupSubnets(mgr ctrl.Manager) error {
	b := ctrl.NewControllerManagedBy(mgr).
		Named("subnets").
		Watches(&v1alpha1.Subnet{}, c.subnetsOfSubnet()).
		Watches(&v1alpha1.IPBlock{}, c.subnetsOfBlock()).
		Watches(&v1alpha1.IPPool{}, c.subnetsOfPool())
	if c.cfg.Changed != nil {
		b.WatchesRawSource(source.Channel(c.cfg.Changed, &handler.EnqueueRequestForObject{}))
	}
	return b.Complete(subnetReconciler{c})
}

func (c *Carver) setupPools(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("carved-pools").
		WithOptions(controller.Options{MaxConcurrentReconciles: workers}).
		Watches(&v1alpha1.IPPool{}, poolsOfPool()).
		Watches(&v1alpha1.Subnet{}, c.poolsOfSubnet()).
		Watches(&v1alpha1.IPBlock{}, c.poolsOfBlock()).
		Complete(poolReconciler{c})
}

func (c *Carver) setupBlocks(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("blocks").
		Watches(&v1alpha1.IPBlock{}, blocksOfBlock()).
		Watches(&v1alpha1.IPPool{}, c.blocksOfPool()).
		Watches(&v1alpha1.Subnet{}, c.blocksOfSubnet()).
		Complete(blockReconciler{c})
}
