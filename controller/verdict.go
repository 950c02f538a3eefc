package controller

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Verdicts on a bound lease. Only a dead one may be freed; missing metadata means live.
//
//	verdict  meaning                                                    what happens
//	live     the pod exists, and may run                                nothing
//	doubt    nothing proves the pod gone, nothing shows it either       kept, counted
//	dead     the pod object is gone, is another's, or has finished      freed, after a second look and a live one
type verdict int

const (
	live verdict = iota
	doubt
	dead
)

// finding is a verdict and its reason, a word for metrics and events.
type finding struct {
	verdict verdict
	reason  string
}

// Reasons.
const (
	podGone      = "PodGone"
	podReplaced  = "PodReplaced"
	podFinished  = "PodFinished"
	noHolder     = "NoHolder"
	noPodUID     = "NoPodUID"
	noContainers = "FinishedWithoutContainerStates"
	nodeNotReady = "NodeNotReady"
)

// judge a bound lease by the pod of the holder's name (nil: there is none) and by its node (nil: there is none).
//
// A pod object may be gone while its containers run on: whoever deletes a pod by force on a node that answers no more takes its
// object away, not its interface. So while the node's object exists and the node is not ready, the address is kept; it is freed when
// the node returns (and its kubelet has ended the pod), when the node's object is deleted, or when somebody vouches for its being
// down with the taint node.kubernetes.io/out-of-service.
func judge(l *v1alpha1.IPLease, pod *corev1.Pod, node *corev1.Node) finding {
	h := l.Spec.Holder
	switch {
	case h == nil || h.Namespace == "" || h.Pod == "":
		return finding{doubt, noHolder}
	case h.UID == "":
		return finding{doubt, noPodUID}
	}
	switch {
	case pod == nil:
		return ifNodeKnows(node, podGone)
	case !isHolder(pod, h):
		return ifNodeKnows(node, podReplaced)
	case pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed:
		return finding{live, ""}
	}
	switch containers(pod) {
	case running:
		return finding{live, ""}
	case unknown:
		return finding{doubt, noContainers}
	}
	return finding{dead, podFinished}
}

// ifNodeKnows is dead for reason, unless the node still has to learn it.
func ifNodeKnows(node *corev1.Node, reason string) finding {
	if node == nil || ready(node) || outOfService(node) {
		return finding{dead, reason}
	}
	return finding{doubt, nodeNotReady}
}

// isHolder compares UIDs. A static pod has two: the kubelet's, which CNI is told, and its mirror object's, which says the former in
// an annotation.
func isHolder(pod *corev1.Pod, h *v1alpha1.LeaseHolder) bool {
	return pod.UID == h.UID || pod.Annotations[corev1.MirrorPodAnnotationKey] == string(h.UID)
}

type containerStates int

const (
	unknown containerStates = iota
	running
	terminated
)

// containers of a pod in phase Succeeded or Failed, which will never start another. A pod may be called Failed by somebody else than
// its kubelet, with containers that run on.
func containers(pod *corev1.Pod) containerStates {
	states := unknown
	for _, list := range [][]corev1.ContainerStatus{
		pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		for i := range list {
			s := &list[i].State
			switch {
			case s.Running != nil:
				return running
			case s.Terminated != nil:
				states = terminated
			}
		}
	}
	return states
}

func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func outOfService(n *corev1.Node) bool {
	for _, t := range n.Spec.Taints {
		if t.Key == corev1.TaintNodeOutOfService {
			return true
		}
	}
	return false
}

func describe(l *v1alpha1.IPLease) string {
	h := l.Spec.Holder
	return fmt.Sprintf("%s of pod %s/%s (%s) on node %s", l.Spec.Address, h.Namespace, h.Pod, h.UID, h.Node)
}
