package rest

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Application whose addresses are fixed, by the identity of its leases.
type Application struct {
	Namespace string `path:"namespace" maxLength:"63" pattern:"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" doc:"Its namespace"`
	Kind      string `path:"kind" maxLength:"63" pattern:"^[A-Z][A-Za-z0-9]*$" doc:"Its kind: Deployment, StatefulSet, DaemonSet, Pod, or Name for the annotation berth.dev/identity"`
	Name      string `path:"name" maxLength:"253" pattern:"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$" doc:"Its name"`
}

func (i Application) has(l *v1alpha1.IPLease) bool {
	id := l.Spec.Identity
	return id != nil && id.Kind == i.Kind && id.Namespace == i.Namespace && id.Name == i.Name
}

func (i Application) String() string { return fmt.Sprintf("%s %s/%s", i.Kind, i.Namespace, i.Name) }

// Assign addresses to an application: these, or as many free ones of a pool.
type Assign struct {
	Addresses []string `json:"addresses,omitempty" maxItems:"64" doc:"Addresses to fix"`
	Count     int      `json:"count,omitempty" minimum:"1" maximum:"64" doc:"Instead of addresses: how many free ones of each family of the pool"`
	Pool      string   `json:"pool,omitempty" maxLength:"63" doc:"Pool that gives them out; left out: any of the L2 domain that has the addresses"`
	Network   string   `json:"network,omitempty" maxLength:"63" doc:"L2 domain of the addresses; left out: default, or that of the pool"`
	Pod       string   `json:"pod,omitempty" maxLength:"253" doc:"For this pod of the application alone, such as ledger-0"`
	Interface string   `json:"interface,omitempty" maxLength:"15" doc:"For this interface of the pods alone, such as net1"`
}

type assign struct {
	Application
	Trial
	Body Assign
}

type applicationPage struct {
	Application
	Paged
	Network string `query:"network" maxLength:"63" pattern:"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" doc:"Only of this L2 domain"`
}

type release struct {
	Application
	Address string `path:"address" maxLength:"39" doc:"An IPv4 or IPv6 address"`
	Domain
	Trial
}

func (a *api) applications(h huma.API) {
	const route = "/v1/applications/{namespace}/{kind}/{name}/addresses"
	serve(h, "applications", "listFixed", "GET "+route, "List the addresses of an application", a.listFixed,
		described("All that are kept for it beyond the life of a pod: those fixed by a person, and, with identity.ends, those that Berth keeps by itself."))
	serve(h, "applications", "assign", "POST "+route, "Fix addresses to an application", a.assign, made,
		described("All or none. Each is a Reserved IPLease with the application's identity; its pods get it without asking. An address that another has is refused."))
	serve(h, "applications", "release", "DELETE "+route+"/{address}", "Release an address of an application", a.release,
		described("One that a pod uses stays with this pod, and is free when the pod is gone."))
}

func (a *api) listFixed(ctx context.Context, in *applicationPage) (*answer[List[Lease]], error) {
	if err := a.door.check(ctx, access{verb: "list", kind: leases}); err != nil {
		return nil, err
	}
	options := in.options()
	if in.Network != "" {
		client.MatchingFields{"spec.network": in.Network}.ApplyToList(options)
	}
	var list v1alpha1.IPLeaseList
	if err := a.client.List(ctx, &list, options); err != nil {
		return nil, err
	}
	out := List[Lease]{Items: []Lease{}, Continue: list.Continue}
	for i := range list.Items {
		if in.has(&list.Items[i]) {
			out.Items = append(out.Items, leaseOf(&list.Items[i]))
		}
	}
	return &answer[List[Lease]]{out}, nil
}

func (a *api) assign(ctx context.Context, in *assign) (*answer[List[Lease]], error) {
	need := []access{{verb: "list", kind: pools}, {verb: "get", kind: leases}, {verb: "create", kind: leases}, {verb: "update", kind: leases},
		{verb: "delete", kind: leases}}
	if in.Body.Count > 0 {
		need = append(need, access{verb: "list", kind: leases})
	}
	if err := a.door.check(ctx, need...); err != nil {
		return nil, err
	}
	var err error
	for range 5 { // others take free addresses meanwhile
		var wanted []claim
		if wanted, err = a.wanted(ctx, in); err != nil {
			return nil, err
		}
		var out *answer[List[Lease]]
		if out, err = a.reserve(ctx, in, wanted); err == nil {
			return out, nil
		}
		if p := told(err); in.Body.Count == 0 || p.Status != 409 {
			break
		}
	}
	return nil, err
}

// claim is an address to fix, in a pool that gives it out.
type claim struct {
	field string
	addr  netip.Addr
	pool  *ipam.Pool
}

