package rest

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
)

// Free is what is free of one family.
type Free struct {
	Family    ipam.Family `json:"family" enum:"IPv4,IPv6"`
	Total     string      `json:"total" doc:"Addresses that there are, in decimal"`
	Free      string      `json:"free" doc:"Of these, those that nobody has"`
	Returning string      `json:"returning,omitempty" doc:"Those that came back to the network not long ago, and are kept from others for a while"`
	Next      []string    `json:"next" doc:"The first free ranges, by address: ADDRESS or FIRST-LAST"`
	More      bool        `json:"more,omitempty" doc:"There are more ranges than in next"`
}

// Families is what is free, by family.
type Families struct {
	Name     string `json:"name" doc:"Of which pool or network"`
	Families []Free `json:"families"`
}

// Carve is what a pool would get from a network.
type Carve struct {
	Network string   `json:"network" doc:"Name of the network"`
	Pool    string   `json:"pool,omitempty" doc:"Name of the pool, if it was given"`
	Size    int32    `json:"size" doc:"How many addresses of each family it shall have"`
	Take    []string `json:"take" doc:"Ranges that it would get: ADDRESS or FIRST-LAST"`
	Return  []string `json:"return" doc:"Ranges that it would give back"`
	Kept    int64    `json:"kept,omitempty" doc:"Addresses that it would keep beyond its size, since they are in use"`
}

type rangesOf struct {
	Named
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"10" doc:"How many ranges of each family to list, at most"`
}

type carveFor struct {
	Named
	Size int32  `query:"size" required:"true" minimum:"0" maximum:"65536" doc:"How many addresses of each family the pool shall have"`
	Pool string `query:"pool" maxLength:"63" pattern:"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" doc:"Name of the pool: what it has, or had not long ago, counts. Left out: a new one"`
}

// ledger is all that decides over a carve: the same that the controller decides by.
type ledger struct {
	subnet *carve.Subnet
	book   *carve.Book
	avoid  map[ipam.Family]ipam.Ranges
}

func (a *api) ledger(ctx context.Context, name string) (*ledger, error) {
	s, err := a.subnet(ctx, name)
	if err != nil {
		return nil, err
	}
	subnet, err := carve.Compile(s)
	if err != nil {
		return nil, conflict("name", name, "mend the Subnet", "network %q: %v", name, err)
	}
	if c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.SubnetReady); c != nil && c.Status == metav1.ConditionFalse && c.ObservedGeneration == s.Generation {
		return nil, conflict("name", name, "mend it first", "nothing is carved from network %q: %s", name, c.Message)
	}
	var list v1alpha1.IPBlockList
	if err := a.client.List(ctx, &list, client.MatchingFields{"spec.network": subnet.Network}); err != nil {
		return nil, err
	}
	var blocks []*carve.Block
	for i := range list.Items {
		b, err := carve.Read(&list.Items[i])
		if err != nil { // nothing may be carved from what is not understood
			first, err := netip.ParseAddr(list.Items[i].Spec.First)
			if err != nil {
				continue
			}
			b = carve.Full(first)
		}
		blocks = append(blocks, b)
	}
	var all v1alpha1.IPPoolList
	if err := a.client.List(ctx, &all); err != nil {
		return nil, err
	}
	ranges := map[ipam.Family][]ipam.Range{}
	for i := range all.Items {
		p := &all.Items[i]
		if p.Spec.Subnet != "" || cmp.Or(p.Spec.Network, "default") != subnet.Network {
			continue
		}
		c := ipam.CompileOrRefuse(p)
		for _, f := range ipam.Families {
			ranges[f] = append(ranges[f], c.Ranges(f)...)
		}
	}
	avoid := map[ipam.Family]ipam.Ranges{}
	for f, rs := range ranges {
		avoid[f] = ipam.NewRanges(rs...)
	}
	return &ledger{subnet: subnet, book: carve.NewBook(blocks...), avoid: avoid}, nil
}

// carveAccess is what a ledger is read with.
func carveAccess(subnet string) []access {
	return []access{{verb: "get", kind: subnets, name: subnet}, {verb: "list", kind: blocks}, {verb: "list", kind: pools}}
}

func (l *ledger) try(pool string, size int32, used []netip.Addr) (carve.Decision, error) {
	return carve.Decide(l.subnet, l.book, carve.Ask{Owner: carve.Owner{Pool: pool}, Size: uint64(size), InUse: used, Avoid: l.avoid})
}

// fits says whether a pool of that size can be had of a Subnet now. It is no lock: who comes later and takes it first wins.
func (a *api) fits(ctx context.Context, subnet, pool string, size int32, field string) error {
	l, err := a.ledger(ctx, subnet)
	if err != nil {
		if client.IgnoreNotFound(err) == nil {
			return refuse(Fault{Field: "spec.subnet", Value: subnet, Detail: "there is no such network", Remedy: "name one of GET /v1/networks"})
		}
		return err
	}
	_, err = l.try(pool, size, nil)
	return short(err, field, size)
}

func short(err error, field string, size int32) error {
	var s *carve.Shortage
	if !errors.As(err, &s) {
		return err
	}
	detail, remedy, _ := strings.Cut(s.Error(), "; ")
	return faulty(http.StatusConflict, []Fault{{Field: field, Value: size, Detail: detail, Remedy: remedy}})
}

func (a *api) tryCarve(ctx context.Context, in *carveFor) (*answer[Carve], error) {
	need := carveAccess(in.Name)
	if in.Pool != "" {
		need = append(need, access{verb: "list", kind: leases})
	}
	if err := a.door.check(ctx, need...); err != nil {
		return nil, err
	}
	l, err := a.ledger(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	var used []netip.Addr
	if in.Pool != "" {
		err := a.eachLease(ctx, client.MatchingFields{"spec.network": l.subnet.Network}, func(lease *v1alpha1.IPLease) {
			if _, addr, err := ipam.ParseLeaseName(lease.Name); err == nil && lease.Spec.Phase != v1alpha1.LeaseReleased {
				used = append(used, addr)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	d, err := l.try(in.Pool, in.Size, used)
	if err := short(err, "query.size", in.Size); err != nil {
		return nil, err
	}
	return &answer[Carve]{Carve{Network: in.Name, Pool: in.Pool, Size: in.Size, Take: texts(d.Take), Return: texts(d.Return), Kept: int64(d.Kept)}}, nil
}

func texts(rs []ipam.Range) []string {
	out := []string{}
	for _, r := range rs {
		out = append(out, r.String())
	}
	return out
}

func (a *api) getNetworkFree(ctx context.Context, in *rangesOf) (*answer[Families], error) {
	if err := a.door.check(ctx, carveAccess(in.Name)...); err != nil {
		return nil, err
	}
	l, err := a.ledger(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	out := Families{Name: in.Name, Families: []Free{}}
	tally := carve.Tally(l.subnet, l.book, l.avoid)
	for _, f := range l.subnet.Families() {
		t := tally[f]
		free := l.book.Free(l.subnet, f, l.avoid[f])
		x := freeOf(f, l.subnet.Usable(f), free, in.Limit)
		if t.Returning.Sign() > 0 {
			x.Returning = t.Returning.String()
		}
		out.Families = append(out.Families, x)
	}
	return &answer[Families]{out}, nil
}

func freeOf(f ipam.Family, all, free ipam.Ranges, limit int) Free {
	n := min(limit, len(free))
	return Free{Family: f, Total: all.Count().String(), Free: free.Count().String(), Next: texts(free[:n]), More: len(free) > n}
}
