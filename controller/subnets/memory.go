package subnets

import (
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
)

// memory of what this process wrote into pools, to tell a person's edit from what it has still to write itself.
type memory struct {
	mu   sync.Mutex
	of   map[types.UID]v1alpha1.IPPoolSpec
	uids map[string]types.UID
}

func (m *memory) put(p *v1alpha1.IPPool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of, m.uids = map[types.UID]v1alpha1.IPPoolSpec{}, map[string]types.UID{}
	}
	m.of[p.UID], m.uids[p.Name] = derived(p), p.UID
}

func (m *memory) drop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of, m.uids[name])
	delete(m.uids, name)
}

// edited says whether the derived fields are others than were written.
func (m *memory) edited(p *v1alpha1.IPPool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	wrote, ok := m.of[p.UID]
	return ok && !equality.Semantic.DeepEqual(wrote, derived(p))
}

func derived(p *v1alpha1.IPPool) v1alpha1.IPPoolSpec {
	c := p.Spec.DeepCopy()
	return v1alpha1.IPPoolSpec{Subnets: c.Subnets, VLAN: c.VLAN, Pairing: c.Pairing, NodeAffinity: c.NodeAffinity}
}

// waiting pools by the network of which they wait for addresses.
type waiting struct {
	mu sync.Mutex
	of map[string]string
}

func (w *waiting) add(pool, network string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of == nil {
		w.of = map[string]string{}
	}
	w.of[pool] = network
}

func (w *waiting) drop(pool string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.of, pool)
}

// in a network.
func (w *waiting) in(network string) (pools []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, n := range w.of {
		if n == network {
			pools = append(pools, p)
		}
	}
	return pools
}
