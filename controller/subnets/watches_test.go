package subnets

import (
	"context"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berthdev/berth/api/v1alpha1"
)

// oneBlock is a cache that has one block, whoever asks for which.
type oneBlock struct{ client.Client }

func (oneBlock) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	list.(*v1alpha1.IPBlockList).Items = []v1alpha1.IPBlock{{ObjectMeta: metav1.ObjectMeta{Name: "net.10.6.0.0"}}}
	return nil
}

// TestPoolMadeAnewUnseen: a watch that was away tells of a pool that was deleted and made anew as of one that was edited.
func TestPoolMadeAnewUnseen(t *testing.T) {
	pool := func(uid types.UID, subnet string) *v1alpha1.IPPool {
		p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: uid, Generation: 2}}
		p.Spec.Subnet = subnet
		return p
	}
	c := &Carver{client: oneBlock{}}
	for _, v := range []struct {
		what     string
		old, now *v1alpha1.IPPool
		want     []string
	}{
		{"the same", pool("a", "s"), pool("a", "s"), nil},
		{"made anew", pool("a", "s"), pool("b", "s"), []string{"net.10.6.0.0"}},
		{"made anew, not carved", pool("a", "s"), pool("b", ""), []string{"net.10.6.0.0"}},
		{"made anew, had not been carved", pool("a", ""), pool("b", "s"), nil},
	} {
		q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
		c.blocksOfPool().Update(t.Context(), event.UpdateEvent{ObjectOld: v.old, ObjectNew: v.now}, q)
		var got []string
		for q.Len() > 0 {
			r, _ := q.Get()
			got = append(got, r.Name)
		}
		q.ShutDown()
		if !slices.Equal(got, v.want) {
			t.Errorf("%s: wakes %q, want %q", v.what, got, v.want)
		}
	}
}
