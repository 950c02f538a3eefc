package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	"github.com/vishvananda/netlink"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/nad"
)

// parentsInterval is how often the links are looked at that networks name as their master.
const parentsInterval = 5 * time.Second

// tellParents by an annotation of the node which of the links that networks name it has, so that the controller can say of a network what is
// wrong with it before its first pod. It is for people: nothing depends on it, so an error is tried again and no more.
func (a *Agent) tellParents(ctx context.Context, nads cache.Store) {
	var told error
	for {
		err := a.tellParentsOnce(ctx, nads)
		if err != nil && told == nil && ctx.Err() == nil {
			a.log.Warn("what networks name as master is not told; will try again", "err", err)
		}
		told = err
		select {
		case <-ctx.Done():
			return
		case <-time.After(parentsInterval):
		}
	}
}

func (a *Agent) tellParentsOnce(ctx context.Context, nads cache.Store) error {
	links := map[string]nad.Link{}
	for _, o := range nads.List() {
		for _, name := range nad.Masters(o.(*nadv1.NetworkAttachmentDefinition).Spec.Config) {
			if _, ok := links[name]; ok {
				continue
			}
			l, known, err := a.parentLink(name)
			if err != nil {
				return err
			}
			if known {
				links[name] = l
			}
		}
	}
	node := a.pods.thisNode()
	was, ok := node.Annotations[nad.ParentsAnnotation]
	is := nad.FormatParents(links)
	if is == was && ok == (is != "") {
		return nil
	}
	var value any // null removes it
	if is != "" {
		value = is
	}
	return annotateNode(ctx, a.nodes, node.Name, map[string]any{nad.ParentsAnnotation: value})
}

// annotateNode with these values; nil removes one.
func annotateNode(ctx context.Context, nodes corev1client.NodeInterface, node string, annotations map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return err
	}
	if _, err = nodes.Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("annotations %s of node %q: %w", slices.Sorted(maps.Keys(annotations)), node, err)
	}
	return nil
}

// parentLink as the kernel has it; its VLAN as an ADD would find it.
func (a *Agent) parentLink(name string) (l nad.Link, known bool, err error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nad.Link{Missing: true}, true, nil
	}
	if err != nil {
		return nad.Link{}, false, err
	}
	parent, err := a.vlanOf(&delegate.Config{Type: "macvlan", Parent: name})
	if err != nil {
		return nad.Link{}, false, err
	}
	return nad.Link{MTU: link.Attrs().MTU, VLAN: parent.VLAN}, true, nil
}
