package rest

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Network is a Subnet and what was made for it.
type Network struct {
	Name        string       `json:"name" doc:"Name of the Subnet"`
	Created     time.Time    `json:"created" doc:"When the Subnet was made"`
	Deleting    bool         `json:"deleting,omitempty" doc:"No pool is carved from it any more"`
	Subnet      Subnet       `json:"subnet"`
	Links       *Links       `json:"links,omitempty" doc:"The HostNetwork made with it; not in lists"`
	Attachments []Attachment `json:"attachments,omitempty" doc:"Its NetworkAttachmentDefinitions; not in lists"`
	Pools       []string     `json:"pools,omitempty" doc:"Pools carved from it; not in lists"`
}

// Subnet is the spec and the status of one.
type Subnet struct {
	Spec   SubnetSpec   `json:"spec"`
	Status SubnetStatus `json:"status"`
}

// Links is a HostNetwork.
type Links struct {
	Name   string            `json:"name" doc:"Name of the HostNetwork"`
	Spec   HostNetworkSpec   `json:"spec"`
	Status HostNetworkStatus `json:"status"`
}

// Attachment is a NetworkAttachmentDefinition.
type Attachment struct {
	Namespace string          `json:"namespace" doc:"Its namespace"`
	Name      string          `json:"name" doc:"What pods name in k8s.v1.cni.cncf.io/networks"`
	Config    json.RawMessage `json:"config" doc:"The CNI configuration"`
}

// NewNetwork is a network to make, all of it or nothing.
type NewNetwork struct {
	Name   string           `json:"name" maxLength:"63" pattern:"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" doc:"Name of the Subnet, and of the HostNetwork"`
	Subnet SubnetSpec       `json:"subnet" doc:"In the namespaces that it names in attachments the NetworkAttachmentDefinitions are made, too"`
	Links  *HostNetworkSpec `json:"links,omitempty" doc:"Links to make on the nodes. Left out: subnet.parent is there already"`
}

type newNetwork struct {
	Trial
	Body NewNetwork
}

func (a *api) networks(h huma.API) {
	serve(h, "networks", "listNetworks", "GET /v1/networks", "List networks", a.listNetworks)
	serve(h, "networks", "createNetwork", "POST /v1/networks", "Make a network", a.createNetwork, made,
		described("Makes the Subnet, the HostNetwork and the NetworkAttachmentDefinitions, all or none. Those of namespaces that "+
			"subnet.attachments selects by labels follow a moment later. Who makes a network must be allowed to delete what it is made of, "+
			"since what was made of it goes again if the rest cannot be made."))
	serve(h, "networks", "getNetwork", "GET /v1/networks/{name}", "Inspect a network", a.getNetwork)
	serve(h, "networks", "deleteNetwork", "DELETE /v1/networks/{name}", "Delete a network", a.deleteNetwork,
		described("With the links that were made with it, and its attachments. One from which pools are carved stays."))
	serve(h, "networks", "getNetworkFree", "GET /v1/networks/{name}/free", "What may still be carved from a network", a.getNetworkFree)
	serve(h, "networks", "tryCarve", "GET /v1/networks/{name}/carve", "What a pool of some size would get", a.tryCarve,
		described("By the same decision as the controller's, on what this cluster knows. Nothing is written, and nothing kept: another pool may "+
			"take it meanwhile."))
}

func networkOf(s *v1alpha1.Subnet) Network {
	return Network{Name: s.Name, Created: s.CreationTimestamp.Time, Deleting: s.DeletionTimestamp != nil,
		Subnet: Subnet{Spec: SubnetSpec(s.Spec), Status: SubnetStatus(s.Status)}}
}

func (n *Network) add(o client.Object) {
	switch o := o.(type) {
	case *v1alpha1.HostNetwork:
		n.Links = &Links{Name: o.Name, Spec: HostNetworkSpec(o.Spec), Status: HostNetworkStatus(o.Status)}
	case *nadv1.NetworkAttachmentDefinition:
		config := json.RawMessage(o.Spec.Config)
		if !json.Valid(config) { // a person's edit; shown as it is
			config, _ = json.Marshal(o.Spec.Config)
		}
		n.Attachments = append(n.Attachments, Attachment{Namespace: o.Namespace, Name: o.Name, Config: config})
	}
}

