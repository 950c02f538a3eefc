package attachments

import (
	"context"
	"maps"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/nad"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// onAny wakes by what comes, goes or changes in its spec, and by nothing that only changes in its status.
func onAny(wake func(context.Context, queue)) handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, _ event.CreateEvent, q queue) { wake(ctx, q) },
		DeleteFunc: func(ctx context.Context, _ event.DeleteEvent, q queue) { wake(ctx, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			if e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() || gone(e.ObjectOld) != gone(e.ObjectNew) {
				wake(ctx, q)
			}
		},
	}
}

// onAnyStatus wakes by changes of the status, too.
func onAnyStatus(f handler.Funcs) handler.Funcs {
	create := f.CreateFunc
	f.UpdateFunc = func(ctx context.Context, e event.UpdateEvent, q queue) {
		create(ctx, event.CreateEvent{Object: e.ObjectNew}, q)
	}
	return f
}

// onLabels wakes by changes of labels, which is what a Namespace is selected by; its generation does not count them.
func onLabels(f handler.Funcs) handler.Funcs {
	create := f.CreateFunc
	f.UpdateFunc = func(ctx context.Context, e event.UpdateEvent, q queue) {
		if !maps.Equal(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels()) || gone(e.ObjectOld) != gone(e.ObjectNew) {
			create(ctx, event.CreateEvent{Object: e.ObjectNew}, q)
		}
	}
	return f
}

// onParents wakes by what nodes tell of their links.
func onParents(f handler.Funcs) handler.Funcs {
	create := f.CreateFunc
	f.UpdateFunc = func(ctx context.Context, e event.UpdateEvent, q queue) {
		if e.ObjectOld.GetAnnotations()[nad.ParentsAnnotation] != e.ObjectNew.GetAnnotations()[nad.ParentsAnnotation] {
			create(ctx, event.CreateEvent{Object: e.ObjectNew}, q)
		}
	}
	return f
}

func gone(o client.Object) bool { return o.GetDeletionTimestamp() != nil }
