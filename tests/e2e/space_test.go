package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// space is what a test has for itself: a namespace, pools named after it, and addresses that end in its own third byte (IPv4) or
// seventh group (IPv6). When the test ends all of it goes, and no lease of it may stay bound.
type space struct {
	testing.TB
	name  string // of the namespace, and the prefix of its pools
	third int
}

var thirds atomic.Int32

// newSpace for a test that may run beside others.
func newSpace(t *testing.T) *space {
	t.Helper()
	t.Parallel()
	return newOwnSpace(t)
}

// newOwnSpace for a test that disturbs others.
func newOwnSpace(t testing.TB) *space {
	t.Helper()
	name := strings.ToLower(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(strings.TrimPrefix(t.Name(), "Test"), "$1-$2"))
	s := &space{TB: t, name: strings.ReplaceAll(name, "/", "-"), third: 20 + int(thirds.Add(1))}
	must(t, on.Create(t.Context(), s.namespace()))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.dump())
		}
		s.sweep()
	})
	return s
}

func (s *space) namespace() *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.name, Labels: map[string]string{"e2e": s.name}}}
}

// sweep removes everything of the space. Leases that stay bound after their pods went are a leak.
func (s *space) sweep() {
	ctx := context.Background()
	if err := on.Get(ctx, client.ObjectKey{Name: s.name}, &corev1.Namespace{}); err == nil {
		must(s, on.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(s.name)))
	}
	remove(s, s.namespace())
	s.released()
	var pools v1alpha1.IPPoolList
	must(s, on.List(ctx, &pools, client.MatchingLabels{"e2e": s.name}))
	for i := range pools.Items {
		remove(s, &pools.Items[i])
	}
}

// sweepAll removes what an earlier run on this lab has left.
func sweepAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		var left corev1.NamespaceList
		if err := on.List(ctx, &left, client.HasLabels{"e2e"}); err != nil {
			return err
		}
		for i := range left.Items {
			n := &left.Items[i]
			if n.DeletionTimestamp == nil {
				fmt.Printf("e2e: removing namespace %s of an earlier run\n", n.Name)
				if err := on.Delete(ctx, n); client.IgnoreNotFound(err) != nil {
					return err
				}
			}
		}
		if len(left.Items) == 0 {
			break
		}
		time.Sleep(tick)
	}
	return on.DeleteAllOf(ctx, &v1alpha1.IPPool{}, client.HasLabels{"e2e"})
}

// ranges of the space in the subnet of a node's zone: the addresses from..to of it, of both families.
func (s *space) ranges(zone string, from, to int) []v1alpha1.PoolSubnet {
	return []v1alpha1.PoolSubnet{s.v4(zone, from, to), s.v6(zone, from, to)}
}

func (s *space) v4(zone string, from, to int) v1alpha1.PoolSubnet {
	n, other := second(zone)
	return v1alpha1.PoolSubnet{
		CIDR: fmt.Sprintf("10.%d.0.0/16", n), Gateway: fmt.Sprintf("10.%d.0.1", n),
		IPs:    []string{fmt.Sprintf("%s-%s", s.addr4(zone, from), s.addr4(zone, to))},
		Routes: []v1alpha1.Route{{Dst: fmt.Sprintf("10.%d.0.0/16", other)}},
	}
}

func (s *space) v6(zone string, from, to int) v1alpha1.PoolSubnet {
	n, other := second(zone)
	return v1alpha1.PoolSubnet{
		CIDR: fmt.Sprintf("fd00:%d::/64", n), Gateway: fmt.Sprintf("fd00:%d::1", n),
		IPs:    []string{fmt.Sprintf("%s-%s", s.addr6(zone, from), s.addr6(zone, to))},
		Routes: []v1alpha1.Route{{Dst: fmt.Sprintf("fd00:%d::/64", other)}},
	}
}

func (s *space) addr4(zone string, last int) netip.Addr {
	n, _ := second(zone)
	return netip.MustParseAddr(fmt.Sprintf("10.%d.%d.%d", n, s.third, last))
}

func (s *space) addr6(zone string, last int) netip.Addr {
	n, _ := second(zone)
	return netip.MustParseAddr(fmt.Sprintf("fd00:%d::%x:%x", n, s.third, last))
}

