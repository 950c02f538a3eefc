//go:build linux

package proxy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// weight of a transaction, in messages, at most. All Services of a big cluster at once would take the kernel's memory by the
// ten megabytes, and each is whole by itself.
const weight = 4000

// reconcile what was touched; all of it if the table has to be read. Before Sync nothing is done.
func (p *Proxy) reconcile(t touched) error {
	if !p.synced {
		return nil
	}
	fresh := p.have == nil
	if fresh {
		have, gen, err := read()
		if err != nil {
			return err
		}
		p.have, p.gen, p.left = have, gen, newLeftovers()
	}
	if err := p.reconcileBase(); err != nil {
		p.have = nil
		return err
	}
	if fresh {
		t = everything(p.want, p.have)
	}
	changes, left := plan(p.want, p.have, t)
	err := p.carryOut(changes)
	if err != nil {
		p.have = nil
		return err
	}
	p.left.add(left, p.want)
	if fresh {
		return p.clear()
	}
	return nil
}

// reconcileBase makes the table, or its links and base chains as they should be.
func (p *Proxy) reconcileBase() error {
	known := p.base.known()
	links, rules := slices.Equal(p.have.links, p.base.links), slices.Equal(p.have.base, known)
	if links && rules {
		return nil
	}
	tx, err := p.begin()
	if err != nil {
		return err
	}
	switch {
	case !sameShape(p.have.base, known):
		tx.makeTable(p.base)
		p.have = newState()
	default:
		if !links {
			tx.deleteElements(tx.sets.vmacs, linkElements(without(p.have.links, p.base.links)))
			tx.addElements(tx.sets.vmacs, linkElements(without(p.base.links, p.have.links)))
		}
		if !rules {
			tx.replaceRules(p.base)
		}
	}
	if err := p.commit(tx); err != nil {
		return fmt.Errorf("nftables: table inet %s: %w; the kernel needs nf_tables with nat, fib and reject in the inet family",
			tx.table.Name, err)
	}
	p.log.Info("nftables table", "table", "inet "+tx.table.Name, "links", p.base.links, "service CIDRs", p.base.cidrs)
	p.have.links, p.have.base = p.base.links, known
	return nil
}

// carryOut changes, as many at once as fit. One that the kernel refuses does not keep back the others.
func (p *Proxy) carryOut(changes []change) error {
	for len(changes) > 0 {
		n, messages := 0, 0
		for n < len(changes) && (n == 0 || messages+changes[n].messages() <= weight) {
			messages += changes[n].messages()
			n++
		}
		if err := p.carryOutOnce(changes[:n]); err != nil {
			if n == 1 {
				return err
			}
			var errs []error
			for i := range n {
				errs = append(errs, p.carryOutOnce(changes[i:i+1]))
			}
			if err := errors.Join(errs...); err != nil {
				return errors.Join(err, p.carryOut(changes[n:]))
			}
		}
		changes = changes[n:]
	}
	return nil
}

func (p *Proxy) carryOutOnce(changes []change) error {
	tx, err := p.begin()
	if err != nil {
		return err
	}
	tx.do(changes)
	if err := p.commit(tx); err != nil {
		return fmt.Errorf("nftables: Service %q and %d more: %w", changes[0].service, len(changes)-1, err)
	}
	for _, c := range changes {
		p.have.done(c)
		for _, f := range c.point {
			p.look(f.frontend)
		}
		for _, f := range c.unpoint {
			p.look(f)
		}
	}
	return nil
}

// clear ends what is left over.
func (p *Proxy) clear() error {
	if p.left.empty() {
		return nil
	}
	tx, err := p.begin()
	if err != nil {
		return err
	}
	tx.remove(p.left)
	if err := p.commit(tx); err != nil {
		p.have = nil
		return fmt.Errorf("nftables: remove unused chains: %w", err)
	}
	p.have.cleared(p.left)
	p.left = newLeftovers()
	return nil
}

// sameShape says whether both have the same base chains, of one version of this package: then only their rules differ.
func sameShape(a, b []string) bool {
	shape := func(lines []string) (s []string) {
		for i, l := range lines {
			if version, _, ok := strings.Cut(l, " "); ok && i == 1 {
				s = append(s, version)
			}
			if strings.HasPrefix(l, chainMark) {
				s = append(s, l)
			}
		}
		return s
	}
	return slices.Equal(shape(a), shape(b))
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(some, s) })
}

// messages of a transaction, roughly.
func (c change) messages() int {
	n := 2 + len(c.sticky) + len(c.forget) + (len(c.point)+len(c.unpoint))/20
	for _, ch := range c.chains {
		n += 4 + min(len(ch.backends), fewBackends) + 2*len(ch.sticky)
	}
	return n
}
