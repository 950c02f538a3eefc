package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestBadInput: each mistake of a user is told on the pod, in words that name it, and costs no address.
func TestBadInput(t *testing.T) {
	s := newSpace(t)
	pool := s.pool("pool", s.ranges("a", 1, 50))
	only4 := s.pool("only4", s.ranges("a", 61, 70)[:1])
	zoneB := s.pool("zone-b", s.ranges("b", 1, 5), nodesOf("b"))
	disabled := s.pool("disabled", s.ranges("a", 71, 75))
	s.editPool(disabled, disable)
	s.underlay("underlay", nil)
	s.underlay("typo", map[string]any{"ippol": []string{pool}})
	s.underlay("wrong-type", map[string]any{"ippools": 7})
	s.attachment("no-ipam", map[string]any{"master": "eth0"})
	s.attachment("no-parent", map[string]any{"master": "eth7", "ipam": map[string]any{"type": "berth"}})
	taken := s.addr4("a", 50)
	holder := s.start("holder", onNode(nodeB), note(ippool, pool), asking(taken.String()))

	cases := []struct {
		name   string
		notes  []podOption
		reason string // of the agent's event, if it is not the usual one
		words  []string
	}{
		{"unknown-pool", []podOption{secondOf("nowhere")}, "", []string{`pool "nowhere" does not exist`}},
		{"no-match", []podOption{secondOf("nowhere-*")}, "", []string{`no pool matches "nowhere-*"`}},
		{"malformed", []podOption{secondOf(`{"ipv4":[`)}, "", []string{"pod annotation " + ippool, `{"ipv4":[`}},
		{"malformed-by-interface", []podOption{secondOf(), note(ippools, `net1:`+pool)}, "", []string{"pod annotation " + ippools, "net1:"}},
		{"empty-pool", []podOption{secondOf("")}, "", []string{"pod annotation " + ippool}},
		{"no-interface", []podOption{secondOf(pool), note(ippools, "net7="+pool)}, "", []string{"net7", "the pod has eth0, net1"}},
		{"bad-steering", []podOption{secondOf(pool), note(steering, "perhaps")}, "", []string{"pod annotation " + steering, "perhaps"}},
		{"no-family", []podOption{secondOf(fmt.Sprintf(`{"ipv6":[%q]}`, only4))}, "", []string{`"` + only4 + `"`, "has no IPv6 addresses"}},
		{"disabled", []podOption{secondOf(disabled)}, "", []string{`"` + disabled + `"`, "is disabled"}},
		{"other-zone", []podOption{secondOf(zoneB)}, "", []string{`"` + zoneB + `"`, "nodeAffinity"}},
		{"outside", []podOption{note(ippool, pool), asking("10.6.99.99")}, "", []string{"10.6.99.99", `"` + pool + `"`}},
		{"taken", []podOption{note(ippool, pool), asking(taken.String())}, "", []string{taken.String(), "held by pod " + s.name + "/" + holder.Name, "node-b"}},
		{"unknown-key", []podOption{note(networks, "typo"), note(ippool, pool)}, "BadNetworkConfiguration", []string{"ippol"}},
		{"wrong-type", []podOption{note(networks, "wrong-type")}, "BadNetworkConfiguration", []string{"ippools"}},
	}
	pods := make([]*corev1.Pod, len(cases))
	for i, tt := range cases {
		pods[i] = s.pod(tt.name, append([]podOption{onNode(nodeA)}, tt.notes...)...)
	}
	// The macvlan plugin asks Berth for nothing where there is no ipam section, and fails before it asks where there is no parent.
	bare := s.start("no-ipam", onNode(nodeA), note(networks, "no-ipam"), note(ippool, pool))
	s.event(bare, "AnnotationWithoutEffect", ippool, "net1: NetworkAttachmentDefinition "+s.name+"/no-ipam has no ipam section")
	s.event(s.pod("no-parent", onNode(nodeA), note(networks, "no-parent"), note(ippool, pool)), "FailedCreatePodSandBox", "Link not found")
	// What is wrong with a network is told of the network, too, without a pod.
	for name, word := range map[string]string{
		"typo": "ipam ippol: unknown key", "wrong-type": "ipam ippools: is neither a list", "no-parent": `master "eth7": no node has it, by the word of node-a, node-b`,
	} {
		s.problem(name, word)
	}
	for i, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			s := s.as(t)
			reason := tt.reason
			if reason == "" {
				reason = "AddressNotAssigned"
			}
			s.event(pods[i], "FailedCreatePodSandBox", tt.words...)
			s.event(pods[i], reason, tt.words...)
		})
	}
	bound := s.bound()
	held, _ := s.boundTo(holder, "net1")
	for _, a := range held {
		delete(bound, a)
	}
	for a, l := range bound {
		t.Errorf("%s is bound to pod %s, which did not start", a, l.Spec.Holder.Pod)
	}
	if a, _ := s.boundTo(bare, "net1"); len(a) != 0 {
		t.Errorf("an interface without ipam has leases of %v", a)
	}

	t.Run("mended", func(t *testing.T) { // some mistakes can be mended without making the pod anew
		s := s.as(t)
		for i, tt := range cases {
			switch tt.name {
			case "malformed", "unknown-pool":
				patch := client.MergeFrom(pods[i].DeepCopy())
				maps.Copy(pods[i].Annotations, map[string]string{ippool: pool})
				must(t, on.Patch(t.Context(), pods[i], patch))
				s.ready(pods[i])
			}
		}
	})
}