// second byte of the zone's addresses, and that of the other zone's.
func second(zone string) (of, other int) {
	if zone == "a" {
		return 6, 7
	}
	return 7, 6
}

// pool makes a pool <space>-<name>, and returns that name.
func (s *space) pool(name string, subnets []v1alpha1.PoolSubnet, mods ...func(*v1alpha1.IPPoolSpec)) string {
	s.Helper()
	p := &v1alpha1.IPPool{Spec: v1alpha1.IPPoolSpec{Subnets: subnets}}
	p.Name, p.Labels = s.name+"-"+name, map[string]string{"e2e": s.name}
	for _, m := range mods {
		m(&p.Spec)
	}
	must(s, on.Create(s.Context(), p))
	return p.Name
}

// editPool changes a pool, as kubectl edit would.
func (s *space) editPool(name string, edit func(*v1alpha1.IPPoolSpec)) {
	s.Helper()
	eventually(s, patience, "edit pool "+name, func(ctx context.Context) error {
		var p v1alpha1.IPPool
		if err := on.Get(ctx, client.ObjectKey{Name: name}, &p); err != nil {
			return err
		}
		edit(&p.Spec)
		return on.Update(ctx, &p)
	})
}

func nodesOf(zone string) func(*v1alpha1.IPPoolSpec) {
	return func(p *v1alpha1.IPPoolSpec) { p.NodeAffinity = selector("zone", zone) }
}

func selector(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

// underlay makes a network attachment definition of type macvlan on eth0; ipam is added to {"type":"berth"}.
func (s *space) underlay(name string, ipam map[string]any) {
	s.Helper()
	section := map[string]any{"type": "berth"}
	for k, v := range ipam {
		section[k] = v
	}
	s.attachment(name, map[string]any{"master": "eth0", "ipam": section})
}

// attachment makes a network attachment definition of type macvlan; keys are added to its configuration.
func (s *space) attachment(name string, keys map[string]any) {
	s.Helper()
	conf := map[string]any{"cniVersion": "1.0.0", "name": name, "type": "macvlan", "mode": "bridge"}
	for k, v := range keys {
		conf[k] = v
	}
	text, err := json.Marshal(conf)
	must(s, err)
	must(s, on.Create(s.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
		"metadata": map[string]any{"name": name, "namespace": s.name},
		"spec":     map[string]any{"config": string(text)},
	}}))
}

// Annotations of pods.
const (
	networks       = "k8s.v1.cni.cncf.io/networks"
	networkStatus  = "k8s.v1.cni.cncf.io/network-status"
	defaultNetwork = "v1.multus-cni.io/default-network"
	ippool         = "berth.dev/ippool"
	ippools        = "berth.dev/ippools"
	steering       = "berth.dev/steering"
)

// podOption shapes a pod, or the pods of a template.
type podOption func(*corev1.PodTemplateSpec)

func onNode(n node) podOption {
	return func(p *corev1.PodTemplateSpec) {
		p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: string(n)}
	}
}

func note(key, value string) podOption {
	return func(p *corev1.PodTemplateSpec) { metav1.SetMetaDataAnnotation(&p.ObjectMeta, key, value) }
}

// probed pods are ready only once the kubelet has reached them.
func probed(p *corev1.PodTemplateSpec) {
	p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: port(8080)}},
		PeriodSeconds: 1, TimeoutSeconds: 5,
	}
}

// secondOf gives a pod the attachment underlay as net1, with an address of the pools.
func secondOf(pools ...string) podOption {
	return func(p *corev1.PodTemplateSpec) {
		note(networks, "underlay")(p)
		note(ippool, strings.Join(pools, ", "))(p)
	}
}

// firstOf makes the attachment underlay a pod's default network, with an address of the pools.
func (s *space) firstOf(pools ...string) podOption {
	return func(p *corev1.PodTemplateSpec) {
		note(defaultNetwork, s.name+"/underlay")(p)
		note(ippool, strings.Join(pools, ", "))(p)
	}
}

// template of a pod of the test image.
func template(name string, options ...podOption) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			// Not 0, with which a pod's object is gone before its sandbox is.
			TerminationGracePeriodSeconds: new(int64(1)),
			AutomountServiceAccountToken:  new(false),
			Containers: []corev1.Container{{
				Name: "app", Image: "docker.io/berthdev/testapp:dev", ImagePullPolicy: corev1.PullNever,
				Env: []corev1.EnvVar{{Name: "NODE_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}}},
			}},
		},
	}
	for _, o := range options {
		o(&t)
	}
	return t
}

