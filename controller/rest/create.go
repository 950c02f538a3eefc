package rest

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	attachment "github.com/berthdev/berth/controller/attachments"
	"github.com/berthdev/berth/ipam/carve"
)

// createNetwork makes all of a network or nothing:
//
//	rights to create and to delete all of it    else 403, nothing begun
//	all of it by dry run                        else what the API server says of the first that it refuses, nothing begun
//	the Subnet, whose name is the lock          else 409 for all but one of several who make it at once
//	the rest, owned by the Subnet               else what was made is deleted; what cannot be is named
//
// If this process ends in between, the Subnet is there and owns what there is of the rest: it is inspected and deleted like any other.
func (a *api) createNetwork(ctx context.Context, in *newNetwork) (*answer[Network], error) {
	subnet, rest, faults := plan(in.Body)
	if len(faults) > 0 {
		return nil, refuse(faults...)
	}
	all := append([]client.Object{subnet}, rest...)
	need := []access{{verb: "list", kind: subnets}}
	for _, o := range all {
		need = append(need, access{"create", kindOf(o), o.GetNamespace(), ""})
		if len(rest) > 0 {
			need = append(need, access{"delete", kindOf(o), o.GetNamespace(), o.GetName()})
		}
	}
	if err := a.door.check(ctx, need...); err != nil {
		return nil, err
	}
	if err := a.overlaps(ctx, subnet); err != nil {
		return nil, err
	}
	for _, o := range all {
		tried := o.DeepCopyObject().(client.Object)
		tried.SetOwnerReferences(nil) // the Subnet is not there yet
		if err := a.client.Create(ctx, tried, Trial{true}.create()); err != nil {
			return nil, inRequest(err, o)
		}
		if in.DryRun {
			fill(o, tried)
		}
	}
	if !in.DryRun {
		if err := a.make(ctx, subnet, rest); err != nil {
			return nil, err
		}
	}
	out := networkOf(subnet)
	for _, o := range rest {
		out.add(o)
	}
	return &answer[Network]{out}, nil
}

// fill o with what the API server made of it.
func fill(o, from client.Object) {
	switch o := o.(type) {
	case *v1alpha1.Subnet:
		from.(*v1alpha1.Subnet).DeepCopyInto(o)
	case *v1alpha1.HostNetwork:
		from.(*v1alpha1.HostNetwork).DeepCopyInto(o)
	case *nadv1.NetworkAttachmentDefinition:
		from.(*nadv1.NetworkAttachmentDefinition).DeepCopyInto(o)
	}
}

// make the Subnet and what it owns, or nothing.
func (a *api) make(ctx context.Context, subnet *v1alpha1.Subnet, rest []client.Object) error {
	if err := a.client.Create(ctx, subnet, Trial{}.create()); err != nil {
		return inRequest(err, subnet)
	}
	a.wrote(ctx, Trial{}, "made", subnet)
	for i, o := range rest {
		_, isAttachment := o.(*nadv1.NetworkAttachmentDefinition)
		ref := metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Subnet", Name: subnet.Name, UID: subnet.UID}
		if isAttachment {
			ref.Controller = ptr.To(true) // so that the controller keeps it
		}
		o.SetOwnerReferences([]metav1.OwnerReference{ref})
		err := a.client.Create(ctx, o, Trial{}.create())
		if isAttachment && apierrors.IsAlreadyExists(err) && a.ours(ctx, subnet, o) {
			continue // the controller was faster
		}
		if err != nil {
			p := told(inRequest(err, o))
			// The one that failed, too: it may have been made though the answer was lost.
			if left := a.unmake(ctx, subnet, rest[:i+1]); len(left) > 0 {
				p.Detail += fmt.Sprintf("; and could not be deleted again: %s; DELETE /v1/networks/%s does it", strings.Join(left, ", "), subnet.Name)
			}
			return p
		}
		a.wrote(ctx, Trial{}, "made", o)
	}
	return nil
}

// ours says whether o is there and the Subnet's, and reads it then.
func (a *api) ours(ctx context.Context, subnet *v1alpha1.Subnet, o client.Object) bool {
	there := o.DeepCopyObject().(client.Object)
	if a.client.Get(ctx, client.ObjectKeyFromObject(o), there) != nil || !owns(subnet, there) {
		return false
	}
	fill(o, there)
	return true
}

