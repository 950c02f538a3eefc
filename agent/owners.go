package agent

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

// ownersOf a pod: its controllers, as far as the pod itself tells them.
func ownersOf(pod *corev1.Pod) []v1alpha1.PoolOwner {
	c := metav1.GetControllerOf(pod)
	if c == nil {
		return nil
	}
	out := []v1alpha1.PoolOwner{{APIVersion: c.APIVersion, Kind: c.Kind, Namespace: pod.Namespace, Name: c.Name}}
	// A Deployment names its ReplicaSets after the template's hash, which the pods carry.
	hash := pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if name, ok := strings.CutSuffix(c.Name, "-"+hash); ok && hash != "" && c.Kind == "ReplicaSet" {
		out = append(out, v1alpha1.PoolOwner{APIVersion: c.APIVersion, Kind: "Deployment", Namespace: pod.Namespace, Name: name})
	}
	return out
}
