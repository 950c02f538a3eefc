package ipam

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berthdev/berth/api/v1alpha1"
)

// ErrNotOfNetspace: a pod names a netspace that does not serve it.
var ErrNotOfNetspace = errors.New("not of the netspace")

// Netspace is a Netspace made ready for asking who is of it.
type Netspace struct {
	Name string
	// Guests: pods of namespaces that are of no netspace are served if they name it.
	Guests bool
	// Deleting: it gives nothing new.
	Deleting bool

	names    []string
	selector labels.Selector
	has      []string // by its status
}

// Netspaces are all of them, the older first: of two that claim a namespace the one that has it keeps it, so that nobody loses it by the
// edit of another; of two that have it not, the older gets it; of the same second, the first by name.
type Netspaces []*Netspace

// NewNetspaces from the objects. One whose selector is malformed claims namespaces by name, and those that
// it has; errs say which those are.
func NewNetspaces(all []*v1alpha1.Netspace) (out Netspaces, errs []error) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *v1alpha1.Netspace) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	for _, o := range all {
		n := &Netspace{Name: o.Name, Guests: o.Spec.Guests != v1alpha1.GuestsRefuse, Deleting: o.DeletionTimestamp != nil,
			names: o.Spec.Namespaces, selector: labels.Nothing(), has: o.Status.Namespaces}
		if o.Spec.NamespaceSelector != nil {
			sel, err := metav1.LabelSelectorAsSelector(o.Spec.NamespaceSelector)
			if err != nil {
				errs = append(errs, fmt.Errorf("netspace %q: namespaceSelector: %w", o.Name, err))
				n.names = slices.Concat(n.names, n.has) // a typing error opens nothing
			} else {
				n.selector = sel
			}
		}
		out = append(out, n)
	}
	return out, errs
}

// Claims says whether the netspace claims a namespace, be it by name or by labels. Another may have it: see Netspaces.Of.
func (n *Netspace) Claims(namespace string, l labels.Set) bool {
	return slices.Contains(n.names, namespace) || n.selector.Matches(l)
}

// Of a namespace: the netspace that has it; nil if none has.
func (s Netspaces) Of(namespace string, l labels.Set) *Netspace {
	var first *Netspace
	for _, n := range s {
		switch {
		case !n.Claims(namespace, l):
		case slices.Contains(n.has, namespace):
			return n
		case first == nil:
			first = n
		}
	}
	return first
}

// Named netspace; nil if there is none.
func (s Netspaces) Named(name string) *Netspace {
	for _, n := range s {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// OfPod is the netspace of a pod: that of its namespace, else the one that it names, if that has guests. Nil: of none. Naming one that
// does not serve the pod is ErrNotOfNetspace, which says what to change.
func (s Netspaces) OfPod(namespace string, l labels.Set, named string) (*Netspace, error) {
	member := s.Of(namespace, l)
	if named == "" || member != nil && member.Name == named {
		return member, nil
	}
	if member != nil {
		return nil, fmt.Errorf("%w: namespace %q is of netspace %q, whose pods no other serves; write %q, or remove the annotation",
			ErrNotOfNetspace, namespace, member.Name, member.Name)
	}
	switch n := s.Named(named); {
	case n == nil:
		return nil, fmt.Errorf("%w: netspace %q does not exist; correct the name, or create it", ErrNotOfNetspace, named)
	case !n.Guests:
		return nil, fmt.Errorf("%w: netspace %q serves no guests (guests: %s), and namespace %q is not of it; add the namespace to the netspace, or remove the annotation",
			ErrNotOfNetspace, named, v1alpha1.GuestsRefuse, namespace)
	default:
		return n, nil
	}
}
