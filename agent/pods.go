package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam/store"
)

// pods follows this node, its pods, and the namespaces.
type pods struct {
	client     kubernetes.Interface
	nodeName   string
	factories  []informers.SharedInformerFactory
	pods       cache.SharedIndexInformer
	node       cache.SharedIndexInformer
	namespaces cache.SharedIndexInformer
}

func newPods(client kubernetes.Interface, node string) *pods {
	narrowed := func(field string) informers.SharedInformerFactory {
		return informers.NewSharedInformerFactoryWithOptions(client, 0,
			informers.WithTransform(trim),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) {
				o.FieldSelector = fields.OneTermEqualSelector(field, node).String()
			}))
	}
	ofNode, self := narrowed("spec.nodeName"), narrowed("metadata.name")
	all := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trim))
	return &pods{
		client:     client,
		nodeName:   node,
		factories:  []informers.SharedInformerFactory{ofNode, self, all},
		pods:       ofNode.Core().V1().Pods().Informer(),
		node:       self.Core().V1().Nodes().Informer(),
		namespaces: all.Core().V1().Namespaces().Informer(),
	}
}

// trim what is not read here: of a node its status, but for Berth's conditions; of a pod, all but its metadata, its phase, node, addresses and grace period.
func trim(o any) (any, error) {
	switch o := o.(type) {
	case *corev1.Pod:
		o.ManagedFields = nil
		o.Spec = corev1.PodSpec{NodeName: o.Spec.NodeName, TerminationGracePeriodSeconds: o.Spec.TerminationGracePeriodSeconds}
		o.Status = corev1.PodStatus{Phase: o.Status.Phase, PodIPs: o.Status.PodIPs}
	case *corev1.Node:
		o.ManagedFields = nil
		o.Status = corev1.NodeStatus{Conditions: slices.DeleteFunc(o.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type != ServicePathCondition && c.Type != SourceGuardCondition
		})}
	case metav1.Object:
		o.SetManagedFields(nil)
	}
	return o, nil
}

// run the watches until ctx ends.
func (p *pods) run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, f := range p.factories {
		f.StartWithContext(ctx)
		wg.Go(func() { <-ctx.Done(); f.Shutdown() })
	}
	wg.Wait()
	return nil
}

// wait until all is known.
func (p *pods) wait(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), p.pods.HasSynced, p.node.HasSynced, p.namespaces.HasSynced) {
		return ctx.Err()
	}
	return nil
}

// thisNode as it is known; empty if it is not.
func (p *pods) thisNode() *corev1.Node {
	if o, ok, _ := p.node.GetStore().GetByKey(p.nodeName); ok {
		return o.(*corev1.Node)
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: p.nodeName}}
}

// pod that the arguments name. The watch has it as a rule; only if not is the API asked.
func (p *pods) pod(ctx context.Context, args delegate.Args) (*corev1.Pod, error) {
	if args.Pod == "" || args.Namespace == "" {
		return nil, badRequest{fmt.Errorf("CNI_ARGS name no pod: K8S_POD_NAMESPACE %q, K8S_POD_NAME %q; call the plugin from a Kubernetes runtime or set them", args.Namespace, args.Pod)}
	}
	key := args.Namespace + "/" + args.Pod
	if o, ok, _ := p.pods.GetStore().GetByKey(key); ok && isPod(o.(*corev1.Pod), args.UID) {
		return o.(*corev1.Pod), nil
	}
	pod, err := p.client.CoreV1().Pods(args.Namespace).Get(ctx, args.Pod, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, badRequest{fmt.Errorf("pod %s does not exist; it was deleted while its sandbox was made", key)}
	case err != nil:
		return nil, fmt.Errorf("%w: read pod %s: %w", store.ErrUnavailable, key, err)
	case !isPod(pod, args.UID):
		return nil, badRequest{fmt.Errorf("pod %s has UID %s by now, not %s; its sandbox is of an earlier pod of that name", key, pod.UID, args.UID)}
	}
	return pod, nil
}

// isPod says whether uid, as the kubelet gives it to the runtime, is the pod's. The kubelet knows a static pod by a UID of its own,
// which its mirror pod in the API has as an annotation.
func isPod(p *corev1.Pod, uid string) bool {
	return uid == "" || string(p.UID) == uid || p.Annotations[corev1.MirrorPodAnnotationKey] == uid
}

// namespace of a pod; the watch has it, since a pod can only be in a namespace that was there before.
func (p *pods) namespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	if o, ok, _ := p.namespaces.GetStore().GetByKey(name); ok {
		return o.(*corev1.Namespace), nil
	}
	ns, err := p.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("%w: read namespace %s: %w", store.ErrUnavailable, name, err)
	}
	return ns, nil
}

// Why a pod's addresses are free. Finished pods have no sandbox, yet keep their object.
const (
	podGone     = "PodGone"
	podReplaced = "PodReplaced" // by one of its name
	podFinished = "PodFinished"
)

// gone says, by the API's own word, that a pod's addresses are free.
func (p *pods) gone(ctx context.Context, namespace, name, uid string) (bool, error) {
	reason, err := p.end(ctx, namespace, name, uid)
	return reason != "", err
}

// end of a pod, by the API's own word: why its addresses are free; "" if they are not.
func (p *pods) end(ctx context.Context, namespace, name, uid string) (reason string, err error) {
	pod, err := p.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return podGone, nil
	case err != nil:
		return "", fmt.Errorf("%w: read pod %s/%s: %w", store.ErrUnavailable, namespace, name, err)
	}
	return endOf(pod, uid), nil
}

// seemsLive says whether the watch shows the pod, not finished.
func (p *pods) seemsLive(namespace, name, uid string) bool {
	o, ok, _ := p.pods.GetStore().GetByKey(namespace + "/" + name)
	return ok && endOf(o.(*corev1.Pod), uid) == ""
}

// annotations of a pod that the watch shows; nil if it does not.
func (p *pods) annotations(namespace, name, uid string) map[string]string {
	o, ok, _ := p.pods.GetStore().GetByKey(namespace + "/" + name)
	if !ok || !isPod(o.(*corev1.Pod), uid) {
		return nil
	}
	return o.(*corev1.Pod).Annotations
}

func endOf(pod *corev1.Pod, uid string) string {
	switch {
	case !isPod(pod, uid):
		return podReplaced
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return podFinished
	}
	return ""
}

// holderGone says, by the API's own word, that nothing of a pod runs any more, though nobody gave its address back: its object is gone
// or finished, and so is its node, or somebody vouches for that being down. On any other node its kubelet may yet have to learn of it.
func (p *pods) holderGone(ctx context.Context, h *v1alpha1.LeaseHolder) (bool, error) {
	gone, err := p.gone(ctx, h.Namespace, h.Pod, string(h.UID))
	if err != nil || !gone {
		return false, err
	}
	return p.nodeGone(ctx, h.Node)
}

// nodeGone says, by the API's own word, that a node is no more, or that somebody vouches for its being down.
func (p *pods) nodeGone(ctx context.Context, name string) (bool, error) {
	node, err := p.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("%w: read node %s: %w", store.ErrUnavailable, name, err)
	}
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }), nil
}
