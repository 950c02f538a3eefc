package sock

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Way is a network that a pod is on, as far as its addresses are in the prefix: from there the pod reaches them without its node.
type Way struct {
	Network string // as in service.Backend; "" for the underlay, on which other nodes have their own addresses
	Prefix  netip.Prefix
}

// Pod is what the sockets of a pod may do. A backend that is the pod itself is like any other of its network: it is reached by the
// pod's own stack.
type Pod struct {
	Ways []Way // 8 at most
}

// ErrTooManyWays is that a pod has more ways than the programs look at.
var ErrTooManyWays = errors.New("more ways than the programs look at")

func (p Pod) value() (podValue, error) {
	var v podValue
	for _, w := range p.Ways {
		if !w.Prefix.IsValid() {
			return v, fmt.Errorf("way %q: prefix %v is not valid", w.Network, w.Prefix)
		}
		if v.Count == maxWays {
			return v, fmt.Errorf("%d ways, %d are possible: join prefixes: %w", len(p.Ways), maxWays, ErrTooManyWays)
		}
		bits := w.Prefix.Bits()
		if w.Prefix.Addr().Is4() {
			bits += 96 // among the v4-mapped
		}
		to := way{Network: networkOf(w.Network, w.Prefix.Addr().Is4()), Address: w.Prefix.Masked().Addr().As16()}
		for i := range bits {
			to.Mask[i/8] |= 0x80 >> (i % 8)
		}
		v.Ways[v.Count] = to
		v.Count++
	}
	return v, nil
}

// SetPod lets the sockets of the network namespace with the cookie translate. On an error the pod is as it was.
func (p *Programs) SetPod(cookie uint64, pod Pod) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.setPod(cookie, pod)
}

func (p *Programs) setPod(cookie uint64, pod Pod) error {
	value, err := pod.value()
	if err != nil {
		return fmt.Errorf("pod with cookie %d: %w", cookie, err)
	}
	var old podValue
	err = p.maps.Pods.Lookup(cookie, &old)
	if err == nil && old == value {
		return nil
	}
	return puts(p.maps.Pods, []put[uint64, podValue]{{cookie, value, err == nil}}, p.wait)
}

// DeletePods leaves calls of the pods alone from now on; answers to earlier ones are still translated back. It is no error for a pod
// that was never set. It waits for a grace period, and so does who sets another meanwhile. Cookies do not come again, so a pod that is
// gone may as well stay for a while.
func (p *Programs) DeletePods(cookies ...uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.deletePods(cookies)
}

func (p *Programs) deletePods(cookies []uint64) error {
	if len(cookies) == 0 {
		return nil
	}
	return errors.Join(deletes(p.maps.Pods, cookies), p.wait())
}

// SyncPods makes these all pods that there are. One that is wrong is none.
func (p *Programs) SyncPods(want map[uint64]Pod) error {
	p.mu.Lock()
	defer p.mu.Unlock()

	have := make(map[uint64]podValue)
	if err := contents(p.maps.Pods, have); err != nil {
		return err
	}
	var errs []error
	for cookie, pod := range want {
		if err := p.setPod(cookie, pod); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(have, cookie)
	}
	return errors.Join(append(errs, p.deletePods(slices.Collect(maps.Keys(have))))...)
}

// SetNodes makes these the addresses of nodes, at which NodePort frontends are.
func (p *Programs) SetNodes(addresses []netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()

	have := make(map[[16]byte]uint32)
	if err := contents(p.maps.Nodes, have); err != nil {
		return err
	}
	var more []put[[16]byte, uint32]
	gone := maps.Clone(have)
	for _, a := range addresses {
		if _, ok := have[a.As16()]; !ok {
			more = append(more, put[[16]byte, uint32]{a.As16(), 1, false})
		}
		delete(gone, a.As16())
	}
	return errors.Join(puts(p.maps.Nodes, more, nil), deletes(p.maps.Nodes, slices.Collect(maps.Keys(gone))))
}
