package controller

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

var claimKind = schema.GroupVersionKind{Group: "k8s.cni.cncf.io", Version: "v1alpha1", Kind: "IPAMClaim"}

// ownerKinds are the kinds of objects any of which keeps an identity. A machine that is stopped has no VirtualMachineInstance, and one
// without VirtualMachine may have one.
var ownerKinds = map[string][]schema.GroupVersionKind{
	v1alpha1.IdentityStatefulSet: {{Group: "apps", Version: "v1", Kind: "StatefulSet"}},
	v1alpha1.IdentityVM: {
		{Group: "kubevirt.io", Version: "v1", Kind: "VirtualMachineInstance"},
		{Group: "kubevirt.io", Version: "v1", Kind: "VirtualMachine"},
	},
	v1alpha1.IdentityIPAMClaim: {claimKind},
}

// ownerKey names an owner.
type ownerKey struct{ kind, namespace, name string }

func ownerOf(i *v1alpha1.LeaseIdentity) ownerKey {
	if i == nil {
		return ownerKey{}
	}
	return ownerKey{i.Kind, i.Namespace, i.Name}
}

// errNoAPI: the API server does not have this kind, so nothing is known of the objects of it. KubeVirt may be away for an upgrade.
var errNoAPI = errors.New("not served")

// owners of the reserved leases that end with them. It costs a list of metadata for each kind and namespace of theirs, from the API
// server's watch cache. An error is of some owners only, which are in doubt.
func owners(ctx context.Context, r client.Reader, leases []v1alpha1.IPLease) (map[ownerKey]owner, error) {
	out := map[ownerKey]owner{}
	var errs []error
	type place struct {
		kind      schema.GroupVersionKind
		namespace string
	}
	type listed struct {
		uids map[string]types.UID // by name
		err  error
	}
	lists := map[place]listed{}
	list := func(p place) listed {
		l, ok := lists[p]
		if ok {
			return l
		}
		items, err := listOwners(ctx, r, p.kind, client.InNamespace(p.namespace), &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: "0"}})
		l = listed{map[string]types.UID{}, err}
		for i := range items {
			l.uids[items[i].Name] = items[i].UID
		}
		if err != nil && !errors.Is(err, errNoAPI) {
			errs = append(errs, err)
		}
		lists[p] = l
		return l
	}
	for i := range leases {
		l := &leases[i]
		if l.Spec.Phase != v1alpha1.LeaseReserved || ofOperator(l) || l.Spec.Identity.Ends != v1alpha1.EndsWithOwner {
			continue
		}
		key := ownerOf(l.Spec.Identity)
		if _, known := out[key]; known {
			continue
		}
		out[key] = gather(key.kind, func(kind schema.GroupVersionKind) ([]types.UID, error) {
			l := list(place{kind, key.namespace})
			if uid, ok := l.uids[key.name]; ok {
				return []types.UID{uid}, nil
			}
			return nil, l.err
		})
	}
	return out, errors.Join(errs...)
}

// liveOwner is what the API server itself says at this moment. It lists by name, since a list tells a kind that is not served from an
// object that does not exist, and a get answers both with 404.
func liveOwner(ctx context.Context, r client.Reader, key ownerKey) (owner, error) {
	var failed error
	o := gather(key.kind, func(kind schema.GroupVersionKind) ([]types.UID, error) {
		items, err := listOwners(ctx, r, kind, client.InNamespace(key.namespace), client.MatchingFields{"metadata.name": key.name})
		if err != nil && !errors.Is(err, errNoAPI) {
			failed = err
		}
		var uids []types.UID
		for i := range items {
			uids = append(uids, items[i].UID)
		}
		return uids, err
	})
	return o, failed
}

// gather what the kinds of an owner say: one object that exists keeps the identity, whatever is not known of the others.
func gather(kind string, find func(schema.GroupVersionKind) ([]types.UID, error)) owner {
	kinds, ok := ownerKinds[kind]
	if !ok {
		return owner{doubt: noOwnerKind}
	}
	var out owner
	for _, k := range kinds {
		uids, err := find(k)
		out.uids = append(out.uids, uids...)
		switch {
		case errors.Is(err, errNoAPI):
			out.doubt = noOwnerAPI
		case err != nil:
			out.doubt = noOwnerAnswer
		}
	}
	if len(out.uids) > 0 {
		out.doubt = ""
	}
	return out
}

func listOwners(ctx context.Context, r client.Reader, kind schema.GroupVersionKind, opts ...client.ListOption) ([]metav1.PartialObjectMetadata, error) {
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	if err := r.List(ctx, &list, opts...); err != nil {
		return nil, fmt.Errorf("list of %s: %w", kind.GroupKind(), notServed(err))
	}
	return list.Items, nil
}

// notServed is errNoAPI if that is what a failed list says: discovery knows no such kind, or did once and its path is gone.
func notServed(err error) error {
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: %w", errNoAPI, err)
	}
	return err
}
