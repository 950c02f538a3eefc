package controller

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/berthdev/berth/api/v1alpha1"
)

// turns says which of the selected nodes may become as a HostNetwork's spec is; HostNetworkRollout has the table. Who had his turn in the
// generation before, and has not come to an end of it, has it again first: he may be in the middle of a change, or have undone one.
func turns(h *v1alpha1.HostNetwork, selected []string) *v1alpha1.HostNetworkRollout {
	if h.DeletionTimestamp != nil { // links go wherever nobody uses them
		return h.Status.Rollout
	}
	before := v1alpha1.HostNetworkRollout{}
	if h.Status.Rollout != nil {
		before = *h.Status.Rollout
	}
	entries := map[string]v1alpha1.HostNetworkNode{}
	for _, e := range h.Status.Nodes {
		entries[e.Node] = e
	}
	out := &v1alpha1.HostNetworkRollout{Generation: h.Generation}
	var busy, undone, waiting []string
	for _, node := range selected {
		e := entries[node]
		turn := slices.Contains(before.Nodes, node) && (before.Generation == h.Generation || !settled(e, before.Generation))
		if turn {
			out.Nodes = append(out.Nodes, node)
		}
		switch {
		case settled(e, h.Generation):
		case e.Reason == v1alpha1.LinksUndone && e.ObservedGeneration == h.Generation:
			undone = append(undone, node+" ("+e.Message+")")
		case turn, e.Reason == v1alpha1.LinksFailed && e.ObservedGeneration == h.Generation:
			busy = append(busy, node)
		default:
			waiting = append(waiting, node)
		}
	}
	most := mostAtATime(h.Spec.MaxUnavailable, len(selected))
	for undone == nil && len(busy) < most && len(waiting) > 0 {
		busy, out.Nodes, waiting = append(busy, waiting[0]), append(out.Nodes, waiting[0]), waiting[1:]
	}
	slices.Sort(out.Nodes)
	out.Message = told(h, len(selected), busy, undone, waiting)
	return out
}

// settled says whether a node has come to an end of a generation that leaves it as able as before: all is done, or nothing was begun.
func settled(e v1alpha1.HostNetworkNode, generation int64) bool {
	switch e.Reason {
	case v1alpha1.LinksUndone, v1alpha1.LinksFailed, v1alpha1.LinksQueued:
		return false
	}
	return e.Node != "" && e.ObservedGeneration == generation
}

// mostAtATime of n nodes.
func mostAtATime(spec *intstr.IntOrString, n int) int {
	if spec == nil {
		return 1
	}
	most, err := intstr.GetScaledValueFromIntOrPercent(spec, n, false)
	if err != nil { // the API server refuses such a one
		return 1
	}
	return max(most, 1)
}

func told(h *v1alpha1.HostNetwork, selected int, busy, undone, waiting []string) string {
	var out []string
	if undone != nil {
		out = append(out, "stopped, as the change was undone on "+strings.Join(undone, ", ")+"; edit the spec to have it tried again")
	}
	if len(busy)+len(waiting) > 0 {
		out = append(out, fmt.Sprintf("generation %d has reached %d of %d nodes", h.Generation, selected-len(busy)-len(waiting)-len(undone), selected))
	}
	if len(busy) > 0 {
		out = append(out, "now it is the turn of "+few(busy))
	}
	if len(waiting) > 0 {
		out = append(out, fmt.Sprintf("%d wait", len(waiting)))
	}
	return strings.Join(out, "; ")
}

// few of the names, and how many more there are.
func few(names []string) string {
	const most = 5
	if n := len(names) - most; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n)
	}
	return strings.Join(names, ", ")
}
