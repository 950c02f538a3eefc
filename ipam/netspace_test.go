package ipam

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
)

// netspace made that many seconds after the first.
func netspace(t testing.TB, name string, age int, spec string) *v1alpha1.Netspace {
	t.Helper()
	n := &v1alpha1.Netspace{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(int64(1000+age), 0)}}
	if err := yaml.UnmarshalStrict([]byte(spec), &n.Spec); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNetspaces(t *testing.T) {
	going := netspace(t, "going", 9, "namespaces: [going-1]")
	going.DeletionTimestamp = &metav1.Time{Time: time.Unix(5000, 0)}
	young := netspace(t, "young", 5, "{namespaces: [both, late, kept], namespaceSelector: {matchLabels: {team: a}}}")
	young.Status.Namespaces = []string{"kept", "given-up"}
	typo := netspace(t, "typo", 8, "{namespaces: [typo-1], namespaceSelector: {matchExpressions: [{key: x, operator: Inn}]}}")
	typo.Status.Namespaces = []string{"typo-2"}
	all, errs := NewNetspaces([]*v1alpha1.Netspace{ // not sorted
		young,
		netspace(t, "b", 1, "namespaces: [same]"),
		netspace(t, "a", 1, "namespaces: [same]"),
		netspace(t, "old", 0, "{namespaces: [both, kept, given-up], namespaceSelector: {matchLabels: {team: old}}, guests: Allow}"),
		netspace(t, "closed", 7, "{guests: Refuse}"),
		typo,
		going,
	})
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), `netspace "typo": namespaceSelector: "Inn"`) {
		t.Errorf("errors: %v", errs)
	}
	for _, tc := range []struct {
		namespace, label, named string
		want                    string
		err                     string
	}{
		{namespace: "nobody's"},
		{namespace: "both", want: "old"},
		{namespace: "same", want: "a"},
		{namespace: "late", want: "young"},
		{namespace: "x", label: "a", want: "young"},
		{namespace: "x", label: "old", want: "old"},
		{namespace: "late", label: "old", want: "old"}, // the older one's selector before the younger one's list
		{namespace: "kept", want: "young"},             // it has it, and the older claims it since
		{namespace: "given-up", want: "old"},
		{namespace: "typo-1", want: "typo"},
		{namespace: "typo-2", want: "typo"}, // it had it before
		{namespace: "going-1", want: "going"},

		{namespace: "both", named: "old", want: "old"},
		{namespace: "both", named: "young", err: `namespace "both" is of netspace "old", whose pods no other serves; write "old", or remove the annotation`},
		{namespace: "both", named: "nowhere", err: `namespace "both" is of netspace "old"`},
		{namespace: "nobody's", named: "young", want: "young"}, // Allow is the default
		{namespace: "nobody's", named: "closed", err: `netspace "closed" serves no guests (guests: Refuse), and namespace "nobody's" is not of it; add the namespace to the netspace, or remove the annotation`},
		{namespace: "nobody's", named: "nowhere", err: `netspace "nowhere" does not exist; correct the name, or create it`},
	} {
		n, err := all.OfPod(tc.namespace, labels.Set{"team": tc.label}, tc.named)
		got := ""
		if n != nil {
			got = n.Name
		}
		if got != tc.want || (err != nil) != (tc.err != "") || err != nil && (!errors.Is(err, ErrNotOfNetspace) || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%+v: %q, %v", tc, got, err)
		}
	}
	if n := all.Named("going"); !n.Deleting {
		t.Error("going is not going")
	}
}
