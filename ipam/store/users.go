package store

import (
	"slices"

	"github.com/berthdev/berth/api/v1alpha1"
)

// users of pools: the nodes that hold an address, or held one last. They share out the addresses that nobody has, see ipam.Choice, so
// all that know the same leases of a pool must find the same nodes in the same order.
type users map[string]*poolUsers // by pool

type poolUsers struct {
	leases map[string]int // by node, never 0
	nodes  []string       // sorted
}

// move takes note that a lease was as old, and is as l from now on; either may be nil.
func (u *users) move(old, l *v1alpha1.IPLease) {
	if *u == nil {
		*u = users{}
	}
	if l != nil && l.Spec.Holder != nil {
		u.add(l.Spec.Pool, l.Spec.Holder.Node)
	}
	if old != nil && old.Spec.Holder != nil {
		u.drop(old.Spec.Pool, old.Spec.Holder.Node)
	}
}

func (u users) add(pool, node string) {
	p := u[pool]
	if p == nil {
		p = &poolUsers{leases: map[string]int{}}
		u[pool] = p
	}
	if p.leases[node]++; p.leases[node] == 1 {
		i, _ := slices.BinarySearch(p.nodes, node)
		p.nodes = slices.Insert(p.nodes, i, node)
	}
}

func (u users) drop(pool, node string) {
	p := u[pool]
	if p.leases[node]--; p.leases[node] > 0 {
		return
	}
	delete(p.leases, node)
	i, _ := slices.BinarySearch(p.nodes, node)
	if p.nodes = slices.Delete(p.nodes, i, i+1); len(p.nodes) == 0 {
		delete(u, pool)
	}
}

// rank of a node among all that use the pool, itself included even if it does not use it yet.
func (u users) rank(pool, node string) (rank, nodes int) {
	p := u[pool]
	if p == nil {
		return 0, 1
	}
	rank, known := slices.BinarySearch(p.nodes, node)
	if known {
		return rank, len(p.nodes)
	}
	return rank, len(p.nodes) + 1
}
