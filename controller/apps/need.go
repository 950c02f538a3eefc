package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// How many pods a workload may have at once, and so how many addresses of each family it needs:
//
//	Deployment   replicas, and maxSurge of them with the strategy RollingUpdate
//	ReplicaSet   replicas
//	StatefulSet  replicas; the ordinals above them keep their addresses (Reserved), which are in use
//	DaemonSet    the nodes that it wants a pod on, and maxSurge of them
//	Job          parallelism, at most the completions; nothing if suspended or finished
//	CronJob      parallelism of its unfinished Jobs, and of one more, which may start at any moment; with concurrencyPolicy Forbid
//	             of the larger of the two
//	any other    spec.replicas of its scale subresource
//
// Pods that end are not among them, as they are not for Kubernetes: where they are slow to go, a new one waits for an address of theirs.

func needOfDeployment(d *appsv1.Deployment) int32 {
	n := value(d.Spec.Replicas, 1)
	s := d.Spec.Strategy
	if s.Type == appsv1.RecreateDeploymentStrategyType {
		return n
	}
	surge := intstr.FromString("25%") // the default of the API server, which has filled it in
	if s.RollingUpdate != nil && s.RollingUpdate.MaxSurge != nil {
		surge = *s.RollingUpdate.MaxSurge
	}
	return n + surgeOf(surge, n)
}

// surgeOf n pods, rounded up as Kubernetes does (deploymentutil.ResolveFenceposts, DaemonSet's SurgeCount). Without pods there is none.
func surgeOf(surge intstr.IntOrString, n int32) int32 {
	if n == 0 {
		return 0
	}
	s, err := intstr.GetScaledValueFromIntOrPercent(&surge, int(n), true)
	if err != nil { // no percentage; the API server refuses it
		return 0
	}
	return int32(max(0, s))
}

func needOfReplicaSet(r *appsv1.ReplicaSet) int32 { return value(r.Spec.Replicas, 1) }

func needOfStatefulSet(s *appsv1.StatefulSet) int32 { return value(s.Spec.Replicas, 1) }

func needOfDaemonSet(d *appsv1.DaemonSet) int32 {
	n := d.Status.DesiredNumberScheduled
	if s := d.Spec.UpdateStrategy; s.RollingUpdate != nil && s.RollingUpdate.MaxSurge != nil && s.Type != appsv1.OnDeleteDaemonSetStrategyType {
		n += surgeOf(*s.RollingUpdate.MaxSurge, n)
	}
	return n
}

func needOfJob(j *batchv1.Job) int32 {
	if finished(j) || value(j.Spec.Suspend, false) {
		return 0
	}
	return parallel(j.Spec)
}

func parallel(s batchv1.JobSpec) int32 {
	n := value(s.Parallelism, 1)
	if s.Completions != nil {
		n = min(n, *s.Completions)
	}
	return n
}

func finished(j *batchv1.Job) bool {
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// needOfCronJob with the Jobs that are its own.
func needOfCronJob(c *batchv1.CronJob, jobs []batchv1.Job) int32 {
	var active int32
	for i := range jobs {
		active += needOfJob(&jobs[i])
	}
	next := parallel(c.Spec.JobTemplate.Spec)
	switch {
	case value(c.Spec.Suspend, false):
		return active
	case c.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent:
		return max(active, next)
	}
	return active + next
}

func value[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
