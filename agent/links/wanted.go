//go:build linux

package links

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Want is what a HostNetwork wants of this node.
type Want struct {
	Name string // of the HostNetwork
	Spec string // which version of it: UID and generation

	Bond          *Bond
	Parent        string // a link that is there, where Bond is nil
	VLANs         []int  // IEEE 802.1Q, sorted
	MTU           int    // in bytes; 0: that of the kernel
	MoveAddresses bool

	Queued bool `json:",omitempty"` // it is not this node's turn to become so
}

// same says whether nothing is to be done to come from one to the other.
func (w Want) same(o Want) bool {
	w.Spec, w.Queued = o.Spec, o.Queued
	return reflect.DeepEqual(w, o)
}

// Bond to make. Mode is named as the kernel names it; Miimon is in milliseconds.
type Bond struct {
	Name    string
	Mode    string
	Members []string
	Miimon  int
	Primary string
}

// base is the link that carries the VLANs.
func (w Want) base() string {
	if w.Bond != nil {
		return w.Bond.Name
	}
	return w.Parent
}

func vlanName(base string, id int) string { return fmt.Sprintf("%s.%d", base, id) }

// made are the links that the HostNetwork wants made: the bond, then the VLANs.
func (w Want) made() []string {
	var out []string
	if w.Bond != nil {
		out = append(out, w.Bond.Name)
	}
	for _, id := range w.VLANs {
		out = append(out, vlanName(w.base(), id))
	}
	return out
}

// Wanted of a node by HostNetworks, the oldest first. One that is being deleted wants nothing.
func Wanted(all []*v1alpha1.HostNetwork, node string, has labels.Set) ([]Want, error) {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *v1alpha1.HostNetwork) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	var out []Want
	for _, h := range all {
		selects, err := selects(h, has)
		if err != nil {
			return nil, err
		}
		if selects && h.DeletionTimestamp == nil {
			w, r := want(h), h.Status.Rollout
			w.Queued = r == nil || r.Generation != h.Generation || !slices.Contains(r.Nodes, node)
			out = append(out, w)
		}
	}
	return out, nil
}

func selects(h *v1alpha1.HostNetwork, node labels.Set) (bool, error) {
	if h.Spec.NodeSelector == nil {
		return true, nil
	}
	s, err := metav1.LabelSelectorAsSelector(h.Spec.NodeSelector)
	if err != nil { // the API server refuses such a one
		return false, fmt.Errorf("nodeSelector of HostNetwork %q: %w", h.Name, err)
	}
	return s.Matches(node), nil
}

func want(h *v1alpha1.HostNetwork) Want {
	w := Want{Name: h.Name, Spec: SpecOf(h), Parent: h.Spec.Parent, MoveAddresses: h.Spec.MoveAddresses}
	if b := h.Spec.Bond; b != nil {
		w.Bond = &Bond{Name: b.Name, Mode: cmp.Or(string(b.Mode), "active-backup"), Members: b.Members, Miimon: 100, Primary: b.Primary}
		if b.Miimon != nil {
			w.Bond.Miimon = int(*b.Miimon)
		}
	}
	for _, id := range h.Spec.VLANs {
		w.VLANs = append(w.VLANs, int(id))
	}
	slices.Sort(w.VLANs)
	if h.Spec.MTU != nil {
		w.MTU = int(*h.Spec.MTU)
	}
	return w
}

// SpecOf names this version of a HostNetwork's spec. One made anew under its name begins at generation 1 again.
func SpecOf(h *v1alpha1.HostNetwork) string { return fmt.Sprintf("%s/%d", h.UID, h.Generation) }

// GenerationOf a HostNetwork that a State speaks of: 0 if of another by its name.
func GenerationOf(spec string, h *v1alpha1.HostNetwork) int64 {
	uid, generation, _ := strings.Cut(spec, "/")
	if n, err := strconv.ParseInt(generation, 10, 64); err == nil && uid == string(h.UID) {
		return n
	}
	return 0
}
