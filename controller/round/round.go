// Package round has what the reconcilers of all the controller's packages need in each of their rounds.
package round

import (
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Recorder is the part of events.EventRecorder (events.k8s.io/v1) that is used.
type Recorder interface {
	Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any)
}

// mostNote is what is written of an event's note: the API server refuses an event with more than 1024 bytes of it (events.k8s.io/v1).
const mostNote = 1000

// Brief cuts notes that the API server would refuse with their events.
type Brief struct{ Recorder }

// Eventf implements Recorder.
func (b Brief) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	b.Recorder.Eventf(regarding, related, kind, reason, action, "%s", Cut(fmt.Sprintf(note, args...)))
}

// Cut a text to what fits into a note.
func Cut(s string) string {
	if len(s) > mostNote {
		return strings.ToValidUTF8(s[:mostNote], "") + "…"
	}
	return s
}

// Retry turns a conflict, which is normal among several writers, into another round after a while, and forgives what is gone.
func Retry(err error, after time.Duration) (reconcile.Result, error) {
	if apierrors.IsConflict(err) {
		return reconcile.Result{RequeueAfter: after}, nil
	}
	return reconcile.Result{}, client.IgnoreNotFound(err)
}

// Remaining is what is left of a wait since an object's deletion, at least: a time of deletion is cut to whole seconds, so that it may
// have been almost one later.
func Remaining(wait time.Duration, o client.Object, now time.Time) time.Duration {
	return wait + time.Second - now.Sub(o.GetDeletionTimestamp().Time)
}
