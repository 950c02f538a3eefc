package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/danielgtaylor/huma/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Pool is an IPPool.
type Pool struct {
	Name     string     `json:"name" doc:"Name of the IPPool"`
	Created  time.Time  `json:"created" doc:"When it was made"`
	Deleting bool       `json:"deleting,omitempty" doc:"It gives out nothing more, and goes with its last lease"`
	Spec     PoolSpec   `json:"spec"`
	Status   PoolStatus `json:"status"`
}

// NewPool is a pool to make.
type NewPool struct {
	Name string   `json:"name" maxLength:"63" pattern:"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" doc:"Name of the IPPool"`
	Spec PoolSpec `json:"spec" doc:"With subnet and size it is carved from that network"`
}

// Resize is what may be changed of a pool here.
type Resize struct {
	Size int32 `json:"size" minimum:"0" maximum:"65536" doc:"How many addresses of each family it shall have"`
}

func poolOf(p *v1alpha1.IPPool) Pool {
	return Pool{Name: p.Name, Created: p.CreationTimestamp.Time, Deleting: p.DeletionTimestamp != nil, Spec: PoolSpec(p.Spec), Status: PoolStatus(p.Status)}
}

type newPool struct {
	Trial
	Body NewPool
}

type resizePool struct {
	Named
	Trial
	Body Resize
}

type deleteNamed struct {
	Named
	Trial
}

func (a *api) pools(h huma.API) {
	serve(h, "pools", "listPools", "GET /v1/pools", "List pools", a.listPools)
	serve(h, "pools", "createPool", "POST /v1/pools", "Make a pool", a.createPool, made,
		described("With spec.subnet and spec.size the pool gets its addresses from that network a moment later; its status says when. "+
			"A size that the network does not have is refused."))
	serve(h, "pools", "getPool", "GET /v1/pools/{name}", "Inspect a pool", a.getPool)
	serve(h, "pools", "resizePool", "PATCH /v1/pools/{name}", "Change the size of a pool that is carved from a network", a.resizePool,
		described("To fewer addresses than are in use is refused; which of the free ones return to the network is Berth's choice."))
	serve(h, "pools", "deletePool", "DELETE /v1/pools/{name}", "Delete a pool", a.deletePool,
		described("One with addresses in use gives out nothing more, and goes with the last of them."))
	serve(h, "pools", "getPoolFree", "GET /v1/pools/{name}/free", "What is free in a pool", a.getPoolFree)
}

func (a *api) listPools(ctx context.Context, in *Paged) (*answer[List[Pool]], error) {
	if err := a.door.check(ctx, access{verb: "list", kind: pools}); err != nil {
		return nil, err
	}
	var list v1alpha1.IPPoolList
	if err := a.client.List(ctx, &list, in.options()); err != nil {
		return nil, err
	}
	out := List[Pool]{Items: []Pool{}, Continue: list.Continue}
	for i := range list.Items {
		out.Items = append(out.Items, poolOf(&list.Items[i]))
	}
	return &answer[List[Pool]]{out}, nil
}

