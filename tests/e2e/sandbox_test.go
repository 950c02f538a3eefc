package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

// TestSandboxAnew: a pod whose sandbox died keeps its addresses, and a DEL of the old sandbox, however late and often, frees nothing.
func TestSandboxAnew(t *testing.T) {
	s := newSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("pool", s.ranges("a", 1, 50))
	for _, tt := range []struct {
		name, ifName string
		option       podOption
	}{{"second", "net1", secondOf(pool)}, {"first", "eth0", s.firstOf(pool)}} {
		t.Run(tt.name, func(t *testing.T) {
			s := s.as(t)
			p := s.start(tt.name, onNode(nodeA), probed, tt.option)
			addrs, before := s.boundTo(p, tt.ifName)
			old := before[0].Spec.Holder.ContainerID
			nodeA.run(t, "ctr", "-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", old)

			var leases []v1alpha1.IPLease
			eventually(t, patience, "a new sandbox holds the addresses", func(context.Context) error {
				_, leases = s.boundTo(p, tt.ifName)
				for _, l := range leases {
					if l.Spec.Holder.ContainerID == old {
						return fmt.Errorf("%s is still the old sandbox's", l.Spec.Address)
					}
				}
				if len(leases) == 0 {
					return fmt.Errorf("nothing is bound")
				}
				return nil
			})
			s.ready(p)
			again, leases := s.boundTo(p, tt.ifName)
			if fmt.Sprint(again) != fmt.Sprint(addrs) {
				t.Fatalf("addresses %v after the new sandbox, %v before", again, addrs)
			}

			stdin, env := s.call(p, tt.ifName, "underlay", old)
			for range 2 {
				if out, err := nodeA.plugin("DEL", env, stdin); err != nil {
					t.Errorf("late DEL: %v %s", err, out)
				}
			}
			_, after := s.boundTo(p, tt.ifName)
			for i := range leases {
				if len(after) != len(leases) || after[i].ResourceVersion != leases[i].ResourceVersion {
					t.Fatalf("a late DEL of the old sandbox has changed the leases:\n%+v\n%+v", leases, after)
				}
			}
			s.serve("web-"+tt.name, map[string]string{"app": tt.name})
			s.reach(p, "get -timeout 3s http://web-"+tt.name)
		})
	}
}

// TestDelTwice: DEL may come twice, or for what never was; the second frees nothing that has a new holder.
func TestDelTwice(t *testing.T) {
	s := newSpace(t)
	s.underlay("underlay", nil)
	// One address, so the next pod gets the same; IPv4 only, since with IPv6 the kernel would find the first pod using it.
	pool := s.pool("pool", s.ranges("a", 1, 1)[:1])
	p := s.start("p", onNode(nodeA), secondOf(pool))
	_, leases := s.boundTo(p, "net1")
	stdin, env := s.call(p, "net1", "underlay", leases[0].Spec.Holder.ContainerID)

	if out, err := nodeA.plugin("CHECK", env, stdin); err != nil {
		t.Errorf("CHECK of a live sandbox: %v %s", err, out)
	}
	for range 2 {
		if out, err := nodeA.plugin("DEL", env, stdin); err != nil {
			t.Fatalf("DEL: %v %s", err, out)
		}
		if out, err := nodeA.plugin("CHECK", env, stdin); err == nil || cniCode(out) != 105 {
			t.Errorf("CHECK after DEL: %v %s, want code 105", err, out)
		}
		eventually(t, returned, "no lease is bound", func(context.Context) error { // a DEL is ahead of the API
			if n := len(s.bound()); n != 0 {
				return fmt.Errorf("%d leases", n)
			}
			return nil
		})
	}
	next := s.start("next", onNode(nodeA), secondOf(pool))
	if _, err := nodeA.plugin("DEL", env, stdin); err != nil {
		t.Errorf("third DEL: %v", err)
	}
	must(t, on.Delete(t.Context(), p)) // and the runtime's own
	gone(t, p)
	if got := s.poolOf(next, "net1"); got != pool {
		t.Errorf("the next holder has lost its address to a DEL of the former")
	}
	env["CNI_CONTAINERID"] = strings.Repeat("0", 64)
	if out, err := nodeA.plugin("DEL", env, stdin); err != nil {
		t.Errorf("DEL of an unknown sandbox: %v %s", err, out)
	}
}

// call returns what a runtime gives the plugin for an interface of a pod.
func (s *space) call(p *corev1.Pod, ifName, attachment, containerID string) (stdin string, env map[string]string) {
	conf, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": attachment, "type": "macvlan", "master": "eth0", "mode": "bridge", "ipam": map[string]any{"type": "berth"},
	})
	must(s, err)
	return string(conf), map[string]string{
		"CNI_CONTAINERID": containerID, "CNI_NETNS": "/run/netns/none", "CNI_IFNAME": ifName,
		"CNI_ARGS": fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=%s",
			p.Namespace, p.Name, containerID, p.UID),
	}
}

// cniCode of what the plugin printed.
func cniCode(out string) uint {
	var e struct {
		Code uint `json:"code"`
	}
	_ = json.Unmarshal([]byte(out), &e)
	return e.Code
}
