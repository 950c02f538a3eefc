package services

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berthdev/berth/service"
)

// TestCompactList: all pages, of the newest version, and small.
func TestCompactList(t *testing.T) {
	small := newState("node-a", slog.New(slog.DiscardHandler)).specs().Transformer()
	page := func(version, next string, from, to int) *corev1.ServiceList {
		l := &corev1.ServiceList{ListMeta: metav1.ListMeta{ResourceVersion: version, Continue: next}}
		for i := from; i < to; i++ {
			l.Items = append(l.Items, *newService(fmt.Sprint(i), "10.96.0.1"))
		}
		return l
	}
	pages := map[string]*corev1.ServiceList{"": page("7", "a", 0, 2), "a": page("7", "b", 2, 4), "b": page("7", "", 4, 5)}
	var asked []metav1.ListOptions
	got, err := compactList(t.Context(), metav1.ListOptions{ResourceVersion: "0", LabelSelector: "x"}, func(_ context.Context, o metav1.ListOptions) (runtime.Object, error) {
		asked = append(asked, o)
		return pages[o.Continue], nil
	}, small)
	must(t, err)
	list := got.(*internalversion.List)
	var keys []string
	for _, o := range list.Items {
		keys = append(keys, o.(item[*service.Spec]).key)
	}
	if want := []string{"default/0", "default/1", "default/2", "default/3", "default/4"}; !slices.Equal(keys, want) || list.ResourceVersion != "7" {
		t.Errorf("got %v, version %s; want %v", keys, list.ResourceVersion, want)
	}
	for i, next := range []string{"", "a", "b"} {
		if want := (metav1.ListOptions{LabelSelector: "x", Limit: pageSize, Continue: next}); asked[i] != want {
			t.Errorf("page %d: asked %+v, want %+v", i, asked[i], want)
		}
	}
	gone := errors.New("continue token expired")
	if _, err := compactList(t.Context(), metav1.ListOptions{}, func(_ context.Context, o metav1.ListOptions) (runtime.Object, error) {
		if o.Continue != "" {
			return nil, gone
		}
		return pages[""], nil
	}, small); !errors.Is(err, gone) {
		t.Errorf("got %v, want %v", err, gone)
	}
}
