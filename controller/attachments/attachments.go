// Package attachments keeps NetworkAttachmentDefinitions: it makes those that Subnets and Netspaces want, and says of those that people
// wrote, for addresses of Berth, what their pods would fail at. It touches none that it did not make, but for one annotation.
package attachments

import (
	"context"
	"time"

	"github.com/go-logr/logr"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// gather is how long changes that concern all networks are gathered before these are looked at.
const gather = time.Second

// NAD is the kind as the API server and Multus name it.
var kindNAD = schema.GroupKind{Group: nadv1.SchemeGroupVersion.Group, Kind: "NetworkAttachmentDefinition"}

// Add to the manager, whose scheme has the kind (nadv1.AddToScheme). Where Multus is not installed this waits until it is.
func Add(mgr ctrl.Manager, recorder round.Recorder) error {
	log := mgr.GetLogger().WithName("attachments")
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		if !awaitKind(ctx, mgr.GetRESTMapper(), log) {
			return nil
		}
		if err := (&checker{client: mgr.GetClient(), recorder: recorder}).setup(mgr); err != nil {
			return err
		}
		return (&keeper{client: mgr.GetClient(), live: mgr.GetAPIReader(), recorder: recorder}).setup(mgr)
	}))
}

// awaitKind until the API server serves it: a watch of a kind that is not there would end the process.
func awaitKind(ctx context.Context, mapper meta.RESTMapper, log logr.Logger) bool {
	for first := true; ; first = false {
		_, err := mapper.RESTMapping(kindNAD, nadv1.SchemeGroupVersion.Version)
		if err == nil {
			return true
		}
		if first {
			log.Info("this Kubernetes has no NetworkAttachmentDefinitions; waiting for Multus", "err", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(10 * time.Second):
		}
	}
}

// snapshot is what networks are judged and made by.
type snapshot struct {
	pools      []v1alpha1.IPPool
	networks   []v1alpha1.HostNetwork
	told       map[string]string // by nodes of their links
	netspaces  ipam.Netspaces
	namespaces []corev1.Namespace
}

// look at the cache. What it returns is shared, and only read.
func look(ctx context.Context, c client.Client) (snapshot, error) {
	var (
		s         snapshot
		pools     v1alpha1.IPPoolList
		networks  v1alpha1.HostNetworkList
		netspaces v1alpha1.NetspaceList
		ns        corev1.NamespaceList
		nodes     corev1.NodeList
	)
	for _, list := range []client.ObjectList{&pools, &networks, &netspaces, &ns, &nodes} {
		if err := c.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return s, err
		}
	}
	all := make([]*v1alpha1.Netspace, len(netspaces.Items))
	for i := range netspaces.Items {
		all[i] = &netspaces.Items[i]
	}
	s.pools, s.networks, s.namespaces = pools.Items, networks.Items, ns.Items
	s.told = map[string]string{}
	for i := range nodes.Items {
		if text := nodes.Items[i].Annotations[nad.ParentsAnnotation]; text != "" {
			s.told[nodes.Items[i].Name] = text
		}
	}
	s.netspaces, _ = ipam.NewNetspaces(all) // package netspaces tells what is malformed
	return s, nil
}

func (s snapshot) parents() map[string]nad.Parent { return nad.ParentsOf(s.networks, s.told) }

// cluster as a network of that namespace sees it.
func (s snapshot) cluster(namespace string) nad.Cluster {
	c := nad.Cluster{Pools: s.pools, Parents: s.parents(), Guests: map[string]bool{}}
	for _, n := range s.netspaces {
		c.Guests[n.Name] = n.Guests
	}
	for i := range s.namespaces {
		if ns := &s.namespaces[i]; ns.Name == namespace {
			if of := s.netspaces.Of(ns.Name, ns.Labels); of != nil {
				c.Netspace = of.Name
			}
		}
	}
	return c
}
