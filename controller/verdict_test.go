package controller

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

func TestJudge(t *testing.T) {
	runs := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	never := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}
	ok := node("n", corev1.ConditionTrue)
	lost := node("n", corev1.ConditionUnknown)
	down := node("n", corev1.ConditionUnknown, corev1.TaintNodeUnreachable, corev1.TaintNodeOutOfService)

	mirror := pod("p", "mirror", corev1.PodRunning)
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "u"}
	deleting := pod("p", "u", corev1.PodRunning, runs)
	deleting.DeletionTimestamp = deleting.CreationTimestamp.DeepCopy()
	sidecar := pod("p", "u", corev1.PodSucceeded, ended)
	sidecar.Status.InitContainerStatuses = []corev1.ContainerStatus{{State: runs}}
	debugged := pod("p", "u", corev1.PodSucceeded, ended)
	debugged.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{State: runs}}

	without := func(change func(*v1alpha1.LeaseHolder)) *v1alpha1.IPLease {
		l := held("10.6.0.1", "p", "u")
		change(l.Spec.Holder)
		return &l
	}
	none := held("10.6.0.1", "p", "u")
	none.Spec.Holder = nil
	l := held("10.6.0.1", "p", "u")

	for _, tc := range []struct {
		name  string
		lease *v1alpha1.IPLease
		pod   *corev1.Pod
		node  *corev1.Node
		want  finding
	}{
		{"running", &l, pod("p", "u", corev1.PodRunning, runs), ok, finding{live, ""}},
		{"pending", &l, pod("p", "u", corev1.PodPending), ok, finding{live, ""}},
		{"unknown", &l, pod("p", "u", corev1.PodUnknown), lost, finding{live, ""}},
		{"being deleted", &l, deleting, ok, finding{live, ""}},
		{"running, node lost", &l, pod("p", "u", corev1.PodRunning, runs), lost, finding{live, ""}},
		{"running, node gone", &l, pod("p", "u", corev1.PodRunning, runs), nil, finding{live, ""}},
		{"static pod", &l, mirror, ok, finding{live, ""}},

		{"gone", &l, nil, ok, finding{dead, podGone}},
		{"gone with its node", &l, nil, nil, finding{dead, podGone}},
		{"gone, node lost", &l, nil, lost, finding{doubt, nodeNotReady}},
		{"gone, node vouched down", &l, nil, down, finding{dead, podGone}},
		{"same name, other pod", &l, pod("p", "v", corev1.PodRunning, runs), ok, finding{dead, podReplaced}},
		{"same name, other pod, node lost", &l, pod("p", "v", corev1.PodRunning, runs), lost, finding{doubt, nodeNotReady}},

		{"succeeded", &l, pod("p", "u", corev1.PodSucceeded, ended, ended), ok, finding{dead, podFinished}},
		{"failed", &l, pod("p", "u", corev1.PodFailed, ended), ok, finding{dead, podFinished}},
		{"failed, one never started", &l, pod("p", "u", corev1.PodFailed, ended, never), ok, finding{dead, podFinished}},
		{"called failed, still runs", &l, pod("p", "u", corev1.PodFailed, ended, runs), ok, finding{live, ""}},
		{"sidecar runs", &l, sidecar, ok, finding{live, ""}},
		{"debugger runs", &l, debugged, ok, finding{live, ""}},
		{"failed, nothing known", &l, pod("p", "u", corev1.PodFailed), ok, finding{doubt, noContainers}},

		{"no holder", &none, nil, ok, finding{doubt, noHolder}},
		{"no pod", without(func(h *v1alpha1.LeaseHolder) { h.Pod = "" }), nil, ok, finding{doubt, noHolder}},
		{"no namespace", without(func(h *v1alpha1.LeaseHolder) { h.Namespace = "" }), nil, ok, finding{doubt, noHolder}},
		{"no UID", without(func(h *v1alpha1.LeaseHolder) { h.UID = "" }), nil, ok, finding{doubt, noPodUID}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := judge(tc.lease.Spec.Holder, tc.pod, tc.node); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// What the cache keeps of pods and nodes must do for judge.
func TestStripKeepsWhatJudgeReads(t *testing.T) {
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}}
	runs := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	mirror := pod("p", "m", corev1.PodFailed, ended)
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "u", "large": "text"}
	l := held("10.6.0.1", "p", "u")
	for _, p := range []*corev1.Pod{
		pod("p", "u", corev1.PodRunning, runs), pod("p", "u", corev1.PodFailed, ended), pod("p", "u", corev1.PodFailed, ended, runs),
		pod("p", "u", corev1.PodFailed), pod("p", "v", corev1.PodRunning), mirror,
	} {
		for _, n := range []*corev1.Node{node("n", corev1.ConditionTrue), node("n", corev1.ConditionFalse), node("n", corev1.ConditionUnknown, corev1.TaintNodeOutOfService)} {
			p.Spec.NodeName = "n"
			sp, err := stripPod(p)
			if err != nil {
				t.Fatal(err)
			}
			sn, err := stripNode(n)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := judge(l.Spec.Holder, p, n), judge(l.Spec.Holder, sp.(*corev1.Pod), sn.(*corev1.Node)); a != b {
				t.Errorf("%s %s: %v before, %v after", p.UID, p.Status.Phase, a, b)
			}
			if sp.(*corev1.Pod).Annotations["large"] != "" || sp.(*corev1.Pod).Spec.NodeName != "" {
				t.Error("the cache keeps more than needed")
			}
		}
	}
}
