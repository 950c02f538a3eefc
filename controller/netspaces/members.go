package netspaces

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// members of a netspace: the namespaces that it has, and those that it claims and another has, with that one's name.
type members struct {
	has   []string
	taken map[string]string
}

func membersOf(netspace string, all ipam.Netspaces, namespaces []corev1.Namespace) members {
	m := members{taken: map[string]string{}}
	n := all.Named(netspace)
	if n == nil {
		return m
	}
	for i := range namespaces {
		ns := &namespaces[i]
		if !n.Claims(ns.Name, ns.Labels) {
			continue
		}
		if of := all.Of(ns.Name, ns.Labels); of != n {
			m.taken[ns.Name] = of.Name
			continue
		}
		m.has = append(m.has, ns.Name)
	}
	slices.Sort(m.has)
	return m
}

// refusals of what it claims.
func (m members) refusals(n *v1alpha1.Netspace) (out []refusal) {
	if s := n.Spec.NamespaceSelector; s != nil {
		if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
			out = append(out, refusal{reasonMalformed, fmt.Sprintf("namespaceSelector: %v", err)})
		}
	}
	var list []string
	for ns, of := range m.taken {
		list = append(list, fmt.Sprintf("namespace %q is of netspace %q", ns, of))
	}
	if len(list) > 0 {
		slices.Sort(list)
		out = append(out, refusal{reasonTaken, some(list) + "; a namespace is of one netspace: take it out of that one, or out of this one's namespaces and namespaceSelector"})
	}
	return out
}

// whole subnets of a netspace: those on which both agree, and what the others are refused for.
func whole(n *v1alpha1.Netspace, subnets []v1alpha1.Subnet) (own []*v1alpha1.Subnet, out []refusal) {
	named := map[string]*v1alpha1.Subnet{}
	for i := range subnets {
		s := &subnets[i]
		named[s.Name] = s
		if s.Spec.Netspace == n.Name && s.Labels[LabelShareOf] == "" && !slices.Contains(n.Spec.Subnets, s.Name) {
			out = append(out, refusal{reasonSubnet, fmt.Sprintf("Subnet %q says netspace %q, which does not name it in subnets; name it there, or make it a subnet of nobody", s.Name, n.Name)})
		}
	}
	for _, name := range n.Spec.Subnets {
		s := named[name]
		switch {
		case s == nil:
			out = append(out, refusal{reasonSubnet, fmt.Sprintf("subnets: there is no Subnet %q; make it, with netspace: %s", name, n.Name)})
		case s.Spec.Netspace == "":
			out = append(out, refusal{reasonSubnet, fmt.Sprintf("subnets: Subnet %q is of no netspace; write netspace: %s in it, or have a share of it", name, n.Name)})
		case s.Spec.Netspace != n.Name:
			out = append(out, refusal{reasonSubnet, fmt.Sprintf("subnets: Subnet %q is netspace %q's; name another", name, s.Spec.Netspace)})
		case s.DeletionTimestamp != nil:
			out = append(out, refusal{reasonSubnet, fmt.Sprintf("subnets: Subnet %q is being deleted", name)})
		default:
			own = append(own, s)
		}
	}
	return own, out
}

// some of the words, and how many more there are.
func some(words []string) string {
	const most = 5
	if n := len(words); n > most {
		words = append(slices.Clone(words[:most]), fmt.Sprintf("%d more", n-most))
	}
	return strings.Join(words, ", ")
}
