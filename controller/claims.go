package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// claimKeeper keeps the status of IPAMClaims (k8s.cni.cncf.io/v1alpha1, of the Network Plumbing Working Group) in step with the leases
// of their identities. It is for people and for what reads claims, such as migration and backup tools; the lease is the truth. Nothing
// reads it on the way of an ADD.
//
// Other plugins serve other claims. What is cleared is what this controller wrote, which the API server remembers (managedFields).
type claimKeeper struct {
	client   client.Client
	live     client.Reader // uncached: the cache leaves managedFields out
	log      logr.Logger
	interval time.Duration

	settled bool               // no lease had a claim at the last look, and no claim a status of ours
	foreign map[types.UID]bool // claims of which somebody else keeps the status, told
}

// NeedLeaderElection is true: one is enough.
func (k *claimKeeper) NeedLeaderElection() bool { return true }

// Start looks once per interval until ctx ends.
func (k *claimKeeper) Start(ctx context.Context) error {
	t := time.NewTicker(k.interval)
	defer t.Stop()
	for {
		if err := k.pass(ctx); err != nil && ctx.Err() == nil {
			k.log.Error(err, "status of IPAMClaims; next try after the interval", "interval", k.interval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// claimStatus is what Berth knows of the status of a claim. The fields are those of the IPAMClaim; ownerPod is new there, and
// required where it exists.
type claimStatus struct {
	IPs      []string `json:"ips"`
	OwnerPod string   `json:"ownerPod"`
}

func (k *claimKeeper) pass(ctx context.Context) error {
	var leases v1alpha1.IPLeaseList
	var pools v1alpha1.IPPoolList
	for _, list := range []client.ObjectList{&leases, &pools} {
		if err := k.client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return err
		}
	}
	wanted := claimStatuses(leases.Items, pools.Items)
	if len(wanted) == 0 && k.settled {
		return nil
	}
	var claims unstructured.UnstructuredList
	claims.SetGroupVersionKind(claimKind.GroupVersion().WithKind(claimKind.Kind + "List"))
	if err := k.live.List(ctx, &claims, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: "0"}}); err != nil {
		if err = notServed(err); errors.Is(err, errNoAPI) {
			k.settled = len(wanted) == 0
			return nil // no claims, no status
		}
		return fmt.Errorf("list of IPAMClaims: %w", err)
	}
	var errs []error
	ours := false
	for i := range claims.Items {
		c := &claims.Items[i]
		want, ok := wanted[client.ObjectKeyFromObject(c)]
		wrote, err := k.keep(ctx, c, want)
		if err != nil {
			errs = append(errs, fmt.Errorf("IPAMClaim %s/%s: %w", c.GetNamespace(), c.GetName(), err))
		}
		ours = ours || ok || wrote
	}
	k.settled = !ours && len(errs) == 0
	return errors.Join(errs...)
}

// keep one claim in step. wrote means that its status may not be settled yet.
func (k *claimKeeper) keep(ctx context.Context, c *unstructured.Unstructured, want claimStatus) (wrote bool, err error) {
	have, hasPod, err := readClaim(c)
	if err != nil {
		return false, err
	}
	switch ours := keepsIPs(c.GetManagedFields()); {
	case slices.Equal(have.IPs, want.IPs) && (!hasPod || have.OwnerPod == want.OwnerPod):
		return false, nil
	case len(have.IPs) > 0 && !ours && len(want.IPs) == 0:
		return false, nil // another plugin's claim
	case len(have.IPs) > 0 && !ours:
		if !k.foreign[c.GetUID()] {
			k.log.Info("somebody else keeps the status of an IPAMClaim whose addresses Berth gives; left as it is",
				"claim", client.ObjectKeyFromObject(c), "has", have.IPs, "leases", want.IPs)
			if k.foreign == nil {
				k.foreign = map[types.UID]bool{}
			}
			k.foreign[c.GetUID()] = true
		}
		return false, nil
	}
	if want.IPs == nil {
		want.IPs = []string{} // required
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": c.GetUID(), "resourceVersion": c.GetResourceVersion()}, "status": want})
	if err != nil {
		return false, err
	}
	err = k.client.Status().Patch(ctx, c, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(Name))
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		err = nil // written or deleted meanwhile; the next look sees
	}
	return true, err
}

func readClaim(c *unstructured.Unstructured) (s claimStatus, hasPod bool, err error) {
	if s.IPs, _, err = unstructured.NestedStringSlice(c.Object, "status", "ips"); err != nil {
		return s, false, err
	}
	s.OwnerPod, hasPod, err = unstructured.NestedString(c.Object, "status", "ownerPod")
	return s, hasPod, err
}

// keepsIPs says whether this controller wrote the addresses last.
func keepsIPs(entries []metav1.ManagedFieldsEntry) bool {
	for _, e := range entries {
		if e.Manager != Name || e.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Status struct {
				IPs json.RawMessage `json:"f:ips"`
			} `json:"f:status"`
		}
		if json.Unmarshal(e.FieldsV1.GetRawBytes(), &fields) == nil && fields.Status.IPs != nil {
			return true
		}
	}
	return false
}

// claimStatuses by claim: one address of each family, IPv4 first, as ADDRESS/LENGTH. A bound one comes before one that is only
// reserved, as when the claim's pools have changed.
func claimStatuses(leases []v1alpha1.IPLease, pools []v1alpha1.IPPool) map[types.NamespacedName]claimStatus {
	type key struct {
		claim  types.NamespacedName
		family ipam.Family
	}
	best := map[key]*v1alpha1.IPLease{}
	for i := range leases {
		l := &leases[i]
		id := l.Spec.Identity
		if id == nil || id.Kind != v1alpha1.IdentityIPAMClaim || l.Spec.Phase != v1alpha1.LeaseBound && l.Spec.Phase != v1alpha1.LeaseReserved {
			continue
		}
		a, err := netip.ParseAddr(l.Spec.Address)
		if err != nil {
			continue // the API server refuses such leases
		}
		k := key{types.NamespacedName{Namespace: id.Namespace, Name: id.Name}, ipam.FamilyOf(a)}
		if best[k] == nil || better(l, best[k]) {
			best[k] = l
		}
	}
	out := map[types.NamespacedName]claimStatus{}
	for k := range best {
		if _, done := out[k.claim]; done {
			continue
		}
		var s claimStatus
		for _, f := range ipam.Families {
			l := best[key{k.claim, f}]
			if l == nil {
				continue
			}
			s.IPs = append(s.IPs, withLength(l, pools))
			if h := l.Spec.Holder; h != nil && l.Spec.Phase == v1alpha1.LeaseBound {
				s.OwnerPod = h.Pod
			}
		}
		out[k.claim] = s
	}
	return out
}

func better(a, b *v1alpha1.IPLease) bool {
	if a.Spec.Phase != b.Spec.Phase {
		return a.Spec.Phase == v1alpha1.LeaseBound
	}
	return a.Name < b.Name
}

// withLength is the address with the length of its pool's subnet, or all of its bits if that is not known: another plugin chose the
// address, or the pool has changed.
func withLength(l *v1alpha1.IPLease, pools []v1alpha1.IPPool) string {
	a, _ := netip.ParseAddr(l.Spec.Address) // has been parsed before
	bits := a.BitLen()
	for i := range pools {
		if pools[i].Name != l.Spec.Pool {
			continue
		}
		for _, s := range pools[i].Spec.Subnets {
			if p, err := ipam.ParseCIDR(s.CIDR); err == nil && p.Contains(a) {
				bits = p.Bits()
			}
		}
	}
	return netip.PrefixFrom(a, bits).String()
}
