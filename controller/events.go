package controller

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/round"
)

// alarms are the conditions whose becoming true, or for Ready false, is a warning.
var alarms = map[string]metav1.ConditionStatus{
	v1alpha1.PoolReady:       metav1.ConditionFalse,
	v1alpha1.PoolOverlapping: metav1.ConditionTrue,
	v1alpha1.PoolExhausted:   metav1.ConditionTrue,
}

// tellConditions makes an event of each condition that changed. A new pool that is well needs none.
func tellConditions(r round.Recorder, old, pool *v1alpha1.IPPool) {
	for _, c := range pool.Status.Conditions {
		before := meta.FindStatusCondition(old.Status.Conditions, c.Type)
		bad := c.Status == alarms[c.Type]
		switch {
		case before == nil && !bad, before != nil && before.Status == c.Status && before.Reason == c.Reason, c.Status == metav1.ConditionUnknown:
		case bad && c.Type == v1alpha1.PoolReady && c.Reason != reasonMalformed && c.Reason != reasonEmpty:
			// Disabled, deleted: somebody's wish. Exhausted: a condition of its own.
		case bad:
			r.Eventf(pool, nil, corev1.EventTypeWarning, c.Reason, "Observe", "%s", c.Message)
		default:
			r.Eventf(pool, nil, corev1.EventTypeNormal, c.Reason, "Observe", "%s", c.Message)
		}
	}
}