func (a *api) getPool(ctx context.Context, in *Named) (*answer[Pool], error) {
	if err := a.door.check(ctx, access{verb: "get", kind: pools, name: in.Name}); err != nil {
		return nil, err
	}
	p, err := a.pool(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	return &answer[Pool]{poolOf(p)}, nil
}

func (a *api) pool(ctx context.Context, name string) (*v1alpha1.IPPool, error) {
	p := &v1alpha1.IPPool{}
	return p, a.client.Get(ctx, client.ObjectKey{Name: name}, p)
}

func (a *api) createPool(ctx context.Context, in *newPool) (*answer[Pool], error) {
	p := &v1alpha1.IPPool{ObjectMeta: object(in.Body.Name), Spec: v1alpha1.IPPoolSpec(in.Body.Spec)}
	need := []access{{verb: "create", kind: pools}}
	if p.Spec.Subnet != "" {
		need = append(need, carveAccess(p.Spec.Subnet)...)
	}
	if err := a.door.check(ctx, need...); err != nil {
		return nil, err
	}
	if p.Spec.Subnet != "" && p.Spec.Size != nil {
		if err := a.fits(ctx, p.Spec.Subnet, p.Name, *p.Spec.Size, "spec.size"); err != nil {
			return nil, err
		}
	}
	if err := a.client.Create(ctx, p, in.create()); err != nil {
		if apierrors.IsAlreadyExists(err) {
			return nil, conflict("name", p.Name, "resize or delete it, or choose another name", "pool %q exists", p.Name)
		}
		return nil, err
	}
	a.wrote(ctx, in.Trial, "made", p)
	return &answer[Pool]{poolOf(p)}, nil
}

func (a *api) resizePool(ctx context.Context, in *resizePool) (*answer[Pool], error) {
	if err := a.door.check(ctx, access{verb: "get", kind: pools, name: in.Name}, access{verb: "patch", kind: pools, name: in.Name}); err != nil {
		return nil, err
	}
	p, err := a.pool(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	switch {
	case p.Spec.Subnet == "":
		return nil, conflict("size", in.Body.Size, "edit spec.subnets of the IPPool, or make a pool with subnet and size",
			"pool %q is not carved from a network, and has no size", p.Name)
	case p.DeletionTimestamp != nil:
		return nil, conflict("name", p.Name, "make another pool", "pool %q is being deleted", p.Name)
	}
	before := int32(0)
	if p.Spec.Size != nil {
		before = *p.Spec.Size
	}
	if in.Body.Size < before {
		if err = a.door.check(ctx, access{verb: "list", kind: leases}); err == nil {
			err = a.spares(ctx, p, in.Body.Size)
		}
	} else if err = a.door.check(ctx, carveAccess(p.Spec.Subnet)...); err == nil {
		err = a.fits(ctx, p.Spec.Subnet, p.Name, in.Body.Size, "size")
	}
	if err != nil {
		return nil, err
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"size": in.Body.Size}})
	if err != nil {
		return nil, err
	}
	if err := a.client.Patch(ctx, p, client.RawPatch(types.MergePatchType, patch), &client.PatchOptions{DryRun: in.all(), FieldManager: manager}); err != nil {
		return nil, err
	}
	a.wrote(ctx, in.Trial, fmt.Sprintf("resized from %d to %d", before, in.Body.Size), p)
	return &answer[Pool]{poolOf(p)}, nil
}

// spares says whether the pool can do with size addresses of each family. The controller, which shrinks it, gives up free ones only, whatever
// is claimed meanwhile.
func (a *api) spares(ctx context.Context, p *v1alpha1.IPPool, size int32) error {
	used, err := a.inUse(ctx, p)
	if err != nil {
		return err
	}
	for _, f := range ipam.Families {
		if used[f] > int64(size) {
			return conflict("size", size, fmt.Sprintf("scale its pods down first, or ask for at least %d", used[f]),
				"%d %s addresses of pool %q are in use or reserved", used[f], f, p.Name)
		}
	}
	return nil
}

// inUse counts the addresses of a pool by family that are Bound, Reserved or Quarantined.
func (a *api) inUse(ctx context.Context, p *v1alpha1.IPPool) (map[ipam.Family]int64, error) {
	out := map[ipam.Family]int64{}
	err := a.eachLease(ctx, client.MatchingFields{"spec.pool": p.Name}, func(l *v1alpha1.IPLease) {
		if _, addr, err := ipam.ParseLeaseName(l.Name); err == nil && l.Spec.Phase != v1alpha1.LeaseReleased {
			out[ipam.FamilyOf(addr)]++
		}
	})
	return out, err
}

func (a *api) deletePool(ctx context.Context, in *deleteNamed) (*answer[Deletion], error) {
	err := a.door.check(ctx, access{verb: "get", kind: pools, name: in.Name}, access{verb: "delete", kind: pools, name: in.Name})
	if err != nil {
		return nil, err
	}
	p, err := a.pool(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	if err := a.client.Delete(ctx, p, deletion(in.Trial, p)); err != nil {
		return nil, err
	}
	a.wrote(ctx, in.Trial, "deleted", p)
	return a.deleted(ctx, in.Trial, p, "the leases of its addresses that are in use or reserved; GET /v1/addresses?pool="+p.Name+" lists them")
}

// deletion of exactly this object, not of one that has its name by now.
func deletion(d Trial, o client.Object) *client.DeleteOptions {
	uid := o.GetUID()
	return &client.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}, DryRun: d.all()}
}

// deleted looks whether o is gone, or waits.
func (a *api) deleted(ctx context.Context, d Trial, o client.Object, waits string) (*answer[Deletion], error) {
	out := &answer[Deletion]{Deletion{Name: o.GetName()}}
	uid := o.GetUID()
	finalizers := o.GetFinalizers()
	if !d.DryRun {
		if err := a.client.Get(ctx, client.ObjectKeyFromObject(o), o); apierrors.IsNotFound(err) || err == nil && o.GetUID() != uid {
			finalizers = nil
		} else if err != nil {
			return nil, err
		}
	}
	if out.Body.Gone = len(finalizers) == 0; !out.Body.Gone {
		out.Body.WaitsFor = waits
	}
	return out, nil
}
