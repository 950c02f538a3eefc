package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
)

// toRun are the delegates that the plugin has to run before a verb can go on, see the contract of package delegate.
type toRun []delegate.Run

func (p toRun) Error() string { return fmt.Sprintf("%d IPAM plugins are to be run", len(p)) }

// delegateError is what went wrong with a delegate, by its own word or ours.
type delegateError struct {
	pool, typ string
	err       *delegate.Error
}

func (e delegateError) Error() string {
	msg := strings.Join(strings.Fields(e.err.Msg+" "+e.err.Details), " ")
	return fmt.Sprintf("pool %q: IPAM plugin %s: %s", e.pool, e.typ, msg)
}

// delegationOf a delegate pool.
func delegationOf(p *ipam.Pool) delegation {
	d := delegation{Pool: p.Name, Type: p.Delegate.Type}
	if c := p.Delegate.Config; c != nil {
		d.Config = c.Raw
	}
	return d
}

// run of a delegate with the configuration of the request.
func (d delegation) run(command string, req *delegate.Request) (delegate.Run, error) {
	config, err := delegate.ConfigFor(req.Config, d.Type, d.Config)
	if err != nil {
		return delegate.Run{}, badConfig{fmt.Errorf("pool %q: %w", d.Pool, err)}
	}
	return delegate.Run{Pool: d.Pool, Type: d.Type, Command: command, Config: config}, nil
}

// outcome of a pool's ADD, and of the DEL behind it; nil: not run.
func outcome(ran []delegate.Ran, pool string) (add, del *delegate.Ran) {
	for i := range ran {
		switch r := &ran[i]; {
		case r.Pool != pool:
		case r.Command == "ADD":
			add, del = r, nil
		case r.Command == "DEL" && add != nil:
			del = r
		}
	}
	return add, del
}

// serveDelegate by the addresses that the pool's plugin gives: it asks for the plugin to be run, and once it was, records them.
func (t *transaction) serveDelegate(ctx context.Context, o ipam.Option) error {
	p := o.Pool
	add, del := outcome(t.req.Ran, p.Name)
	switch {
	case add == nil:
		return t.instruct(p)
	case add.Error != nil:
		return delegateError{p.Name, add.Type, add.Error}
	case del != nil:
		return delegateError{p.Name, add.Type, &delegate.Error{Msg: del.Why}}
	}
	g, err := grantOf(o, t.cniVersion, add.Result)
	if err != nil {
		t.rejected[p.Name] = err.Error()
		return delegateError{p.Name, add.Type, &delegate.Error{Msg: err.Error()}}
	}
	got := make([]*v1alpha1.IPLease, len(g.pools))
	err = t.sideBySide(len(got), func(i int) (err error) {
		a := g.addrs[i]
		got[i], err = t.take(ctx, p, ipam.Pick{Family: ipam.FamilyOf(a), Address: a})
		return err
	})
	if err != nil {
		err = fmt.Errorf("pool %q: IPAM plugin %s gave an address that cannot be recorded: %w", p.Name, add.Type, err)
		t.rejected[p.Name] = err.Error()
		return errors.Join(err, t.release(ctx, slices.DeleteFunc(got, func(l *v1alpha1.IPLease) bool { return l == nil }), t.back))
	}
	t.claimed, t.leases, t.pools = append(t.claimed, got...), append(t.leases, got...), append(t.pools, g.pools...)
	t.given.add(p.Name, g)
	return nil
}

// instruct the plugin to run ADD of a pool's delegate, which is noted first. What the delegate may have for this interface from
// before, it takes back: many refuse a second ADD (CNI spec 1.1.0, section 3), and what it gave then is known no longer.
func (t *transaction) instruct(p *ipam.Pool) error {
	d := delegationOf(p)
	known, err := t.notes.put(t.claimant.Holder, d)
	if err != nil {
		return err
	}
	known = known || slices.ContainsFunc(t.own, func(l *v1alpha1.IPLease) bool {
		return l.Spec.Pool == p.Name && ipam.SameSandbox(l, t.claimant.Holder.ContainerID, t.claimant.Holder.Interface)
	})
	add, err := d.run("ADD", t.req)
	if err != nil {
		return err
	}
	if !known {
		return toRun{add}
	}
	del := add
	del.Command, del.Why = "DEL", "an earlier ADD of this interface has not ended"
	return toRun{del, add}
}

// returnUnused has the delegates whose addresses the interface does not use take them back.
func (t *transaction) returnUnused() error {
	var runs toRun
	for _, r := range t.req.Ran {
		add, del := outcome(t.req.Ran, r.Pool)
		if add == nil || add.Error != nil || del != nil || t.given.has(r.Pool) ||
			slices.ContainsFunc(runs, func(o delegate.Run) bool { return o.Pool == r.Pool }) {
			continue
		}
		p := t.Agent.pools.named(r.Pool)
		if p == nil || p.Delegate == nil {
			continue // deleted by force meanwhile; its note is there for DEL
		}
		run, err := delegationOf(p).run("DEL", t.req)
		if err != nil {
			return err
		}
		if run.Why = t.rejected[r.Pool]; run.Why == "" {
			run.Why = "its addresses are not needed; another pool has some by now"
		}
		runs = append(runs, run)
	}
	if len(runs) > 0 {
		return runs
	}
	return nil
}

