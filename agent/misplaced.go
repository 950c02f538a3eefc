package agent

import (
	"context"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	nadinformers "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/client/informers/externalversions"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/nad"
)

// followMisplaced warns, from now on, of annotations that no ADD ever reads, since the pod's network does not call Berth.
func (a *Agent) followMisplaced(ctx context.Context) error {
	if _, err := a.nads.Discovery().ServerResourcesForGroupVersion(nadv1.SchemeGroupVersion.String()); err != nil {
		a.log.Warn("this Kubernetes has no NetworkAttachmentDefinitions; install Multus", "err", err)
		return nil
	}
	factory := nadinformers.NewSharedInformerFactory(a.nads, 0)
	nads := factory.K8sCniCncfIo().V1().NetworkAttachmentDefinitions().Informer()
	if err := nads.SetTransform(trim); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), nads.HasSynced) {
		return ctx.Err()
	}
	go a.tellParents(ctx, nads.GetStore())
	config := func(key string) (string, bool) {
		o, ok, _ := nads.GetStore().GetByKey(key)
		if !ok {
			return "", false
		}
		return o.(*nadv1.NetworkAttachmentDefinition).Spec.Config, true
	}
	_, err := a.pods.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(o any) {
		p := o.(*corev1.Pod)
		if p.Status.Phase != corev1.PodPending && p.Status.Phase != "" {
			return // it was looked at when it came; this is a restart of the agent
		}
		for _, note := range nad.Misplaced(p.Annotations, p.Namespace, config) {
			a.warn(p, "AnnotationWithoutEffect", note)
		}
	}})
	return err
}
