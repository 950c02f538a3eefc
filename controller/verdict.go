package controller

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Verdicts on a holder of a bound lease, and on the identity of a reserved one. Missing metadata means live.
//
//	verdict  meaning                                                          what happens
//	live     the pod exists, and may run; the identity has not ended          nothing
//	doubt    nothing proves pod or owner gone, nothing shows them either      kept, counted, told once
//	dead     the object is gone, is another's, or the pod has finished        given up, after a second look and a live one
//	over     a time that was agreed on has passed, or the pool is going       given up, after a live look
type verdict int

const (
	live verdict = iota
	doubt
	dead
	over
)

// finding is a verdict and its reason, a word for metrics and events.
type finding struct {
	verdict verdict
	reason  string
}

// Reasons of findings on holders.
const (
	podGone      = "PodGone"
	podReplaced  = "PodReplaced"
	podFinished  = "PodFinished"
	noHolder     = "NoHolder"
	noPodUID     = "NoPodUID"
	noContainers = "FinishedWithoutContainerStates"
	nodeNotReady = "NodeNotReady"
)

// doubts are what events say of the reasons to keep an address.
var doubts = map[string]string{
	noHolder:      "it is bound, and does not say to which pod; delete the lease if you know that nobody uses it",
	noPodUID:      "nothing shows that pod, nothing proves it gone, since the lease does not have its UID; delete the lease if you know that nobody uses it",
	noContainers:  "the pod has finished, and does not say that its containers have; it is free once the pod is deleted",
	nodeNotReady:  "the pod is gone, and its node is not ready, where it may still run; it is free once the node returns, is deleted, or is tainted node.kubernetes.io/out-of-service",
	noOwnerAPI:    "the API server does not serve the kind of its owner, so nothing proves that gone; set reservedFor on the pool, or delete the lease",
	noOwnerAnswer: "the API server does not answer for its owner; the log of berth-controller says why",
	noOwnerKind:   "nothing is known of owners of that kind; set reservedFor on the pool, or delete the lease",
}

// judge a holder of a bound lease (nil: it names none) by the pod of the holder's name (nil: there is none) and by its node (nil: there
// is none).
//
// A pod object may be gone while its containers run on: whoever deletes a pod by force on a node that answers no more takes its
// object away, not its interface. So while the node's object exists and the node is not ready, the address is kept; it is freed when
// the node returns (and its kubelet has ended the pod), when the node's object is deleted, or when somebody vouches for its being
// down with the taint node.kubernetes.io/out-of-service.
func judge(h *v1alpha1.LeaseHolder, pod *corev1.Pod, node *corev1.Node) finding {
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

func describe(address string, h *v1alpha1.LeaseHolder) string {
	return fmt.Sprintf("%s of pod %s/%s (%s) on node %s", address, h.Namespace, h.Pod, h.UID, h.Node)
}