// grant is what a delegate gives an interface.
type grant struct {
	addrs  []netip.Addr
	pools  []*ipam.Pool // of addrs, by index, each with the subnet of its address
	routes []*types.Route
	dns    types.DNS
}

// grantOf the result of a delegate, as far as the option wants it.
func grantOf(o ipam.Option, cniVersion string, result []byte) (grant, error) {
	var g grant
	res, err := delegate.ParseResult(cniVersion, result)
	if err != nil {
		return g, fmt.Errorf("its result is malformed: %w", err)
	}
	gateway := map[ipam.Family]netip.Addr{}
	for _, ip := range res.IPs {
		addr, s, err := subnetOf(ip)
		if err != nil {
			return g, err
		}
		f := ipam.FamilyOf(addr)
		if o.Family != "" && o.Family != f || slices.Contains(g.addrs, addr) {
			continue
		}
		if !gateway[f].IsValid() {
			gateway[f] = s.Gateway
		}
		g.addrs, g.pools = append(g.addrs, addr), append(g.pools, o.Pool.With(s))
	}
	if len(g.addrs) == 0 {
		return g, fmt.Errorf("it gave no %s address, only %s; name the pool for the other family, or another pool", o.Family, ips(res))
	}
	if lacks := missing(o.Asked, g.addrs); len(lacks) > 0 {
		return g, fmt.Errorf("it gave %s, not %s, which was asked for; ask for an address that it has, or for none", ips(res), join(lacks, " or "))
	}
	for _, r := range res.Routes {
		dst, ok := netip.AddrFromSlice(r.Dst.IP)
		if !ok {
			return g, errors.New("its result is malformed: a route without dst")
		}
		gw, ok := gateway[ipam.FamilyOf(dst.Unmap())]
		if !ok {
			continue // of a family that the interface gets no address of
		}
		route := r.Copy()
		if route.GW == nil && gw.IsValid() {
			route.GW = gw.AsSlice() // as the main plugin would; the result may have no gateway with its addresses
		}
		g.routes = append(g.routes, route)
	}
	g.dns = res.DNS
	return g, nil
}

func subnetOf(ip *types100.IPConfig) (addr netip.Addr, s ipam.Subnet, err error) {
	addr, ok := netip.AddrFromSlice(ip.Address.IP)
	addr = addr.Unmap()
	bits, size := ip.Address.Mask.Size()
	if !ok || size != addr.BitLen() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
		return addr, s, fmt.Errorf("its result is malformed: %s is no address of an interface", ip.Address.String())
	}
	s.Prefix = netip.PrefixFrom(addr, bits).Masked()
	if gw, ok := netip.AddrFromSlice(ip.Gateway); ok && gw.Unmap().Is4() == addr.Is4() {
		s.Gateway = gw.Unmap()
	}
	return addr, s, nil
}

// missing are the addresses asked for that are not among those given: one of all that are wanted, or each of which one is, of a family.
func missing(asked ipam.Asked, got []netip.Addr) []netip.Addr {
	for _, a := range asked.All {
		if !slices.Contains(got, a) {
			return []netip.Addr{a}
		}
	}
	for _, f := range ipam.Families {
		var oneOf []netip.Addr
		for _, a := range asked.OneOf {
			if ipam.FamilyOf(a) == f {
				oneOf = append(oneOf, a)
			}
		}
		if len(oneOf) > 0 && !slices.ContainsFunc(oneOf, func(a netip.Addr) bool { return slices.Contains(got, a) }) {
			return oneOf
		}
	}
	return nil
}

func ips(res *types100.Result) string {
	var out []netip.Addr
	for _, ip := range res.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		out = append(out, a.Unmap())
	}
	return join(out, ", ")
}

func join(as []netip.Addr, by string) string {
	s := make([]string, len(as))
	for i, a := range as {
		s[i] = a.String()
	}
	return strings.Join(s, by)
}

// given is what delegates gave beside addresses.
type given struct {
	pools  []string
	routes []*types.Route
	dns    types.DNS
}

func (g *given) has(pool string) bool { return slices.Contains(g.pools, pool) }

// add what a pool's delegate gave. One pool may serve both families, one after the other.
func (g *given) add(pool string, more grant) {
	g.pools, g.routes = append(g.pools, pool), append(g.routes, more.routes...)
	if g.dns.IsEmpty() {
		g.dns = more.dns
	}
}