// pod is made, and returned at once.
func (s *space) pod(name string, options ...podOption) *corev1.Pod {
	s.Helper()
	t := template(name, options...)
	t.Name, t.Namespace = name, s.name
	p := &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
	must(s, on.Create(s.Context(), p))
	return p
}

// start a pod and wait until it is ready.
func (s *space) start(name string, options ...podOption) *corev1.Pod {
	s.Helper()
	return s.ready(s.pod(name, options...))
}

// ready waits until a pod is, and returns it as it is then.
func (s *space) ready(p *corev1.Pod) *corev1.Pod {
	s.Helper()
	eventually(s, patience, "pod "+p.Name+" is ready", func(ctx context.Context) error {
		if err := on.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		return notReady(p)
	})
	return p
}

// readyPods waits for n pods of an app, and nothing else of it, to be ready.
func (s *space) readyPods(app string, n int, limit time.Duration) []corev1.Pod {
	s.Helper()
	var list corev1.PodList
	eventually(s, limit, fmt.Sprintf("%d pods of %s are ready", n, app), func(ctx context.Context) error {
		if err := on.List(ctx, &list, client.InNamespace(s.name), client.MatchingLabels{"app": app}); err != nil {
			return err
		}
		ready, other := 0, ""
		for i := range list.Items {
			if p := &list.Items[i]; p.DeletionTimestamp != nil {
				other += " " + p.Name + " is terminating;"
			} else if err := notReady(p); err != nil {
				other += " " + err.Error() + ";"
			} else {
				ready++
			}
		}
		if ready != n || other != "" {
			return fmt.Errorf("%d are ready,%s", ready, other)
		}
		return nil
	})
	return list.Items
}

// exec a command in a pod.
func (s *space) exec(p *corev1.Pod, args ...string) (string, error) {
	s.Helper()
	return kubectl(s, "", append([]string{"-n", s.name, "exec", p.Name, "--"}, args...)...)
}

// reach says that all requests, each a command line for testapp, succeed from the pod, and returns their answers.
func (s *space) reach(p *corev1.Pod, requests ...string) []string {
	s.Helper()
	var script strings.Builder
	for _, r := range requests {
		fmt.Fprintf(&script, "o=$(testapp %s 2>&1) || echo FAILED %q; echo $o;", r, r)
	}
	var lines []string
	eventually(s, 40*time.Second, "requests from pod "+p.Name, func(context.Context) error {
		out, err := s.exec(p, "sh", "-c", script.String())
		if err != nil {
			return err
		}
		if strings.Contains(out, "FAILED") {
			var failed []string
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, "FAILED") {
					failed = append(failed, strings.TrimSpace(line))
				}
			}
			return fmt.Errorf("%d of %d failed:\n%s\n%s", len(failed), len(requests), strings.Join(failed, "\n"), out)
		}
		lines = strings.Split(strings.TrimSpace(out), "\n")
		return nil
	})
	return lines
}

// leases that name a pod of the space, in any phase.
func (s *space) leases(ctx context.Context) ([]v1alpha1.IPLease, error) {
	var list v1alpha1.IPLeaseList
	err := on.List(ctx, &list, client.MatchingLabels{v1alpha1.LabelNamespace: s.name})
	return list.Items, err
}

// bound leases of the space, by address.
func (s *space) bound() map[netip.Addr]v1alpha1.IPLease {
	s.Helper()
	all, err := s.leases(context.Background())
	must(s, err)
	out := map[netip.Addr]v1alpha1.IPLease{}
	for _, l := range all {
		if l.Spec.Phase == v1alpha1.LeaseBound {
			out[netip.MustParseAddr(l.Spec.Address)] = l
		}
	}
	return out
}