// asking for addresses on the second interface.
func asking(ips ...string) podOption {
	return note(networks, fmt.Sprintf(`[{"name":"underlay","ips":["%s"]}]`, strings.Join(ips, `","`)))
}

// TestPoolRefused: the API server refuses a malformed pool with a message that names field and value.
func TestPoolRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, subnet string
		want         []string
	}{
		{"host bits", `{cidr: 10.6.1.0/16}`, []string{"spec.subnets[0].cidr", "10.6.1.0/16 has host bits; write 10.6.0.0/16"}},
		{"no cidr", `{cidr: 10.6.0.0}`, []string{"spec.subnets[0].cidr", `"10.6.0.0"`}},
		{"range outside", `{cidr: 10.6.0.0/16, ips: ["10.7.0.1-10.7.0.9"]}`, []string{"spec.subnets[0].ips", "10.7.0.1-10.7.0.9", "10.6.0.0/16"}},
		{"range outside IPv6", `{cidr: "fd00:6::/64", ips: ["fd00:7::1"]}`, []string{"spec.subnets[0].ips", "fd00:7::1"}},
		{"range reversed", `{cidr: 10.6.0.0/16, ips: ["10.6.0.9-10.6.0.3"]}`, []string{"10.6.0.9-10.6.0.3 is reversed"}},
		{"range malformed", `{cidr: 10.6.0.0/16, ips: ["10.6.0.300"]}`, []string{"spec.subnets[0].ips", "10.6.0.300"}},
		{"gateway inside", `{cidr: 10.6.0.0/16, ips: ["10.6.0.1-10.6.0.9"], gateway: 10.6.0.1}`, []string{"spec.subnets[0].gateway", "10.6.0.1 is inside the ips"}},
		{"gateway outside", `{cidr: 10.6.0.0/16, gateway: 10.7.0.1}`, []string{"spec.subnets[0].gateway", "10.7.0.1"}},
		{"exclude outside", `{cidr: 10.6.0.0/16, excludeIPs: [10.7.0.1]}`, []string{"spec.subnets[0].excludeIPs", "10.7.0.1"}},
		{"route of another family", `{cidr: 10.6.0.0/16, gateway: 10.6.0.1, routes: [{dst: "fd00:7::/64"}]}`, []string{"spec.subnets[0].routes", "fd00:7::/64"}},
		{"overlap in one pool", `{cidr: 10.6.0.0/16}, {cidr: 10.6.1.0/24}`, []string{"spec.subnets", "overlaps"}},
		{"unknown field", `{cidr: 10.6.0.0/16, gatway: 10.6.0.1}`, []string{"gatway"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := kubectl(t, fmt.Sprintf("apiVersion: berth.dev/v1alpha1\nkind: IPPool\nmetadata: {name: refused}\nspec: {subnets: [%s]}\n", tt.subnet),
				"apply", "-f", "-")
			if err == nil {
				_, _ = kubectl(t, "", "delete", "ippool", "refused")
				t.Fatal("applied")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the refusal does not say %q: %v", w, err)
				}
			}
		})
	}
}
