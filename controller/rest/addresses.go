package rest

import (
	"context"
	"net/netip"
	"time"

	"github.com/danielgtaylor/huma/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
)

// Lease is an IPLease.
type Lease struct {
	Name    string    `json:"name" doc:"Name of the IPLease"`
	Created time.Time `json:"created" doc:"When the address was first given"`
	Spec    LeaseSpec `json:"spec"`
}

func leaseOf(l *v1alpha1.IPLease) Lease {
	return Lease{Name: l.Name, Created: l.CreationTimestamp.Time, Spec: LeaseSpec(l.Spec)}
}

// Address is what is known of one.
type Address struct {
	Address string   `json:"address"`
	Network string   `json:"network" doc:"The L2 domain"`
	State   string   `json:"state" enum:"Free,Bound,Reserved,Released,Quarantined,NotGivenOut" doc:"The phase of its lease. Without one: Free, or NotGivenOut if no pool has it"`
	Lease   *Lease   `json:"lease,omitempty"`
	Pools   []string `json:"pools" doc:"Pools that give it out"`
	Part    *Part    `json:"part,omitempty" doc:"By which part of a network a pool has it"`
}

// Part is a part of an IPBlock.
type Part struct {
	Block     string     `json:"block" doc:"Name of the IPBlock"`
	IPs       string     `json:"ips" doc:"ADDRESS or FIRST-LAST"`
	Subnet    string     `json:"subnet" doc:"The network that it was carved from"`
	Pool      string     `json:"pool,omitempty" doc:"The pool that has it"`
	To        string     `json:"to,omitempty" doc:"The network, made from that one, that has it"`
	Returning *time.Time `json:"returning,omitempty" doc:"When its owner gave it up; it is kept from others for a while"`
}

type leasesOf struct {
	Paged
	Network string `query:"network" maxLength:"63" pattern:"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" doc:"Only of this L2 domain"`
	Pool    string `query:"pool" maxLength:"63" pattern:"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" doc:"Only of this pool"`
	Phase   string `query:"phase" enum:"Bound,Reserved,Released,Quarantined" doc:"Only in this phase"`
}

type oneAddress struct {
	Address string `path:"address" maxLength:"39" doc:"An IPv4 or IPv6 address"`
	Domain
}

func (a *api) addresses(h huma.API) {
	serve(h, "addresses", "listAddresses", "GET /v1/addresses", "List leases", a.listAddresses)
	serve(h, "addresses", "getAddress", "GET /v1/addresses/{address}", "Who has an address", a.getAddress)
}

func (a *api) listAddresses(ctx context.Context, in *leasesOf) (*answer[List[Lease]], error) {
	if err := a.door.check(ctx, access{verb: "list", kind: leases}); err != nil {
		return nil, err
	}
	want := fields.Set{}
	for field, v := range map[string]string{"spec.network": in.Network, "spec.pool": in.Pool, "spec.phase": in.Phase} {
		if v != "" {
			want[field] = v
		}
	}
	options := in.options()
	options.FieldSelector = want.AsSelector()
	var list v1alpha1.IPLeaseList
	if err := a.client.List(ctx, &list, options); err != nil {
		return nil, err
	}
	out := List[Lease]{Items: []Lease{}, Continue: list.Continue}
	for i := range list.Items {
		out.Items = append(out.Items, leaseOf(&list.Items[i]))
	}
	return &answer[List[Lease]]{out}, nil
}

// eachLease in pages, so that a large network is never in memory as a whole.
func (a *api) eachLease(ctx context.Context, of client.MatchingFields, f func(*v1alpha1.IPLease)) error {
	page := Paged{Limit: 500}
	for {
		options := page.options()
		of.ApplyToList(options)
		var list v1alpha1.IPLeaseList
		if err := a.client.List(ctx, &list, options); err != nil {
			return err
		}
		for i := range list.Items {
			f(&list.Items[i])
		}
		if page.Continue = list.Continue; page.Continue == "" {
			return nil
		}
	}
}

// address in the only form that its names have.
func address(field, text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		return addr, refuse(Fault{Field: field, Value: text, Detail: "not an IPv4 or IPv6 address", Remedy: "write one such as 10.6.2.10 or fd00:6::10, without prefix length"})
	}
	return addr, nil
}

