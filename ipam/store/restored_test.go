package store

import (
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/berthdev/berth/api/v1alpha1"
)

func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		err  *apierrors.StatusError
		want bool
	}{
		"expired":   {apierrors.NewResourceExpired("too old"), true},
		"forbidden": {apierrors.NewForbidden(v1alpha1.GroupVersion.WithResource("ipleases").GroupResource(), "", nil), false},
	} {
		t.Run(name, func(t *testing.T) {
			var refused atomic.Bool
			if _, err := refusals(&refused)(nil, tt.err); err == nil || refused.Load() != tt.want {
				t.Errorf("at the beginning: %v, noted %t", err, refused.Load())
			}
			refused.Store(false)
			fake := watch.NewFakeWithChanSize(1, false)
			w, err := refusals(&refused)(fake, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			fake.Error(&tt.err.ErrStatus)
			if e := <-w.ResultChan(); e.Type != watch.Error || refused.Load() != tt.want {
				t.Errorf("later: %v, noted %t", e, refused.Load())
			}
		})
	}
}
