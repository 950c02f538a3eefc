package main

import (
	"context"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func (m *machine) isState() machineState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

func (m *machine) isNoticed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.noticed
}

// orphan marks a sandbox of which the pod's object is about to be deleted by force, if the machine is in that state.
func (m *machine) orphan(s *sandbox, state machineState) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == state {
		s.orphan = true
	}
	return m.state == state
}

// outage of the machine for a while, cut from the network or without power.
func (m *machine) outage(ctx context.Context, rng *rand.Rand) {
	state := []machineState{cut, off}[rng.IntN(2)]
	deleted, outOfService := rng.IntN(3) == 0, rng.IntN(2) == 0
	unnoticed, down := time.Duration(rng.Int64N(int64(time.Second))), time.Duration(rng.Int64N(int64(6*time.Second)))
	reboot := rng.IntN(3) == 0
	m.fail(state)
	pause(ctx, unnoticed)
	switch {
	case state == off && deleted:
		_ = m.deleteNode(ctx)
	default:
		_ = m.putNode(ctx, corev1.ConditionUnknown, state == off && outOfService)
	}
	m.mu.Lock()
	m.noticed = true
	m.mu.Unlock()
	pause(ctx, down)
	if state == cut && reboot { // somebody pulls the plug to be sure
		m.fail(off)
	}
	m.recover(ctx, rng)
}

// fail into a state. A kubelet has heard of the pods that were deleted before it was cut off.
func (m *machine) fail(state machineState) {
	if state == off {
		m.kill("power is off")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.history.add(Event{Kind: Fault, Node: m.name, Note: "machine " + string(state)})
	m.state = state
	m.wire.cut.Store(true)
	for _, s := range m.sandboxes {
		if state == off || s.orphan {
			m.endLocked(s, "machine "+string(state))
		}
	}
}

// recover: the machine is back, and its kubelet ends what it now hears was deleted.
func (m *machine) recover(ctx context.Context, rng *rand.Rand) {
	m.wire.cut.Store(false)
	if err := m.start(); err != nil {
		m.history.violate(Event{Kind: Fault, Node: m.name}, err.Error())
	}
	orphansFirst, wait := rng.IntN(2) == 0, time.Duration(rng.Int64N(int64(time.Second)))
	m.mu.Lock()
	m.state = up
	var orphans []*sandbox
	for _, s := range m.sandboxes {
		if s.orphan {
			orphans = append(orphans, s)
		}
	}
	m.mu.Unlock()
	m.history.add(Event{Kind: Fault, Node: m.name, Note: "machine up"})
	tidy := func() {
		for i, s := range orphans {
			if i%2 == 0 {
				for _, name := range s.interfaces {
					_ = m.del(ctx, s, name)
				}
			}
			m.end(s, "deleted while the machine was away")
		}
	}
	if orphansFirst {
		tidy()
	}
	_ = m.putNode(ctx, corev1.ConditionTrue, false)
	m.mu.Lock()
	m.noticed = false
	m.mu.Unlock()
	if !orphansFirst {
		pause(ctx, wait)
		tidy()
	}
}
