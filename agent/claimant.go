package agent

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// migrationLabel is KubeVirt's mark of the pod to which a machine migrates (kubevirt.io/api/core/v1, MigrationJobLabel).
const migrationLabel = "kubevirt.io/migrationJobUID"

// claimantOf an interface: what the pod is beyond its own life, by what the interface asks for, else by the pod's controller. All of it
// stands in the pod, so nothing is read for it.
func claimantOf(pod *corev1.Pod, holder v1alpha1.LeaseHolder, ask nad.Ask) ipam.Claimant {
	c := ipam.Claimant{Holder: holder, Names: map[string]string{v1alpha1.IdentityPod: pod.Name}}
	identity := v1alpha1.LeaseIdentity{Namespace: pod.Namespace, Interface: holder.Interface, Ends: v1alpha1.EndsWithOwner}
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		owner = &metav1.OwnerReference{}
	} else {
		c.Names[owner.Kind] = owner.Name
		// A Deployment names its ReplicaSets after the template's hash, which the pods carry.
		if name, ok := strings.CutSuffix(owner.Name, "-"+pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]); ok && owner.Kind == "ReplicaSet" {
			c.Names["Deployment"] = name
		}
	}
	group, _, _ := strings.Cut(owner.APIVersion, "/")
	c.Migrates = owner.Kind == v1alpha1.IdentityVM && group == "kubevirt.io" && pod.Labels[migrationLabel] != ""
	switch {
	case ask.Claim != "":
		identity.Kind, identity.Name = v1alpha1.IdentityIPAMClaim, ask.Claim
	case ask.Identity != "":
		identity.Kind, identity.Name, identity.Ends = v1alpha1.IdentityName, ask.Identity, v1alpha1.EndsAfterTime
	case owner.Kind == v1alpha1.IdentityStatefulSet && group == appsv1.GroupName:
		identity.Kind, identity.Name, identity.UID, identity.Pod = owner.Kind, owner.Name, owner.UID, pod.Name
	case owner.Kind == v1alpha1.IdentityVM && group == "kubevirt.io":
		identity.Kind, identity.Name, identity.UID = owner.Kind, owner.Name, owner.UID
	default:
		return c
	}
	c.Identity = &identity
	c.Names[identity.Kind] = identity.Name
	return c
}

// askedOf an interface: what its network asks for, all of it; of the addresses that the pod's template lists (berth.dev/ips), the one
// at its ordinal if the pod is a StatefulSet's, else any that is free.
func askedOf(pod *corev1.Pod, ask nad.Ask) (ipam.Asked, error) {
	if len(ask.Fixed) == 0 {
		return ipam.Asked{All: ask.IPs}, nil
	}
	owner := metav1.GetControllerOf(pod)
	if owner == nil || owner.Kind != v1alpha1.IdentityStatefulSet {
		return ipam.Asked{OneOf: ask.Fixed}, nil
	}
	index, ok := pod.Labels[appsv1.PodIndexLabel]
	if !ok {
		index = pod.Name[strings.LastIndex(pod.Name, "-")+1:]
	}
	ordinal, err := strconv.Atoi(index)
	if err != nil {
		return ipam.Asked{}, badRequest{fmt.Errorf("pod %s of StatefulSet %s has no ordinal in its label %s nor in its name", pod.Name, owner.Name, appsv1.PodIndexLabel)}
	}
	own, err := nad.ByOrdinal(ask.Fixed, ordinal)
	if err != nil {
		return ipam.Asked{}, badRequest{err}
	}
	return ipam.Asked{All: own}, nil
}

// early warns of an address that was given out before its cooldown was over.
func (a *Agent) early(l *v1alpha1.IPLease, by time.Duration) {
	h := l.Spec.Holder
	a.metrics.early.Inc()
	a.warn(podOfHolder(h), "AddressReusedEarly", fmt.Sprintf("address %s of pool %q was given out %s before its cooldown was over, since no other is free; "+
		"neighbours may still know its last holder: add addresses, or lower the pool's cooldown", l.Spec.Address, l.Spec.Pool, by.Round(time.Second)))
}
