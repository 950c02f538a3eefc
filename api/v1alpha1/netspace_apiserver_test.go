//go:build apiserver

package v1alpha1

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestNetspaceValidation(t *testing.T) {
	netspaces := apiserver(t).Resource(GroupVersion.WithResource("netspaces"))
	for _, tc := range []struct {
		name, as, spec string
		want           []string // parts of the refusal; none: accepted
	}{
		{name: "nothing", spec: `{}`},
		{name: "all", spec: `{namespaces: [a, b-1], namespaceSelector: {matchLabels: {team: a}}, guests: Refuse, subnets: [x], share: {subnet: total, size: 64, vlans: 910-929, parent: bond0}}`},
		{name: "one VLAN", spec: `{share: {subnet: total, size: 4, vlans: "910"}}`},
		{name: "all VLANs", spec: `{share: {subnet: total, size: 65536, vlans: 1-4094}}`},
		{name: "name with a dot", as: "team.a", spec: `{}`, want: []string{`metadata.name "team.a" is not a DNS label`}},
		{name: "namespace with a dot", spec: `{namespaces: [a.b]}`, want: []string{"spec.namespaces[0]", `namespace "a.b" is not the name of a namespace`}},
		{name: "namespace as a pattern", spec: `{namespaces: ["team-*"]}`, want: []string{`"team-*"`, "select by labels in namespaceSelector"}},
		{name: "namespace twice", spec: `{namespaces: [a, a]}`, want: []string{"spec.namespaces[1]", "Duplicate"}},
		{name: "selector", spec: `{namespaceSelector: {matchExpressions: [{key: a, operator: Inn, values: [b]}]}}`, want: []string{"spec.namespaceSelector", "operators are In and NotIn"}},
		{name: "guests", spec: `{guests: Maybe}`, want: []string{"spec.guests", "Maybe"}},
		{name: "size not a power", spec: `{share: {subnet: total, size: 100}}`, want: []string{"spec.share.size", "Invalid value: 100: size is not a power of two"}},
		{name: "size too small", spec: `{share: {subnet: total, size: 2}}`, want: []string{"spec.share.size"}},
		{name: "size too large", spec: `{share: {subnet: total, size: 131072}}`, want: []string{"spec.share.size"}},
		{name: "no subnet", spec: `{share: {subnet: "", size: 8}}`, want: []string{"spec.share.subnet"}},
		{name: "VLANs of words", spec: `{share: {subnet: total, size: 8, vlans: all}}`, want: []string{"spec.share.vlans", `vlans "all" is not FIRST-LAST with numbers from 1 to 4094`}},
		{name: "VLANs reversed", spec: `{share: {subnet: total, size: 8, vlans: 929-910}}`, want: []string{"spec.share.vlans", `"929-910"`}},
		{name: "VLAN 0", spec: `{share: {subnet: total, size: 8, vlans: 0-9}}`, want: []string{`"0-9"`}},
		{name: "VLAN 4095", spec: `{share: {subnet: total, size: 8, vlans: 4000-4095}}`, want: []string{`"4000-4095"`}},
		{name: "parent", spec: `{share: {subnet: total, size: 8, parent: "a b"}}`, want: []string{"spec.share.parent", `share.parent "a b" is not the name of a link`}},
		{name: "share of its own subnet", spec: `{subnets: [total], share: {subnet: total, size: 8}}`, want: []string{"spec.share.subnet", `share.subnet "total" is in subnets too`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			as := tc.as
			if as == "" {
				as = "validated"
			}
			_, err := create(t, netspaces, `{apiVersion: berth.dev/v1alpha1, kind: Netspace, metadata: {name: `+as+`}, spec: `+tc.spec+`}`)
			checkRefusal(t, err, tc.want)
		})
	}
}

// TestShareIsForGood: pods have addresses of it.
func TestShareIsForGood(t *testing.T) {
	netspaces := apiserver(t).Resource(GroupVersion.WithResource("netspaces"))
	n, err := create(t, netspaces, `{apiVersion: berth.dev/v1alpha1, kind: Netspace, metadata: {name: shared}, spec: {share: {subnet: total, size: 8, vlans: "910"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		spec string
		want []string
	}{
		{`{share: {subnet: total, size: 8, vlans: "910", parent: bond1}, namespaces: [a]}`, nil},
		{`{share: {subnet: other, size: 8, vlans: "910"}}`, []string{"spec.share.subnet", `it is "total"`}},
		{`{share: {subnet: total, size: 16, vlans: "910"}}`, []string{"spec.share.size", "share.size cannot be changed"}},
		{`{share: {subnet: total, size: 8, vlans: "911"}}`, []string{"spec.share.vlans", `it is "910"`}},
		{`{share: {subnet: total, size: 8}}`, []string{"spec.share.vlans", "said when the share is, or never"}},
		{`{}`, []string{"spec.share", "share cannot be taken away"}},
	} {
		var spec map[string]any
		if err := yaml.Unmarshal([]byte(tc.spec), &spec); err != nil {
			t.Fatal(err)
		}
		edited := n.DeepCopy()
		if err := unstructured.SetNestedField(edited.Object, spec, "spec"); err != nil {
			t.Fatal(err)
		}
		_, err := netspaces.Update(t.Context(), edited, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
		checkRefusal(t, err, tc.want)
	}
}

func TestAttachmentsValidation(t *testing.T) {
	subnets := apiserver(t).Resource(GroupVersion.WithResource("subnets"))
	for _, tc := range []struct {
		name, spec string
		want       []string
	}{
		{name: "named", spec: `parent: eth0, attachments: {namespaces: [a]}`},
		{name: "all", spec: `parent: eth0, attachments: {namespaceSelector: {}}`},
		{name: "none", spec: `parent: eth0, attachments: {}`, want: []string{"spec.attachments", "attachments names no namespace"}},
		{name: "no parent", spec: `attachments: {namespaces: [a]}`, want: []string{"spec.attachments", "attachments need a parent"}},
		{name: "of a netspace", spec: `parent: eth0, netspace: team, attachments: {namespaces: [a]}`, want: []string{"spec.attachments", "remove attachments"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := create(t, subnets, `{apiVersion: berth.dev/v1alpha1, kind: Subnet, metadata: {name: attached}, spec: {network: attached, cidrs: [{cidr: 10.6.0.0/24}], `+tc.spec+`}}`)
			checkRefusal(t, err, tc.want)
		})
	}
}