func (a *api) listNetworks(ctx context.Context, in *Paged) (*answer[List[Network]], error) {
	if err := a.door.check(ctx, access{verb: "list", kind: subnets}); err != nil {
		return nil, err
	}
	var list v1alpha1.SubnetList
	if err := a.client.List(ctx, &list, in.options()); err != nil {
		return nil, err
	}
	out := List[Network]{Items: []Network{}, Continue: list.Continue}
	for i := range list.Items {
		out.Items = append(out.Items, networkOf(&list.Items[i]))
	}
	return &answer[List[Network]]{out}, nil
}

func (a *api) getNetwork(ctx context.Context, in *Named) (*answer[Network], error) {
	err := a.door.check(ctx, access{verb: "get", kind: subnets, name: in.Name}, access{verb: "list", kind: hostNetworks},
		access{verb: "list", kind: attachments}, access{verb: "list", kind: pools})
	if err != nil {
		return nil, err
	}
	s, err := a.subnet(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	out := networkOf(s)
	own, err := a.owned(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, o := range own {
		out.add(o)
	}
	out.Pools, err = a.carved(ctx, s.Name)
	return &answer[Network]{out}, err
}

func (a *api) subnet(ctx context.Context, name string) (*v1alpha1.Subnet, error) {
	s := &v1alpha1.Subnet{}
	return s, a.client.Get(ctx, client.ObjectKey{Name: name}, s)
}

// owned by the Subnet, as their owner references say: the HostNetwork and the NetworkAttachmentDefinitions.
func (a *api) owned(ctx context.Context, s *v1alpha1.Subnet) (out []client.Object, err error) {
	var hosts v1alpha1.HostNetworkList
	if err := a.client.List(ctx, &hosts); err != nil {
		return nil, err
	}
	for i := range hosts.Items {
		if owns(s, &hosts.Items[i]) {
			out = append(out, &hosts.Items[i])
		}
	}
	var nads nadv1.NetworkAttachmentDefinitionList
	if err := a.client.List(ctx, &nads, client.MatchingLabels{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}); err != nil && !apierrors.IsNotFound(err) { // a cluster without Multus has none
		return nil, err
	}
	for i := range nads.Items {
		if owns(s, &nads.Items[i]) {
			out = append(out, &nads.Items[i])
		}
	}
	return out, nil
}

// carved are the names of the pools that are carved from a Subnet.
func (a *api) carved(ctx context.Context, subnet string) (names []string, err error) {
	var list v1alpha1.IPPoolList
	if err := a.client.List(ctx, &list); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if list.Items[i].Spec.Subnet == subnet {
			names = append(names, list.Items[i].Name)
		}
	}
	return names, nil
}

func (a *api) deleteNetwork(ctx context.Context, in *deleteNamed) (*answer[Deletion], error) {
	need := []access{{verb: "get", kind: subnets, name: in.Name}, {verb: "delete", kind: subnets, name: in.Name},
		{verb: "list", kind: pools}, {verb: "list", kind: hostNetworks}, {verb: "list", kind: attachments}}
	if err := a.door.check(ctx, need...); err != nil {
		return nil, err
	}
	s, err := a.subnet(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	used, err := a.carved(ctx, s.Name)
	if err != nil {
		return nil, err
	}
	if len(used) > 0 {
		return nil, conflict("name", s.Name, "delete these pools first", "pools are carved from network %q: %s", s.Name, some(used))
	}
	own, err := a.owned(ctx, s)
	if err != nil {
		return nil, err
	}
	need = nil
	for _, o := range own {
		need = append(need, access{"delete", kindOf(o), o.GetNamespace(), o.GetName()})
	}
	if err := a.door.check(ctx, need...); err != nil {
		return nil, err
	}
	for _, o := range append([]client.Object{s}, own...) {
		if err := a.client.Delete(ctx, o, deletion(Trial{true}, o)); client.IgnoreNotFound(err) != nil {
			return nil, err
		}
	}
	if err := a.client.Delete(ctx, s, deletion(in.Trial, s)); client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	a.wrote(ctx, in.Trial, "deleted", s)
	out, err := a.deleted(ctx, in.Trial, s, "addresses that are not yet back from its pools; GET /v1/networks/"+in.Name+" says more. Links and attachments go with it")
	if err != nil || !out.Body.Gone || in.DryRun {
		return out, err
	}
	for _, o := range own { // Kubernetes would collect them; now is sooner
		if err := a.client.Delete(ctx, o, deletion(in.Trial, o)); client.IgnoreNotFound(err) != nil {
			return nil, err
		}
		a.wrote(ctx, in.Trial, "deleted", o)
	}
	return out, nil
}

// some of the names, and how many more.
func some(names []string) string {
	const most = 10
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
