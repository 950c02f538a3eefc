package attachments

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

func subnet(t *testing.T, name, spec string) v1alpha1.Subnet {
	t.Helper()
	s := v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &s.Spec); err != nil {
		t.Fatal(err)
	}
	return s
}

func aPool(name, subnet, netspace string, owner bool) v1alpha1.IPPool {
	p := v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Subnet, p.Spec.Netspace = subnet, netspace
	if owner {
		p.Spec.Owner = &v1alpha1.PoolOwner{Kind: "Deployment", Name: "web"}
	}
	return p
}

func world(netspaces ...*v1alpha1.Netspace) snapshot {
	s := snapshot{pools: []v1alpha1.IPPool{
		aPool("b", "total", "", false), aPool("a", "total", "", false), aPool("web", "total", "", true), aPool("other", "else", "", false),
		aPool("team", "total-910", "team", false), aPool("teamweb", "total-910", "team", true), aPool("team-own", "own", "team", false),
	}}
	mtu := int32(9000)
	s.networks = []v1alpha1.HostNetwork{{Spec: v1alpha1.HostNetworkSpec{Parent: "bond0", VLANs: []int32{910}, MTU: &mtu}}}
	for name, team := range map[string]string{"x": "", "y": "a", "z": "a", "going": "a"} {
		s.namespaces = append(s.namespaces, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}})
		if name == "going" {
			s.namespaces[len(s.namespaces)-1].DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		}
	}
	s.netspaces, _ = ipam.NewNetspaces(netspaces)
	return s
}

var unexported = cmp.AllowUnexported(network{})

func TestOfSubnet(t *testing.T) {
	const ofTotal = `{"cniVersion":"1.0.0","name":"total","type":"macvlan","master":"eth0","mode":"bridge","ipam":{"type":"berth","ippools":["a","b"]}}`
	for _, tc := range []struct {
		name, spec string
		want       []network
	}{
		{"total", `{parent: eth0, attachments: {namespaces: [x, not-there]}}`, []network{{"total", []string{"x"}, ofTotal}}},
		{"total", `{parent: eth0, attachments: {namespaces: [x], namespaceSelector: {matchLabels: {team: a}}}}`, []network{{"total", []string{"x", "y", "z"}, ofTotal}}},
		{"total", `{parent: eth0, attachments: {namespaces: [not-there]}}`, nil},
		{"total", `{parent: eth0}`, nil},
		{"total", `{attachments: {namespaces: [x]}}`, nil},
		{"total", `{parent: eth0, netspace: team, attachments: {namespaces: [x]}}`, nil},
		{"bare", `{parent: bond0.910, attachments: {namespaces: [x]}}`, []network{{"bare", []string{"x"},
			`{"cniVersion":"1.0.0","name":"bare","type":"macvlan","master":"bond0.910","mode":"bridge","mtu":9000,"ipam":{"type":"berth","ippools":["bare"]}}`}}},
	} {
		s := subnet(t, tc.name, tc.spec)
		if diff := cmp.Diff(tc.want, ofSubnet(&s, world()), unexported); diff != "" {
			t.Errorf("%s: -want +got\n%s", tc.spec, diff)
		}
	}
}

func TestOfNetspace(t *testing.T) {
	n := &v1alpha1.Netspace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}
	n.Spec.Namespaces, n.Spec.Subnets, n.Status.Subnet = []string{"x", "y", "going"}, []string{"own", "poolless", "theirs"}, "total-910"
	older := &v1alpha1.Netspace{ObjectMeta: metav1.ObjectMeta{Name: "a-first"}}
	older.Spec.Namespaces = []string{"y"}
	subnets := []v1alpha1.Subnet{
		subnet(t, "total-910", "{netspace: team, parent: bond0.910}"), subnet(t, "own", "{netspace: team, parent: eth1}"),
		subnet(t, "poolless", "{netspace: team, parent: eth2}"), subnet(t, "theirs", "{netspace: others, parent: eth3}"), subnet(t, "unnamed", "{netspace: team, parent: eth4}"),
	}
	want := []network{
		{"team", []string{"x"}, `{"cniVersion":"1.0.0","name":"total-910","type":"macvlan","master":"bond0.910","mode":"bridge","mtu":9000,"ipam":{"type":"berth","ippools":["team"]}}`},
		{"own", []string{"x"}, `{"cniVersion":"1.0.0","name":"own","type":"macvlan","master":"eth1","mode":"bridge","ipam":{"type":"berth","ippools":["team-own"]}}`},
	}
	if diff := cmp.Diff(want, ofNetspace(n, subnets, world(n, older)), unexported); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	n.Spec.Namespaces = []string{"y"}
	if got := ofNetspace(n, subnets, world(n, older)); got != nil {
		t.Errorf("without a namespace: %+v", got)
	}
}

// TestOwnerOf: label and controlling owner both, or it is not ours.
func TestOwnerOf(t *testing.T) {
	sub := subnet(t, "total", "{}")
	ref := reference(&sub)
	foreign, follower := ref, ref
	foreign.APIVersion, follower.Controller = "apps/v1", nil
	label := map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}
	for _, tc := range []struct {
		name   string
		labels map[string]string
		refs   []metav1.OwnerReference
		want   bool
	}{
		{"both", label, []metav1.OwnerReference{ref}, true},
		{"no label", nil, []metav1.OwnerReference{ref}, false},
		{"another's label", map[string]string{v1alpha1.LabelManagedBy: "helm"}, []metav1.OwnerReference{ref}, false},
		{"no owner", label, nil, false},
		{"not its controller", label, []metav1.OwnerReference{follower}, false},
		{"another API", label, []metav1.OwnerReference{foreign}, false},
	} {
		n := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Labels: tc.labels, OwnerReferences: tc.refs}}
		if got, ok := ownerOf(n); ok != tc.want || ok && got != (owner{kindSubnet, "total"}) {
			t.Errorf("%s: %+v, %v", tc.name, got, ok)
		}
	}
}
