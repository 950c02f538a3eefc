package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/berthdev/berth/api/v1alpha1"
)

type filter struct{ pool, network, node, namespace, phase string }

func leasesCommand(e *env) *cobra.Command {
	var f filter
	cmd := &cobra.Command{
		Use:   "leases",
		Short: "Leases in the order of their addresses",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			c, err := e.connect()
			if err != nil {
				return err
			}
			all, err := c.leases(cmd.Context(), metav1.ListOptions{LabelSelector: f.selector().String()})
			if err != nil {
				return err
			}
			var some []v1alpha1.IPLease
			for _, l := range all {
				if f.matches(&l) {
					some = append(some, l)
				}
			}
			if len(some) == 0 {
				fmt.Fprintln(e.out, "No leases.")
				return nil
			}
			return writeLeases(e, some)
		},
	}
	cmd.Flags().StringVar(&f.pool, "pool", "", "only those that this pool gave")
	cmd.Flags().StringVar(&f.network, "network", "", "only those of this network")
	cmd.Flags().StringVar(&f.node, "node", "", "only those of pods on this node")
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "", "only those of pods in this namespace")
	cmd.Flags().StringVar(&f.phase, "phase", "", "only those in this phase: "+strings.Join(phases(), ", "))
	return cmd
}

func phases() []string {
	return []string{string(v1alpha1.LeaseBound), string(v1alpha1.LeaseReserved), string(v1alpha1.LeaseReleased), string(v1alpha1.LeaseQuarantined)}
}

// check also brings the phase into its usual case.
func (f *filter) check() error {
	for _, n := range []struct {
		flag, value string
		check       func(string) []string
	}{
		{"pool", f.pool, validation.IsDNS1123Label}, {"network", f.network, validation.IsDNS1123Label},
		{"node", f.node, validation.IsDNS1123Subdomain}, {"namespace", f.namespace, validation.IsDNS1123Label},
	} {
		// In a selector a comma would begin another condition, which no lease meets.
		if n.value != "" && len(n.check(n.value)) > 0 {
			return fmt.Errorf("--%s %q is no name of a %s; name one", n.flag, n.value, n.flag)
		}
	}
	if f.phase == "" {
		return nil
	}
	i := slices.IndexFunc(phases(), func(p string) bool { return strings.EqualFold(p, f.phase) })
	if i < 0 {
		return fmt.Errorf("--phase %q is none of %s", f.phase, strings.Join(phases(), ", "))
	}
	f.phase = phases()[i]
	return nil
}

// selector narrows the list on the server. Not by node: a machine that migrates is on two, and no selector has an "or".
func (f *filter) selector() labels.Selector {
	set := labels.Set{}
	for key, value := range map[string]string{
		v1alpha1.LabelPool: f.pool, v1alpha1.LabelNamespace: f.namespace,
	} {
		if value != "" {
			set[key] = value
		}
	}
	return labels.SelectorFromSet(set)
}

func (f *filter) matches(l *v1alpha1.IPLease) bool {
	return (f.network == "" || f.network == l.Spec.Network) && (f.phase == "" || f.phase == string(l.Spec.Phase)) &&
		(f.node == "" || isOn(l.Spec.Holder, f.node) || isOn(l.Spec.Next, f.node))
}

func isOn(h *v1alpha1.LeaseHolder, node string) bool { return h != nil && h.Node == node }

func writeLeases(e *env, leases []v1alpha1.IPLease) error {
	slices.SortFunc(leases, func(a, b v1alpha1.IPLease) int {
		x, _ := netip.ParseAddr(a.Spec.Address) // the zero Addr sorts first
		y, _ := netip.ParseAddr(b.Spec.Address)
		return cmp.Or(strings.Compare(a.Spec.Network, b.Spec.Network), x.Compare(y))
	})
	t := newTable(e.out, "NETWORK", "ADDRESS", "POOL", "PHASE", "POD", "INTERFACE", "NODE", "IDENTITY", "CONFLICT", "SINCE")
	for i := range leases {
		s := &leases[i].Spec
		h := s.Holder
		if h == nil {
			h = &v1alpha1.LeaseHolder{}
		}
		who, node := pod(h), h.Node
		if s.Next != nil { // a virtual machine migrates
			who, node = who+","+pod(s.Next), node+","+s.Next.Node
		}
		other := ""
		if s.Conflict != nil {
			other = s.Conflict.MAC
		}
		t.row(s.Network, s.Address, s.Pool, string(s.Phase), who, h.Interface, node, identity(s.Identity), other, since(&leases[i], e.now()))
	}
	return t.flush()
}

func pod(h *v1alpha1.LeaseHolder) string {
	if h.Pod == "" {
		return ""
	}
	return h.Namespace + "/" + h.Pod
}

// identity in the form KIND NAMESPACE/NAME, with the pod of a StatefulSet in place of the set.
func identity(i *v1alpha1.LeaseIdentity) string {
	if i == nil {
		return ""
	}
	return i.Kind + " " + i.Namespace + "/" + cmp.Or(i.Pod, i.Name)
}

// since is the age of the present phase; "" if the lease does not say.
func since(l *v1alpha1.IPLease, now time.Time) string {
	at := &l.CreationTimestamp
	switch {
	case l.Spec.Phase == v1alpha1.LeaseBound && l.Spec.BoundAt != nil:
		at = l.Spec.BoundAt
	case (l.Spec.Phase == v1alpha1.LeaseReleased || l.Spec.Phase == v1alpha1.LeaseReserved) && l.Spec.ReleasedAt != nil:
		at = l.Spec.ReleasedAt
	case l.Spec.Phase == v1alpha1.LeaseQuarantined && (l.Spec.BoundAt != nil || l.Spec.ReleasedAt != nil):
		return "" // it was something else before, and nothing has the time of the change
	}
	if at.IsZero() {
		return ""
	}
	return duration.HumanDuration(now.Sub(at.Time))
}
