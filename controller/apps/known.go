package apps

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Reasons of events on workloads.
const (
	noteRefused     = "AnnotationRefused"
	noteIgnored     = "AnnotationIgnored"
	noteNoSubnet    = "SubnetNotFound"
	noteNameTaken   = "PoolNameTaken"
	noteNotReady    = "PoolNotReady"
	noteNotScalable = "WorkloadNotScalable"
	noteNotReadable = "WorkloadNotReadable"
)

// AggregateLabel of ClusterRoles adds their rules to what Berth may read of workloads of kinds that it does not know.
const AggregateLabel = "berth.dev/aggregate-to-workloads"

// tell a workload's people something, once.
func (r *reconciler) tell(owner v1alpha1.PoolOwner, o metav1.Object, reason, note string) {
	if !r.isNews(owner, note) {
		return
	}
	regarding := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: owner.Namespace, Name: owner.Name}}
	regarding.SetGroupVersionKind(gvkOf(owner))
	if o != nil {
		regarding.UID = o.GetUID()
	}
	r.log.Info(note, "workload", describe(owner), "reason", reason)
	r.recorder.Eventf(regarding, nil, corev1.EventTypeWarning, reason, "Carve", "%s", note)
}

// mostTold notes of one workload are remembered.
const mostTold = 16

func (r *reconciler) isNews(owner v1alpha1.PoolOwner, note string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.told[owner], note) {
		return false
	}
	if len(r.told[owner]) == mostTold {
		r.told[owner] = nil
	}
	r.told[owner] = append(r.told[owner], note)
	return true
}

// learn the annotations of the pods of a workload of an unknown kind.
func (r *reconciler) learn(owner v1alpha1.PoolOwner, annotations map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.templates[owner] = annotations
}

// pass what was learned of the pods of an object on to the workload that it belongs to.
func (r *reconciler) pass(from, top v1alpha1.PoolOwner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if annotations, ok := r.templates[from]; ok && from != top {
		r.templates[top] = annotations
		delete(r.templates, from)
	}
}

func (r *reconciler) learned(owner v1alpha1.PoolOwner) (map[string]string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	annotations, ok := r.templates[owner]
	return annotations, ok
}

// lack of a Subnet.
func (r *reconciler) lack(subnet string, owner v1alpha1.PoolOwner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lacking[subnet] == nil {
		r.lacking[subnet] = map[v1alpha1.PoolOwner]bool{}
	}
	r.lacking[subnet][owner] = true
}

// found a Subnet that it may have lacked.
func (r *reconciler) found(subnet string, owner v1alpha1.PoolOwner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if delete(r.lacking[subnet], owner); len(r.lacking[subnet]) == 0 {
		delete(r.lacking, subnet)
	}
}

// missing lists whom a Subnet was missing.
func (r *reconciler) missing(subnet string) []v1alpha1.PoolOwner {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.lacking[subnet]))
}

// drop what is known of a workload that is gone.
func (r *reconciler) drop(owner v1alpha1.PoolOwner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.templates, owner)
	delete(r.told, owner)
	delete(r.patient, owner)
	for subnet := range r.lacking {
		delete(r.lacking[subnet], owner)
	}
}

// forget the annotations of the pods of a workload that is gone.
func (r *reconciler) forget(owner v1alpha1.PoolOwner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.templates, owner)
}
