package e2e

import (
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// as is the space in a subtest.
func (s *space) as(t *testing.T) *space { return &space{t, s.name, s.third} }

func (s *space) daemonSet(name string, options ...podOption) {
	s.Helper()
	must(s, on.Create(s.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.name},
		Spec:       appsv1.DaemonSetSpec{Selector: selector("app", name), Template: template(name, options...)},
	}))
}

func (s *space) deployment(name string, replicas int32, options ...podOption) *appsv1.Deployment {
	s.Helper()
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.name},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector("app", name), Template: template(name, options...)},
	}
	must(s, on.Create(s.Context(), d))
	return d
}

// scale a deployment.
func (s *space) scale(name string, replicas int32) {
	s.Helper()
	eventually(s, patience, "scale "+name, func(ctx context.Context) error {
		var d appsv1.Deployment
		if err := on.Get(ctx, client.ObjectKey{Namespace: s.name, Name: name}, &d); err != nil {
			return err
		}
		d.Spec.Replicas = &replicas
		return on.Update(ctx, &d)
	})
}

// deletePods of an app, which its controller makes anew.
func (s *space) deletePods(app string) {
	s.Helper()
	must(s, on.DeleteAllOf(s.Context(), &corev1.Pod{}, client.InNamespace(s.name), client.MatchingLabels{"app": app}))
}

// service of both families with the pod, and no other, as its backend.
func (s *space) service(name string, p *corev1.Pod) {
	s.Helper()
	patch := client.MergeFrom(p.DeepCopy())
	metav1.SetMetaDataLabel(&p.ObjectMeta, "backend-of", name)
	must(s, on.Patch(s.Context(), p, patch))
	s.serve(name, map[string]string{"backend-of": name})
}

// serve a selector of pods by a Service of both families, at these ports, or at those of testapp that answer most.
func (s *space) serve(name string, pods map[string]string, ports ...corev1.ServicePort) *corev1.Service {
	s.Helper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.name},
		Spec: corev1.ServiceSpec{
			Selector: pods, IPFamilyPolicy: new(corev1.IPFamilyPolicyRequireDualStack),
			Ports: ports,
		},
	}
	if len(ports) == 0 {
		svc.Spec.Ports = []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: port(8080)},
			{Name: "udp", Port: 8081, TargetPort: port(8081), Protocol: corev1.ProtocolUDP},
		}
	}
	must(s, on.Create(s.Context(), svc))
	return svc
}

func port(n int32) intstr.IntOrString { return intstr.FromInt32(n) }

func metaOf(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}