// wanted are the addresses asked for, or free ones.
func (a *api) wanted(ctx context.Context, in *assign) (out []claim, err error) {
	b := in.Body
	switch {
	case (len(b.Addresses) > 0) == (b.Count > 0):
		return nil, refuse(Fault{Field: "addresses", Detail: "either addresses or a count", Remedy: "name the addresses, or say in count how many free ones of pool"})
	case b.Count > 0 && b.Pool == "":
		return nil, refuse(Fault{Field: "pool", Detail: "count needs a pool to take from", Remedy: "name the pool"})
	}
	var list v1alpha1.IPPoolList
	if err := a.client.List(ctx, &list); err != nil {
		return nil, err
	}
	network := b.Network
	var from []*ipam.Pool
	for i := range list.Items {
		p := ipam.CompileOrRefuse(&list.Items[i])
		if p.Name == b.Pool {
			if b.Network != "" && b.Network != p.Network {
				return nil, refuse(Fault{Field: "network", Value: b.Network, Detail: fmt.Sprintf("pool %q is of network %q", p.Name, p.Network), Remedy: "write that, or leave it out"})
			}
			network = p.Network
		}
		if b.Pool == "" || p.Name == b.Pool {
			from = append(from, p)
		}
		if p.Name == b.Pool && b.Count > 0 {
			return a.freeOnes(ctx, &list.Items[i], b.Count)
		}
	}
	if b.Pool != "" && len(from) == 0 {
		return nil, refuse(Fault{Field: "pool", Value: b.Pool, Detail: "there is no such pool", Remedy: "name one of GET /v1/pools, or none"})
	}
	if network == "" {
		network = "default"
	}
	var faults []Fault
	for i, text := range b.Addresses {
		field := fmt.Sprintf("addresses[%d]", i)
		addr, err := address(field, text)
		if err != nil {
			faults = append(faults, told(err).Errors...)
			continue
		}
		if slices.ContainsFunc(out, func(c claim) bool { return c.addr == addr }) {
			faults = append(faults, Fault{Field: field, Value: text, Detail: "is there twice", Remedy: "name each address once"})
		}
		p := slices.IndexFunc(from, func(p *ipam.Pool) bool { return p.Network == network && p.Contains(addr) })
		if p < 0 {
			of := fmt.Sprintf("no pool of network %q gives it out", network)
			if b.Pool != "" {
				of = fmt.Sprintf("pool %q does not give it out", b.Pool)
			}
			faults = append(faults, Fault{Field: field, Value: text, Detail: of, Remedy: "name an address of a pool that the application uses: GET /v1/pools/NAME/free lists free ones"})
			continue
		}
		out = append(out, claim{field, addr, from[p]})
	}
	if len(faults) > 0 {
		return nil, refuse(faults...)
	}
	return out, nil
}

// freeOnes of a pool: the first ones, of each family.
func (a *api) freeOnes(ctx context.Context, obj *v1alpha1.IPPool, n int) (out []claim, err error) {
	p, free, err := a.freeIn(ctx, obj)
	if err != nil {
		return nil, err
	}
	if len(p.Families()) == 0 {
		return nil, conflict("pool", p.Name, "try again when GET /v1/pools/"+p.Name+" shows addresses; its conditions say what they wait for", "pool %q has no addresses", p.Name)
	}
	for _, f := range p.Families() {
		left := n
		for _, r := range free[f] {
			for addr := r.From; left > 0; addr = addr.Next() {
				out = append(out, claim{"count", addr, p})
				if left--; addr == r.To {
					break
				}
			}
		}
		if left > 0 {
			return nil, conflict("count", n, "ask for fewer, or make the pool larger", "pool %q has %d free %s addresses", p.Name, n-left, f)
		}
	}
	return out, nil
}

// reserve all of them or none. An address that was used before is taken over as a pod would take it, by an update of its lease as it was read.
func (a *api) reserve(ctx context.Context, in *assign, wanted []claim) (*answer[List[Lease]], error) {
	for _, c := range wanted { // what is refused is refused before anything is written
		if _, _, err := a.take(ctx, in, c, Trial{true}); err != nil {
			return nil, err
		}
	}
	out := List[Lease]{Items: []Lease{}}
	var undo []func(context.Context) error
	for _, c := range wanted {
		l, back, err := a.take(ctx, in, c, in.Trial)
		if err != nil {
			p := told(err)
			if left := a.undo(ctx, undo); len(left) > 0 {
				p.Detail += "; and could not be released again: " + strings.Join(left, ", ")
			}
			if p.Status == http.StatusServiceUnavailable && !in.DryRun { // by whom cannot be told from a lease: it stays
				p.Detail += fmt.Sprintf("; %s may be reserved all the same: GET /v1/applications/%s/%s/%s/addresses lists it then, and DELETE releases it",
					c.addr, in.Namespace, in.Kind, in.Name)
			}
			return nil, p
		}
		a.wrote(ctx, in.Trial, "reserved for "+in.Application.String(), l)
		undo = append(undo, back)
		out.Items = append(out.Items, leaseOf(l))
	}
	return &answer[List[Lease]]{out}, nil
}

func (a *api) undo(ctx context.Context, steps []func(context.Context) error) (left []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout/2)
	defer cancel()
	for _, back := range steps {
		if err := back(ctx); client.IgnoreNotFound(err) != nil {
			left = append(left, err.Error())
		}
	}
	return left
}

