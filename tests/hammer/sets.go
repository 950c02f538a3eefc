package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// set is a StatefulSet, whose controller the hammer plays.
type set struct {
	name     string
	mu       sync.Mutex
	object   *appsv1.StatefulSet
	replicas atomic.Int64
}

const mostReplicas = 3

func setName(i int) string { return fmt.Sprintf("set-%d", i) }

func (w *world) newSet(ctx context.Context, name string) error {
	s := &set{name: name}
	if err := w.makeSet(ctx, s); err != nil {
		return err
	}
	s.replicas.Store(mostReplicas)
	w.sets = append(w.sets, s)
	return nil
}

func (w *world) makeSet(ctx context.Context, s *set) error {
	labels := map[string]string{"set": s.name}
	object := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: s.name}, Spec: appsv1.StatefulSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels}, ServiceName: s.name,
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
	return w.insist(ctx, func() (err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.object, err = w.kube.AppsV1().StatefulSets(namespace).Create(ctx, object, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			s.object, err = w.kube.AppsV1().StatefulSets(namespace).Get(ctx, s.name, metav1.GetOptions{})
		}
		return err
	})
}

// scale a StatefulSet: pods whose ordinal is beyond are not made again.
func (w *world) scale(ctx context.Context, s *set, n int64) {
	s.replicas.Store(n)
	_ = w.insist(ctx, func() error {
		set, err := w.kube.AppsV1().StatefulSets(namespace).Get(ctx, s.name, metav1.GetOptions{})
		if err != nil {
			return unlessGone(err)
		}
		replicas := int32(n)
		set.Spec.Replicas = &replicas
		if _, err = w.kube.AppsV1().StatefulSets(namespace).Update(ctx, set, metav1.UpdateOptions{}); err == nil {
			w.history.add(Event{Kind: Object, Note: fmt.Sprintf("StatefulSet %s scaled to %d", s.name, n)})
		}
		return err
	})
}

// renew a StatefulSet under its name, if its pods go: to its pods the addresses of the former are nothing.
func (w *world) renew(ctx context.Context, s *set) {
	w.scale(ctx, s, 0)
	defer s.replicas.Store(mostReplicas)
	gone, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		pods, err := w.kube.CoreV1().Pods(namespace).List(gone, metav1.ListOptions{})
		if err == nil && !slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return strings.HasPrefix(p.Name, s.name+"-") }) {
			break
		}
		if gone.Err() != nil {
			return
		}
		pause(gone, 100*time.Millisecond)
	}
	if w.insist(ctx, func() error {
		return unlessGone(w.kube.AppsV1().StatefulSets(namespace).Delete(ctx, s.name, metav1.DeleteOptions{}))
	}) == nil && w.makeSet(ctx, s) == nil {
		w.history.add(Event{Kind: Object, Note: fmt.Sprintf("StatefulSet %s made anew", s.name)})
	}
}
