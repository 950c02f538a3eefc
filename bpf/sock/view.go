package sock

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/service"
)

// View reads the maps, and changes nothing.
type View struct{ maps sockMaps }

// Open is a View of what an agent has pinned.
func Open(pinDir string) (*View, error) {
	v := new(View)
	for name, m := range map[string]**ebpf.Map{
		sockMapAffinities: &v.maps.Affinities, sockMapCounters: &v.maps.Counters, sockMapFrontends: &v.maps.Frontends,
		sockMapMembers: &v.maps.Members, sockMapNodes: &v.maps.Nodes, sockMapPods: &v.maps.Pods,
		sockMapServices: &v.maps.Services, sockMapSlots: &v.maps.Slots,
	} {
		var err error
		if *m, err = ebpf.LoadPinnedMap(filepath.Join(pinDir, pinName, name), &ebpf.LoadPinOptions{ReadOnly: true}); err != nil {
			return nil, errors.Join(fmt.Errorf("socket translation: pinned map %s: %w", name, err), v.Close())
		}
	}
	return v, nil
}

// Close releases the descriptors.
func (v View) Close() error { return v.maps.Close() }

// Answer is what would become of a call.
type Answer struct {
	Pod      bool          // the pod is one that translates; if not, all else is what it would be
	Service  bool          // there is such a frontend; if not, the call is left alone
	Steered  bool          // all of it is left to the node
	Backends []Choice      // any of them, by chance; none: refused, unless steered
	Affinity time.Duration // ClientIP affinity of the Service's port; 0 for none
	Kept     *Kept         // what affinity says now, instead of chance
}

// Choice is a backend. A pod that reaches it natively connects to it; else the call is left to the node, which chooses again.
type Choice struct {
	Backend netip.AddrPort
	Native  bool
}

// Kept is what the pod's next call goes to by affinity, until the time passes without any.
type Kept struct {
	Backend netip.AddrPort // not valid: left to the node
	For     time.Duration
}

// Lookup says what would become of a call of the pod to the frontend. A NodePort's has the address of a node.
func (v View) Lookup(cookie uint64, to service.Frontend) (Answer, error) {
	a, err := v.lookup(cookie, endpointOf(to.Address, to.Port, to.Protocol))
	if err != nil {
		return Answer{}, fmt.Errorf("look up %s: %w", to, err)
	}
	return a, nil
}

func (v View) lookup(cookie uint64, to endpoint) (a Answer, err error) {
	var pod podValue
	if a.Pod, err = has(v.maps.Pods, cookie, &pod); err != nil {
		return a, err
	}
	id, ok, err := v.service(to)
	if !ok || err != nil {
		return a, err
	}
	// Once more if the service changes meanwhile.
	for range 10 {
		var s serviceValue
		if a.Service, err = has(v.maps.Services, id, &s); !a.Service || err != nil {
			return a, err
		}
		a.Steered, a.Affinity = s.Flags&flagSteered != 0, time.Duration(s.Affinity)*time.Second
		if s.Flags != 0 {
			return a, nil
		}
		var whole bool
		if a.Backends, whole, err = v.choices(pod, id, s); err != nil {
			return a, err
		}
		if whole {
			a.Kept, err = v.kept(cookie, id, s)
			return a, err
		}
	}
	return a, errors.New("the service changes too fast to be read")
}

// service is the number of the service that the address and port belong to.
func (v View) service(to endpoint) (id uint32, ok bool, err error) {
	if ok, err = has(v.maps.Frontends, to, &id); ok || err != nil {
		return id, ok, err
	}
	var node uint32
	if ok, err = has(v.maps.Nodes, to.Address, &node); !ok || err != nil {
		return 0, ok, err
	}
	ok, err = has(v.maps.Frontends, to.nodePort(), &id)
	return id, ok, err
}

func (v View) choices(pod podValue, id uint32, s serviceValue) (choices []Choice, whole bool, err error) {
	for i := range s.Count {
		var e endpoint
		if ok, err := has(v.maps.Slots, slotKey{id, s.Generation, i}, &e); !ok || err != nil {
			return nil, false, err
		}
		var network uint64
		if ok, err := has(v.maps.Members, memberKey{id, e}, &network); !ok || err != nil {
			return nil, false, err
		}
		choices = append(choices, Choice{e.addrPort(), pod.native(e.Address, network)})
	}
	return choices, true, nil
}

func (v View) kept(cookie uint64, id uint32, s serviceValue) (*Kept, error) {
	var c choice
	if s.Affinity == 0 {
		return nil, nil
	}
	if ok, err := has(v.maps.Affinities, clientKey{Pod: cookie, Service: id}, &c); !ok || err != nil {
		return nil, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, err
	}
	k := &Kept{For: time.Duration(s.Affinity)*time.Second - time.Duration(now.Nano()-int64(c.Used))}
	if k.For <= 0 {
		return nil, nil
	}
	if c.Backend == (endpoint{}) {
		return k, nil
	}
	var network uint64
	if ok, err := has(v.maps.Members, memberKey{id, c.Backend}, &network); !ok || err != nil {
		return nil, err
	}
	k.Backend = c.Backend.addrPort()
	return k, nil
}

// has says whether the map has the key, and reads its value.
func has[K, V any](m *ebpf.Map, key K, value *V) (bool, error) {
	err := m.Lookup(key, value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %v of map %s: %w", key, m, err)
	}
	return true, nil
}
