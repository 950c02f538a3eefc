package apps

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/nad"
)

// TestJobWakes: a Job wakes itself, or the CronJob that made it; a CronJob of another API group is any other kind to it.
func TestJobWakes(t *testing.T) {
	for above, want := range map[metav1.OwnerReference]v1alpha1.PoolOwner{
		{}: {APIVersion: "batch/v1", Kind: "Job", Namespace: "ns", Name: "run"},
		{APIVersion: "batch/v1", Kind: "CronJob", Name: "nightly"}:             {APIVersion: "batch/v1", Kind: "CronJob", Namespace: "ns", Name: "nightly"},
		{APIVersion: "batch.example.com/v1", Kind: "CronJob", Name: "nightly"}: {APIVersion: "batch/v1", Kind: "Job", Namespace: "ns", Name: "run"},
	} {
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "run"}}
		j.Spec.Template.Annotations = map[string]string{nad.SubnetAnnotation: "office"}
		if above.Kind != "" {
			above.Controller = new(true)
			j.OwnerReferences = []metav1.OwnerReference{above}
		}
		q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[v1alpha1.PoolOwner]())
		(&reconciler{}).ofJob().Create(t.Context(), event.TypedCreateEvent[object]{Object: j}, q)
		if got, _ := q.Get(); got != want {
			t.Errorf("below %q of %q: wakes %+v, want %+v", above.Kind, above.APIVersion, got, want)
		}
		q.ShutDown()
	}
}
