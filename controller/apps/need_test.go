package apps

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestNeedOfDeployment(t *testing.T) {
	surge := func(s string) appsv1.DeploymentStrategy {
		v := intstr.Parse(s)
		return appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &v}}
	}
	for _, tt := range []struct {
		name     string
		replicas *int32
		strategy appsv1.DeploymentStrategy
		want     int32
	}{
		{"defaults", nil, appsv1.DeploymentStrategy{}, 2},
		{"a quarter, rounded up", new(int32(5)), surge("25%"), 7},
		{"all of them", new(int32(50)), surge("100%"), 100},
		{"a number", new(int32(3)), surge("2"), 5},
		{"none", new(int32(3)), surge("0"), 3},
		{"a thousandth is one", new(int32(1)), surge("1%"), 2},
		{"without replicas there is no surge", new(int32(0)), surge("3"), 0},
		{"recreate", new(int32(3)), appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}, 3},
		{"nonsense", new(int32(3)), surge("x"), 3},
	} {
		d := &appsv1.Deployment{}
		d.Spec.Replicas, d.Spec.Strategy = tt.replicas, tt.strategy
		if got := needOfDeployment(d); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestNeedOfOthers(t *testing.T) {
	set := &appsv1.StatefulSet{}
	if got := needOfStatefulSet(set); got != 1 {
		t.Errorf("StatefulSet by default: %d", got)
	}
	set.Spec.Replicas = new(int32(3))
	if got := needOfStatefulSet(set); got != 3 {
		t.Errorf("StatefulSet: %d", got)
	}
	rs := &appsv1.ReplicaSet{}
	rs.Spec.Replicas = new(int32(4))
	if got := needOfReplicaSet(rs); got != 4 {
		t.Errorf("ReplicaSet: %d", got)
	}
	ds := &appsv1.DaemonSet{}
	ds.Status.DesiredNumberScheduled = 7
	if got := needOfDaemonSet(ds); got != 7 {
		t.Errorf("DaemonSet: %d", got)
	}
	surge := intstr.FromString("10%")
	ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: &surge}
	if got := needOfDaemonSet(ds); got != 8 {
		t.Errorf("DaemonSet with surge: %d", got)
	}
	ds.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	if got := needOfDaemonSet(ds); got != 7 {
		t.Errorf("DaemonSet OnDelete: %d", got)
	}
}

func TestNeedOfJobs(t *testing.T) {
	job := func(parallel int32, end batchv1.JobConditionType) batchv1.Job {
		j := batchv1.Job{}
		j.Spec.Parallelism = &parallel
		if end != "" {
			j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobSuspended, Status: corev1.ConditionTrue}, {Type: end, Status: corev1.ConditionTrue}}
		}
		return j
	}
	running, done := job(3, ""), job(3, batchv1.JobComplete)
	failed, criteria := job(3, batchv1.JobFailed), job(3, batchv1.JobSuccessCriteriaMet)
	few, suspended := job(9, ""), job(3, "")
	few.Spec.Completions, suspended.Spec.Suspend = new(int32(2)), new(true)
	for name, tt := range map[string]struct {
		job  batchv1.Job
		want int32
	}{
		"running": {running, 3}, "done": {done, 0}, "failed": {failed, 0}, "about to be": {criteria, 3}, "no more than the completions": {few, 2},
		"suspended": {suspended, 0}, "defaults": {batchv1.Job{}, 1},
	} {
		if got := needOfJob(&tt.job); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}

	c := &batchv1.CronJob{}
	c.Spec.JobTemplate.Spec.Parallelism = new(int32(2))
	for _, tt := range []struct {
		name    string
		policy  batchv1.ConcurrencyPolicy
		suspend bool
		jobs    []batchv1.Job
		want    int32
	}{
		{"before the first", "", false, nil, 2},
		{"active ones and one more", batchv1.AllowConcurrent, false, []batchv1.Job{running, running, done}, 8},
		{"one replaces the other", batchv1.ReplaceConcurrent, false, []batchv1.Job{running}, 5},
		{"one at a time", batchv1.ForbidConcurrent, false, []batchv1.Job{running}, 3},
		{"one at a time, none yet", batchv1.ForbidConcurrent, false, []batchv1.Job{failed}, 2},
		{"no more to come", "", true, []batchv1.Job{running}, 3},
	} {
		c.Spec.ConcurrencyPolicy, c.Spec.Suspend = tt.policy, &tt.suspend
		if got := needOfCronJob(c, tt.jobs); got != tt.want {
			t.Errorf("CronJob, %s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
