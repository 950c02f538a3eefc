package netspaces

import (
	"context"
	"fmt"
	"math/big"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

const (
	// spare addresses that a pool of a netspace has at least before it grows: the pods of a burst that find none wait a second or two.
	spare = 16
	// mostSpare that it has before it shrinks. What it has not, workloads may have as pools of their own.
	mostSpare = 4 * spare
	// mostSize is the limit of IPPoolSpec.size.
	mostSize = 65536
)

// sizeOf a pool with size now, of which used addresses of a family are used, in a subnet that leaves it room for most.
func sizeOf(now, used, most int64) int64 {
	want := (used + spare + spare - 1) / spare * spare
	if now >= used+spare && now <= used+mostSpare {
		want = now
	}
	return max(0, min(want, most, mostSize))
}

// keepPool that serves a netspace with addresses of a subnet.
func (r *reconciler) keepPool(ctx context.Context, n *v1alpha1.Netspace, s *v1alpha1.Subnet, share bool) (refusal, error) {
	name := n.Name
	if !share {
		name = v1alpha1.NetspacePool(n.Name, s.Name)
	}
	var pools v1alpha1.IPPoolList
	if err := r.client.List(ctx, &pools, client.UnsafeDisableDeepCopy); err != nil {
		return refusal{}, err
	}
	var pool *v1alpha1.IPPool
	var others int64
	for i := range pools.Items {
		switch p := &pools.Items[i]; {
		case p.Name == name:
			pool = p.DeepCopy()
		case p.Spec.Subnet == s.Name && p.Spec.Size != nil:
			others += int64(*p.Spec.Size)
		}
	}
	total, known := least(s)
	if !known {
		return refusal{}, nil // its status wakes us
	}
	most := total - others
	switch {
	case pool == nil:
		return r.makePool(ctx, n, s, name, int32(sizeOf(0, 0, most)))
	case !ours(pool, n.Name) || pool.Spec.Subnet != s.Name:
		return refusal{reasonNameTaken, fmt.Sprintf("there is a pool %q that is not made for netspace %q and its Subnet %q; rename the netspace, or delete that pool", name, n.Name, s.Name)}, nil
	case pool.DeletionTimestamp != nil:
		return refusal{reasonBusy, fmt.Sprintf("its pool %q is being deleted; another is made when it is gone", name)}, nil
	}
	size := int32(sizeOf(int64(*pool.Spec.Size), used(pool), most))
	refs := []metav1.OwnerReference{reference(n)}
	if size == *pool.Spec.Size && equality.Semantic.DeepEqual(refs, pool.OwnerReferences) {
		return refusal{}, nil
	}
	old := pool.DeepCopy()
	pool.Spec.Size, pool.OwnerReferences = &size, refs
	return refusal{}, r.client.Patch(ctx, pool, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{}))
}

func (r *reconciler) makePool(ctx context.Context, n *v1alpha1.Netspace, s *v1alpha1.Subnet, name string, size int32) (refusal, error) {
	p := &v1alpha1.IPPool{}
	p.Name = name
	p.Labels = map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}
	p.OwnerReferences = []metav1.OwnerReference{reference(n)}
	p.Spec = v1alpha1.IPPoolSpec{Network: s.Spec.Network, Subnet: s.Name, Size: &size, Netspace: n.Name}
	switch err := r.client.Create(ctx, p); {
	case apierrors.IsAlreadyExists(err):
		return refusal{}, nil // the cache is late, or it is somebody else's: the next look knows
	case apierrors.IsInvalid(err):
		return refusal{reasonRefused, fmt.Sprintf("the API server refuses its pool %q: %v", name, err)}, nil
	default:
		return refusal{}, err
	}
}

// ours says whether a pool was made here for the netspace.
func ours(p *v1alpha1.IPPool, netspace string) bool {
	return p.Labels[v1alpha1.LabelManagedBy] == v1alpha1.ManagedBy && p.Spec.Netspace == netspace && p.Spec.Owner == nil
}

// least of the families' totals, which the Subnet's status counts; false while it does not, or not yet as the Subnet is.
func least(s *v1alpha1.Subnet) (int64, bool) {
	if s.Status.ObservedGeneration != s.Generation {
		return 0, false
	}
	out := big.NewInt(mostSize)
	known := false
	for _, c := range []*v1alpha1.SubnetCount{s.Status.IPv4, s.Status.IPv6} {
		if c == nil {
			continue
		}
		n, ok := new(big.Int).SetString(c.Total, 10)
		if !ok {
			return 0, false
		}
		known = true
		if n.Cmp(out) < 0 {
			out = n
		}
	}
	return out.Int64(), known
}

// used addresses of a pool: of the family that has more.
func used(p *v1alpha1.IPPool) (n int64) {
	for _, c := range []*v1alpha1.AddressCount{p.Status.IPv4, p.Status.IPv6} {
		if c != nil {
			n = max(n, c.Bound+c.Reserved+c.Quarantined)
		}
	}
	return n
}