func (a *api) getAddress(ctx context.Context, in *oneAddress) (*answer[Address], error) {
	addr, err := address("path.address", in.Address)
	if err != nil {
		return nil, err
	}
	block := carve.Name(in.Network, carve.FirstOf(addr))
	lease := ipam.LeaseName(in.Network, addr)
	err = a.door.check(ctx, access{verb: "get", kind: leases, name: lease}, access{verb: "get", kind: blocks, name: block}, access{verb: "list", kind: pools})
	if err != nil {
		return nil, err
	}
	out := Address{Address: addr.String(), Network: in.Network, State: "NotGivenOut", Pools: []string{}}
	giving, err := a.giving(ctx, in.Network, addr)
	if err != nil {
		return nil, err
	}
	for _, p := range giving {
		out.Pools, out.State = append(out.Pools, p.Name), "Free"
	}
	var l v1alpha1.IPLease
	switch err := a.client.Get(ctx, client.ObjectKey{Name: lease}, &l); {
	case err == nil:
		v := leaseOf(&l)
		out.Lease, out.State = &v, string(l.Spec.Phase)
	case !apierrors.IsNotFound(err):
		return nil, err
	}
	var b v1alpha1.IPBlock
	switch err := a.client.Get(ctx, client.ObjectKey{Name: block}, &b); {
	case err == nil:
		out.Part = partOf(&b, addr)
	case !apierrors.IsNotFound(err):
		return nil, err
	}
	return &answer[Address]{out}, nil
}

// partOf a block in which an address is: that of a pool before that of a network cut out of another.
func partOf(b *v1alpha1.IPBlock, addr netip.Addr) (out *Part) {
	read, err := carve.Read(b)
	if err != nil {
		return nil // nobody's, as far as one can read it
	}
	for _, p := range read.Parts {
		if addr.Less(p.From) || p.To.Less(addr) || out != nil && out.Pool != "" {
			continue
		}
		out = &Part{Block: b.Name, IPs: p.Range.String(), Subnet: p.Subnet, Pool: p.Owner.Pool, To: p.Owner.To}
		if !p.Had() {
			at := p.Returned
			out.Returning = &at
		}
	}
	return out
}

// giving are the pools of a network that give an address out.
func (a *api) giving(ctx context.Context, network string, addr netip.Addr) (out []*ipam.Pool, err error) {
	var list v1alpha1.IPPoolList
	if err := a.client.List(ctx, &list); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if p := ipam.CompileOrRefuse(&list.Items[i]); p.Network == network && p.Contains(addr) {
			out = append(out, p)
		}
	}
	return out, nil
}

func (a *api) getPoolFree(ctx context.Context, in *rangesOf) (*answer[Families], error) {
	if err := a.door.check(ctx, access{verb: "get", kind: pools, name: in.Name}, access{verb: "list", kind: leases}); err != nil {
		return nil, err
	}
	obj, err := a.pool(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	p, free, err := a.freeIn(ctx, obj)
	if err != nil {
		return nil, err
	}
	out := Families{Name: in.Name, Families: []Free{}}
	for _, f := range p.Families() {
		out.Families = append(out.Families, freeOf(f, p.Ranges(f), free[f], in.Limit))
	}
	return &answer[Families]{out}, nil
}

// freeIn a pool: what it gives out, less what has a lease that is not Released, of whichever pool.
func (a *api) freeIn(ctx context.Context, obj *v1alpha1.IPPool) (*ipam.Pool, map[ipam.Family]ipam.Ranges, error) {
	p, err := ipam.Compile(obj)
	if err != nil {
		return nil, nil, conflict("name", obj.Name, "mend the IPPool", "%v", err)
	}
	if p.Delegate != nil {
		return nil, nil, conflict("name", obj.Name, "ask that one", "pool %q leaves its addresses to the IPAM plugin %q, which alone knows what is free", p.Name, p.Delegate.Type)
	}
	taken := map[ipam.Family][]ipam.Range{}
	err = a.eachLease(ctx, client.MatchingFields{"spec.network": p.Network}, func(l *v1alpha1.IPLease) {
		_, addr, err := ipam.ParseLeaseName(l.Name)
		if err != nil || l.Spec.Phase == v1alpha1.LeaseReleased || !p.Contains(addr) {
			return
		}
		both := []netip.Addr{addr}
		if p.Paired() {
			both = append(both, p.Partner(addr))
		}
		for _, t := range both {
			taken[ipam.FamilyOf(t)] = append(taken[ipam.FamilyOf(t)], ipam.Range{From: t, To: t})
		}
	})
	free := map[ipam.Family]ipam.Ranges{}
	for _, f := range p.Families() {
		free[f] = p.Ranges(f).Subtract(ipam.NewRanges(taken[f]...))
	}
	return p, free, err
}