// boundTo returns the addresses bound to an interface of a pod, IPv4 first, with their leases.
func (s *space) boundTo(p *corev1.Pod, ifName string) (addrs []netip.Addr, leases []v1alpha1.IPLease) {
	s.Helper()
	for a, l := range s.bound() {
		if l.Spec.Holder.UID == p.UID && l.Spec.Holder.Interface == ifName {
			if a.Is4() {
				addrs, leases = append([]netip.Addr{a}, addrs...), append([]v1alpha1.IPLease{l}, leases...)
			} else {
				addrs, leases = append(addrs, a), append(leases, l)
			}
		}
	}
	return addrs, leases
}

// poolOf an interface of a ready pod: that of all its leases.
func (s *space) poolOf(p *corev1.Pod, ifName string) string {
	s.Helper()
	_, leases := s.boundTo(p, ifName)
	if len(leases) == 0 {
		s.Fatalf("pod %s is ready, but no lease is bound to its %s", p.Name, ifName)
	}
	for _, l := range leases {
		if l.Spec.Pool != leases[0].Spec.Pool {
			s.Fatalf("interface %s of pod %s has leases of pools %s and %s", ifName, p.Name, leases[0].Spec.Pool, l.Spec.Pool)
		}
	}
	return leases[0].Spec.Pool
}

// released waits until no lease of the space is bound.
func (s *space) released() {
	s.Helper()
	var last string
	for deadline := time.Now().Add(patience); ; time.Sleep(tick) {
		last = ""
		for a, l := range s.bound() {
			last += fmt.Sprintf(" %s (pod %s, sandbox %s);", a, l.Spec.Holder.Pod, l.Spec.Holder.ContainerID)
		}
		if last == "" {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("leases are still bound %v after their pods were deleted:%s", patience, last)
		}
	}
}

// refused waits until the kubelet and the agent both say, in an event on the pod, that it got no address and why.
func (s *space) refused(p *corev1.Pod, words ...string) {
	s.Helper()
	s.event(p, "FailedCreatePodSandBox", words...)
	s.event(p, "AddressNotAssigned", words...)
	if err := on.Get(s.Context(), client.ObjectKeyFromObject(p), p); err != nil || p.Status.Phase != corev1.PodPending {
		s.Fatalf("pod %s is %s (%v), though it got no address", p.Name, p.Status.Phase, err)
	}
}

// event waits for a warning event on the pod with all of the words in its note.
func (s *space) event(p *corev1.Pod, reason string, words ...string) {
	s.Helper()
	eventually(s, patience, fmt.Sprintf("event %s on pod %s with %q", reason, p.Name, words), func(ctx context.Context) error {
		var list eventsv1.EventList
		if err := on.List(ctx, &list, client.InNamespace(s.name)); err != nil {
			return err
		}
		var seen []string
	events:
		for _, e := range list.Items {
			if e.Regarding.UID != p.UID {
				continue
			}
			seen = append(seen, e.Reason+": "+e.Note)
			if e.Reason != reason || e.Type != corev1.EventTypeWarning {
				continue
			}
			for _, w := range words {
				if !strings.Contains(e.Note, w) {
					continue events
				}
			}
			return nil
		}
		return fmt.Errorf("its events are:\n%s", strings.Join(seen, "\n"))
	})
}

// dump what there is to know of a failure.
func (s *space) dump() string {
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, args := range [][]string{
		{"-n", s.name, "get", "pods", "-o", "wide"},
		{"-n", s.name, "get", "events", "--sort-by=.lastTimestamp"},
		{"get", "ippools", "-o", "wide"},
		{"get", "ipleases", "-l", v1alpha1.LabelNamespace + "=" + s.name, "-o", "wide"},
		{"-n", berthNamespace, "get", "pods", "-o", "wide"},
		{"-n", berthNamespace, "logs", "-l", "app.kubernetes.io/component=agent", "--prefix", "--tail=60"},
		{"-n", berthNamespace, "logs", "-l", "app.kubernetes.io/component=controller", "--prefix", "--tail=30"},
	} {
		text, _ := on.lab.kubectl(ctx, args...).CombinedOutput()
		fmt.Fprintf(&out, "--- kubectl %s\n%s", strings.Join(args, " "), text)
	}
	return out.String()
}

// exists says whether the object does.
func exists(ctx context.Context, o client.Object) bool {
	return !apierrors.IsNotFound(on.Get(ctx, client.ObjectKeyFromObject(o), o))
}

func disable(p *v1alpha1.IPPoolSpec) { p.Disabled = true }
