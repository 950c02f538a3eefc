package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// TestBurst starts 60 pods at once over both nodes, and then replaces all of them while the agents are killed again and again.
// No address may be in two pods, none in a pod without a lease, and no lease may stay when the pods are gone.
func TestBurst(t *testing.T) {
	const n = 60
	s := newOwnSpace(t)
	s.underlay("underlay", nil)
	a := s.pool("a", s.ranges("a", 1, 50), nodesOf("a"))
	b := s.pool("b", s.ranges("b", 1, 50), nodesOf("b"))
	s.deployment("burst", 0, s.firstOf(a, b))

	step := func(name string, run func(*space)) {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			run(s.as(t))
			t.Logf("%v", time.Since(begin).Round(time.Second))
		})
	}
	step("start", func(s *space) {
		s.scale("burst", n)
		s.readyPods("burst", n, crowd)
		s.sameEverywhere(n)
	})
	step("agents killed", func(s *space) {
		old := map[types.UID]bool{}
		for _, l := range s.bound() {
			old[l.Spec.Holder.UID] = true
		}
		s.deletePods("burst")
		// The first addresses of the new pods are given out by now, but not nearly all.
		eventually(s, crowd, "a third is new", func(context.Context) error {
			fresh := 0
			for _, l := range s.bound() {
				if !old[l.Spec.Holder.UID] {
					fresh++
				}
			}
			if fresh < 2*n/3 {
				return fmt.Errorf("%d new leases", fresh)
			}
			return nil
		})
		for range 2 {
			for _, node := range nodes {
				// Until there is something to kill: the kubelet may wait before it starts an agent again.
				eventually(s, patience, "kill the agent of "+string(node), func(context.Context) error {
					_, err := node.try("pkill", "-9", "-x", "berth-agent")
					return err
				})
			}
		}
		s.readyPods("burst", n, crowd)
		s.sameEverywhere(n)
		rolledOut(s, "daemonset/"+agentName)
	})
	step("delete", func(s *space) {
		s.scale("burst", 0)
		s.readyPods("burst", 0, crowd)
		s.released()
		s.sameEverywhere(0)
	})
}

// sameEverywhere says that n pods have a lease for each of their addresses, and each leased address is in one pod.
func (s *space) sameEverywhere(n int) {
	s.Helper()
	eventually(s, patience, "leases and addresses in pods are the same", func(context.Context) error {
		bound := s.bound()
		if len(bound) != 2*n {
			return fmt.Errorf("%d leases are bound, want 2 for each of %d pods", len(bound), n)
		}
		byPod := map[string]int{}
		for a, l := range bound {
			byPod[fmt.Sprint(l.Spec.Holder.UID, a.Is4())]++
		}
		if len(byPod) != 2*n {
			return fmt.Errorf("a pod has two leases of a family: %v", byPod)
		}
		count := map[netip.Addr]int{}
		for _, node := range nodes {
			for a, times := range node.inPods(s) {
				if s.owns(a) {
					count[a] += times
				}
			}
		}
		for a, times := range count {
			if times > 1 {
				return fmt.Errorf("%s is in %d pods", a, times)
			}
			if _, ok := bound[a]; !ok {
				return fmt.Errorf("%s is in a pod without a lease", a)
			}
		}
		for a, l := range bound {
			if count[a] == 0 {
				return fmt.Errorf("%s is bound to pod %s, but in no pod", a, l.Spec.Holder.Pod)
			}
		}
		return nil
	})
}

// owns says whether an address is one of the space's.
func (s *space) owns(a netip.Addr) bool {
	for _, zone := range []string{"a", "b"} {
		for _, p := range []netip.Prefix{netip.PrefixFrom(s.addr4(zone, 0), 24), netip.PrefixFrom(s.addr6(zone, 0), 112)} {
			if p.Contains(a) {
				return true
			}
		}
	}
	return false
}
