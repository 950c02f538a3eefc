package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/berthdev/berth/agent/proxy"
	"github.com/berthdev/berth/nad"
)

// ServicePathCondition of a Node says whether its macvlan pods have Services, and from whom.
const ServicePathCondition corev1.NodeConditionType = "BerthServicePath"

// SourceGuardCondition of a Node says whether its pods are kept from going around their source guards.
const SourceGuardCondition corev1.NodeConditionType = "BerthSourceGuard"

func fenced(why error) servedBy {
	if why != nil {
		return servedBy{corev1.ConditionFalse, "NotFenced", fmt.Sprintf("pods with NET_RAW or NET_ADMIN can go around their source guards: the kernel takes no programs that keep them from it: %v", why)}
	}
	return servedBy{corev1.ConditionTrue, "Fenced", "pods are kept from going around their source guards"}
}

// servedBy is what a condition says.
type servedBy struct {
	status          corev1.ConditionStatus
	reason, message string
}

func kubeProxy(found proxy.Found) servedBy {
	return servedBy{corev1.ConditionTrue, "KubeProxy", fmt.Sprintf("%s serves Services to macvlan pods", found)}
}

func ownProxy(found proxy.Found) servedBy {
	if found != proxy.Nobody {
		return servedBy{corev1.ConditionTrue, "OwnProxy", fmt.Sprintf("berth-agent serves Services to macvlan pods, before %s", found)}
	}
	return servedBy{corev1.ConditionTrue, "OwnProxy", "berth-agent serves Services to macvlan pods, as no kube-proxy does"}
}

var (
	noProxy = servedBy{corev1.ConditionFalse, "NoProxy",
		"nobody serves Services to macvlan pods: no kube-proxy was found, and berth-agent has --service-proxy=never"}
	noServicePath = servedBy{corev1.ConditionFalse, "NoServicePath", "berth-agent has --service-path=false: macvlan pods have no way to Services"}
)

// tellNode writes a condition, if it is another than the node has.
func (a *Agent) tellNode(client kubernetes.Interface, kind corev1.NodeConditionType) func(context.Context, servedBy) error {
	return func(ctx context.Context, by servedBy) error {
		now := metav1.NewTime(a.cfg.Now())
		want := corev1.NodeCondition{Type: kind, Status: by.status, Reason: by.reason, Message: by.message,
			LastHeartbeatTime: now, LastTransitionTime: now}
		for _, c := range a.pods.thisNode().Status.Conditions {
			if c.Type != want.Type {
				continue
			}
			if c.Status == want.Status && c.Reason == want.Reason && c.Message == want.Message {
				return nil
			}
			if c.Status == want.Status {
				want.LastTransitionTime = c.LastTransitionTime
			}
		}
		return patchCondition(ctx, client, a.cfg.NodeName, want)
	}
}

func patchCondition(ctx context.Context, client kubernetes.Interface, node string, conditions ...any) error {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": conditions}})
	if err != nil {
		return err
	}
	if _, err := client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("conditions of node %q: %w", node, err)
	}
	return nil
}

// forgetPatience is how long cleanup waits for an API server that may be away.
const forgetPatience = 5 * time.Second

// ForgetCondition takes the conditions off a node, and what was told of its links.
func ForgetCondition(ctx context.Context, client kubernetes.Interface, node string) error {
	ctx, cancel := context.WithTimeout(ctx, forgetPatience)
	defer cancel()
	if err := annotateNode(ctx, client.CoreV1().Nodes(), node, map[string]any{nad.ParentsAnnotation: nil, nad.OwnerRoutesAnnotation: nil}); err != nil {
		return err
	}
	return patchCondition(ctx, client, node, map[string]any{"$patch": "delete", "type": ServicePathCondition},
		map[string]any{"$patch": "delete", "type": SourceGuardCondition})
}