// take one address for the application. back undoes it, unless somebody has done more with it since.
func (a *api) take(ctx context.Context, in *assign, c claim, d Trial) (l *v1alpha1.IPLease, back func(context.Context) error, err error) {
	l = &v1alpha1.IPLease{ObjectMeta: object(ipam.LeaseName(c.pool.Network, c.addr))}
	l.Spec = v1alpha1.IPLeaseSpec{Network: c.pool.Network, Address: c.addr.String()}
	in.mark(l, c.pool)
	if err = a.client.Create(ctx, l, d.create()); err == nil {
		mine := l.DeepCopy()
		return l, func(ctx context.Context) error { return a.client.Delete(ctx, mine, unchanged(mine, Trial{})) }, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return nil, nil, err
	}
	if err := a.client.Get(ctx, client.ObjectKeyFromObject(l), l); err != nil {
		return nil, nil, err
	}
	if l.Spec.Phase != v1alpha1.LeaseReleased {
		return nil, nil, conflict(c.field, c.addr.String(), "name another address, or release it first", "%s of network %q is taken: %s", c.addr, c.pool.Network, whose(l))
	}
	before := l.DeepCopy()
	in.mark(l, c.pool)
	if err := a.client.Update(ctx, l, d.update()); err != nil {
		if apierrors.IsConflict(err) {
			return nil, nil, conflict(c.field, c.addr.String(), "try again, or name another address", "%s of network %q changes hands just now", c.addr, c.pool.Network)
		}
		return nil, nil, err
	}
	after := l.ResourceVersion
	return l, func(ctx context.Context) error {
		before.ResourceVersion = after
		return a.client.Update(ctx, before, Trial{}.update())
	}, nil
}

// mark a lease as the application's: what the controller adds to a lease without, pool and labels, is there from the start.
func (in *assign) mark(l *v1alpha1.IPLease, p *ipam.Pool) {
	if l.Labels == nil {
		l.Labels = map[string]string{}
	}
	addr, _ := netip.ParseAddr(l.Spec.Address)
	l.Labels[v1alpha1.LabelManagedBy] = manager
	l.Labels[v1alpha1.LabelPool] = p.Name
	l.Labels[v1alpha1.LabelFamily] = string(ipam.FamilyOf(addr))
	l.Spec.Phase, l.Spec.Pool = v1alpha1.LeaseReserved, p.Name
	l.Spec.Identity = &v1alpha1.LeaseIdentity{Kind: in.Kind, Namespace: in.Namespace, Name: in.Name, Pod: in.Body.Pod, Interface: in.Body.Interface}
	l.Labels[v1alpha1.LabelIdentity] = ipam.IdentityHash(l.Spec.Identity)
}

// whose lease it is, in words.
func whose(l *v1alpha1.IPLease) string {
	switch i, h := l.Spec.Identity, l.Spec.Holder; {
	case l.Spec.Phase == v1alpha1.LeaseBound && h != nil:
		return fmt.Sprintf("pod %s/%s has it", h.Namespace, h.Pod)
	case l.Spec.Phase == v1alpha1.LeaseQuarantined:
		return "somebody else answers for it on the wire"
	case i != nil:
		return fmt.Sprintf("reserved for %s %s/%s", i.Kind, i.Namespace, i.Name)
	}
	return "kept out of use"
}

// unchanged since it was read: else it is not deleted.
func unchanged(l *v1alpha1.IPLease, d Trial) *client.DeleteOptions {
	uid, version := l.UID, l.ResourceVersion
	return &client.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}, DryRun: d.all()}
}

func (a *api) release(ctx context.Context, in *release) (*answer[Deletion], error) {
	addr, err := address("path.address", in.Address)
	if err != nil {
		return nil, err
	}
	name := ipam.LeaseName(in.Network, addr)
	err = a.door.check(ctx, access{verb: "get", kind: leases, name: name}, access{verb: "delete", kind: leases, name: name},
		access{verb: "update", kind: leases, name: name})
	if err != nil {
		return nil, err
	}
	var l v1alpha1.IPLease
	if err := a.client.Get(ctx, client.ObjectKey{Name: name}, &l); err != nil {
		return nil, err
	}
	if !in.has(&l) {
		return nil, conflict("path.address", addr.String(), "GET /v1/addresses/"+addr.String()+" says whose it is",
			"%s of network %q is not fixed to %s: %s", addr, in.Network, in.Application, whose(&l))
	}
	out := &answer[Deletion]{Deletion{Name: l.Name}}
	switch l.Spec.Phase {
	case v1alpha1.LeaseReserved:
		err = a.client.Delete(ctx, &l, unchanged(&l, in.Trial))
		out.Body.Gone = true
	default: // a pod has it: the lock stays, and is released with the pod
		l.Spec.Identity = nil
		delete(l.Labels, v1alpha1.LabelIdentity)
		err = a.client.Update(ctx, &l, in.update())
		out.Body.WaitsFor = "the end of its use: " + whose(&l)
	}
	if apierrors.IsConflict(err) {
		return nil, conflict("path.address", addr.String(), "try again", "%s of network %q changes hands just now", addr, in.Network)
	}
	if err != nil {
		return nil, err
	}
	a.wrote(ctx, in.Trial, "released from "+in.Application.String(), &l)
	return out, nil
}