func owns(s *v1alpha1.Subnet, o client.Object) bool {
	return slices.ContainsFunc(o.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == s.UID })
}

// unmake what was made of a network, the Subnet first, since the controller keeps what that wants, though the caller may have gone; what is left is named.
func (a *api) unmake(ctx context.Context, subnet *v1alpha1.Subnet, rest []client.Object) (left []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout/2)
	defer cancel()
	for _, o := range append([]client.Object{subnet}, rest...) {
		if err := a.unmakeOne(ctx, subnet, o); err != nil {
			left = append(left, fmt.Sprintf("%s %q (%v)", kindOf(o).plural, o.GetName(), err))
			continue
		}
		a.wrote(ctx, Trial{}, "deleted, since the rest of its network could not be made", o)
	}
	return left
}

func (a *api) unmakeOne(ctx context.Context, subnet *v1alpha1.Subnet, o client.Object) (err error) {
	for range 3 {
		if o.GetUID() == "" { // not known to be made: somebody else's stays
			there := o.DeepCopyObject().(client.Object)
			err = a.client.Get(ctx, client.ObjectKeyFromObject(o), there)
			if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || err == nil && !owns(subnet, there) {
				return nil // Forbidden: the same right was refused to its creation
			}
			if err == nil {
				o = there
			}
		}
		if o.GetUID() != "" {
			if err = client.IgnoreNotFound(a.client.Delete(ctx, o, deletion(Trial{}, o))); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
	return err
}

// plan the objects of a network. It checks only what concerns several of them: what is wrong with one the API server says.
func plan(n NewNetwork) (*v1alpha1.Subnet, []client.Object, []Fault) {
	subnet := &v1alpha1.Subnet{ObjectMeta: object(n.Name), Spec: v1alpha1.SubnetSpec(n.Subnet)}
	var rest []client.Object
	var hosts []v1alpha1.HostNetwork
	var faults []Fault
	if n.Links != nil {
		host := &v1alpha1.HostNetwork{ObjectMeta: object(n.Name), Spec: v1alpha1.HostNetworkSpec(*n.Links)}
		faults = append(faults, connect(subnet, host)...)
		rest, hosts = append(rest, host), append(hosts, *host)
	}
	if at := subnet.Spec.Attachments; at != nil && subnet.Spec.Parent != "" { // without parent the API server refuses it
		for _, ns := range at.Namespaces {
			rest = append(rest, attachment.First(subnet, ns, hosts))
		}
	}
	return subnet, rest, faults
}

// connect the Subnet to the links: the link that it is on has to be one of those that are made, or is said by them.
func connect(s *v1alpha1.Subnet, h *v1alpha1.HostNetwork) []Fault {
	base := h.Spec.Parent
	if h.Spec.Bond != nil {
		if base != "" {
			return []Fault{{Field: "links.parent", Value: base, Detail: "links.bond is there, too", Remedy: "leave one of them out: VLANs are made on the bond or on a link that is there"}}
		}
		base = h.Spec.Bond.Name
	}
	if base == "" {
		return []Fault{{Field: "links", Detail: "neither a bond nor a parent", Remedy: "name the bond to make, or in parent the link that is there"}}
	}
	link := base
	if v := s.Spec.VLAN; v != nil && *v > 0 {
		link = fmt.Sprintf("%s.%d", base, *v)
		if len(h.Spec.VLANs) == 0 {
			h.Spec.VLANs = []int32{*v}
		}
		if !slices.Contains(h.Spec.VLANs, *v) {
			return []Fault{{Field: "links.vlans", Value: h.Spec.VLANs, Detail: fmt.Sprintf("the network has VLAN %d, and none of its links", *v),
				Remedy: fmt.Sprintf("add %d, or leave links.vlans out", *v)}}
		}
	}
	const longestName = 15 // IFNAMSIZ - 1, linux/if.h
	if len(link) > longestName {
		return []Fault{{Field: "links", Value: link, Detail: fmt.Sprintf("the name of the link has %d characters", len(link)),
			Remedy: fmt.Sprintf("choose a shorter name: a link's has at most %d", longestName)}}
	}
	if s.Spec.Parent == "" {
		s.Spec.Parent = link
	}
	if s.Spec.Parent != link {
		return []Fault{{Field: "subnet.parent", Value: s.Spec.Parent, Detail: fmt.Sprintf("the link that is made for the network is %s", link),
			Remedy: fmt.Sprintf("write %s, or leave it out", link)}}
	}
	return nil
}

// overlaps refuses CIDRs that another Subnet of the L2 domain has, and a VLAN that another L2 domain has.
func (a *api) overlaps(ctx context.Context, s *v1alpha1.Subnet) error {
	var list v1alpha1.SubnetList
	if err := a.client.List(ctx, &list); err != nil {
		return err
	}
	if f := overlap(s, list.Items); f != nil {
		return faulty(http.StatusConflict, []Fault{*f})
	}
	return nil
}

func overlap(s *v1alpha1.Subnet, others []v1alpha1.Subnet) *Fault {
	domain := func(s *v1alpha1.Subnet) string {
		if s.Spec.Network == "" {
			return "default"
		}
		return s.Spec.Network
	}
	for i := range others {
		if o := &others[i]; o.Name != s.Name && carve.OneVLAN(&o.Spec, &s.Spec) {
			return &Fault{Field: "subnet.vlan", Value: *s.Spec.VLAN,
				Detail: fmt.Sprintf("VLAN %d on %s is of the L2 domain %q, by network %q", *s.Spec.VLAN, s.Spec.Parent, domain(o), o.Name),
				Remedy: fmt.Sprintf("take another VLAN, or write subnet.network: %s", domain(o))}
		}
	}
	for i, c := range s.Spec.CIDRs {
		p, err := netip.ParsePrefix(c.CIDR)
		if err != nil {
			continue // the API server says what is wrong with it
		}
		for j := range others {
			o := &others[j]
			for _, oc := range o.Spec.CIDRs {
				q, err := netip.ParsePrefix(oc.CIDR)
				if o.Name != s.Name && domain(o) == domain(s) && err == nil && p.Overlaps(q) {
					return &Fault{Field: fmt.Sprintf("subnet.cidrs[%d].cidr", i), Value: c.CIDR,
						Detail: fmt.Sprintf("%s overlaps %s of network %q in the L2 domain %q", c.CIDR, oc.CIDR, o.Name, domain(s)),
						Remedy: "choose another CIDR, or another subnet.network if the two are on links apart"}
				}
			}
		}
	}
	return nil
}

// inRequest turns what the API server says of an object into what it means for the request.
func inRequest(err error, o client.Object) error {
	if err == nil {
		return nil
	}
	field, what := "name", "network"
	switch o.(type) {
	case *v1alpha1.HostNetwork:
		field, what = "links", "HostNetwork"
	case *nadv1.NetworkAttachmentDefinition:
		field, what = "subnet.attachments.namespaces", "NetworkAttachmentDefinition"
	}
	name := o.GetName()
	if o.GetNamespace() != "" {
		name = o.GetNamespace() + "/" + name
	}
	if apierrors.IsAlreadyExists(err) {
		return conflict(field, name, "delete it, or choose another name", "%s %q exists", what, name)
	}
	p := told(err)
	prefix := map[string]string{"network": "subnet.", "HostNetwork": "links."}[what]
	for i, f := range p.Errors {
		if spec, ok := strings.CutPrefix(f.Field, "spec."); ok && prefix != "" {
			p.Errors[i].Field = prefix + spec
		}
	}
	if len(p.Errors) > 0 {
		header := p.header
		p = faulty(p.Status, p.Errors)
		p.header = header
	} else if what != "network" {
		p.Errors = []Fault{{Field: field, Value: name, Detail: p.Detail}}
	}
	return p
}

func kindOf(o client.Object) resource {
	switch o.(type) {
	case *v1alpha1.Subnet:
		return subnets
	case *v1alpha1.HostNetwork:
		return hostNetworks
	case *nadv1.NetworkAttachmentDefinition:
		return attachments
	}
	panic(fmt.Sprintf("no kind of a network: %T", o))
}
