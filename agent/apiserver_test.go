//go:build apiserver

package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// rig is an agent that runs on a node of a real API server, with a service path that only takes notes.
type rig struct {
	*testing.T
	*Agent
	cfg     *rest.Config // an administrator's
	faults  *apitest.Faults
	kube    kubernetes.Interface
	ippools *v1alpha1.PoolClient
	leases  *v1alpha1.LeaseClient
	name    string // of the node, the namespace and the network; prefix of pools
	socket  string
	path    *fakePath
	conf    Config                    // what a test wants other than usual
	stop    func()                    // the agent
	node    string                    // "": name
	guards  func(*Agent) sourceGuards // of the next agent; nil for none
	keeper  hostLinksKeeper           // likewise
	owner   *metav1.OwnerReference    // of the next pods
}

// newRig with pools: each line is "name: spec" in YAML, without its network.
func newRig(t *testing.T, pools ...string) *rig {
	t.Helper()
	r := &rig{T: t, cfg: apitest.Config(t), faults: &apitest.Faults{}, name: apitest.Unique("t"), socket: filepath.Join(t.TempDir(), "run", "agent.sock")}
	r.kube = kubernetes.NewForConfigOrDie(r.cfg)
	var err error
	if r.ippools, r.leases, err = v1alpha1.NewClients(r.cfg); err != nil {
		t.Fatal(err)
	}
	apitest.RemoveLeases(t, r.leases, r.name)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.name, Labels: map[string]string{"zone": "a", "rig": r.name}}}
	if _, err := r.kube.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.name}}
	if _, err := r.kube.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}} // no controller runs to make it
	if _, err := r.kube.CoreV1().ServiceAccounts(r.name).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		err := errors.Join(r.kube.CoreV1().Nodes().Delete(ctx, r.name, metav1.DeleteOptions{}),
			r.kube.CoreV1().Pods(r.name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{}),
			r.kube.CoreV1().Namespaces().Delete(ctx, r.name, metav1.DeleteOptions{}))
		if err != nil {
			t.Error(err)
		}
	})
	for _, p := range pools {
		name, spec, _ := strings.Cut(p, ": ")
		r.pool(name, spec)
	}
	r.start()
	return r
}

func (r *rig) pool(name, spec string) {
	r.Helper()
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: r.name + "-" + name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		r.Fatalf("%v in %s", err, spec)
	}
	p.Spec.Network = r.name
	if p.Spec.NodeAffinity == nil { // other tests' agents are not to see it
		p.Spec.NodeAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{"rig": r.name}}
	}
	if _, err := r.ippools.Create(r.Context(), p, metav1.CreateOptions{}); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if err := r.ippools.Delete(context.Background(), p.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			r.Error(err)
		}
	})
}

// edit a pool, and wait until the agent has seen it.
func (r *rig) edit(name string, f func(*v1alpha1.IPPoolSpec)) {
	r.Helper()
	p, err := r.ippools.Get(r.Context(), r.name+"-"+name, metav1.GetOptions{})
	if err != nil {
		r.Fatal(err)
	}
	f(&p.Spec)
	if p, err = r.ippools.Update(r.Context(), p, metav1.UpdateOptions{}); err != nil {
		r.Fatal(err)
	}
	apitest.Eventually(r, "pool "+p.Name+" is seen", func() error {
		r.pools.mu.Lock()
		defer r.pools.mu.Unlock()
		if c := r.pools.pools[p.Name]; c == nil || c.generation != p.Generation {
			return errors.New("not yet")
		}
		return nil
	})
}

// start an agent, as after a restart, and wait until it is ready.
func (r *rig) start() {
	r.Helper()
	r.launch()
	r.awaitAgent()
}

func (r *rig) awaitAgent() {
	r.Helper()
	apitest.Eventually(r, "the agent is ready", func() error {
		if !r.isReady() {
			return errors.New("not yet")
		}
		return nil
	})
}

// launch an agent, and wait until it serves.
func (r *rig) launch() {
	r.Helper()
	r.path = newFakePath()
	r.conf.NodeName, r.conf.Socket, r.conf.StateDir = cmp.Or(r.node, r.name), r.socket, filepath.Join(filepath.Dir(r.socket), "state")
	log := slog.New(slog.DiscardHandler)
	a, err := newAgent(r.conf, r.faults.Into(r.cfg), r.path, log)
	if r.conf.NoServicePath {
		a, err = New(r.conf, r.faults.Into(r.cfg), log)
	}
	if err != nil {
		r.Fatal(err)
	}
	if r.guards != nil {
		a.guards = r.guards(a)
	}
	if r.keeper != nil {
		a.hostNetworks.keeper = r.keeper
	}
	r.Agent = a
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			r.Error(err)
		}
	})
	r.Cleanup(r.stop)
	apitest.Eventually(r, "the agent serves", func() error { return a.alive(ctx) })
}

// pod on the node, with annotations "key=value".
func (r *rig) pod(name string, annotations ...string) *corev1.Pod {
	r.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}},
		Spec: corev1.PodSpec{NodeName: cmp.Or(r.node, r.name), AutomountServiceAccountToken: new(bool),
			Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, a := range annotations {
		k, v, _ := strings.Cut(a, "=")
		p.Annotations[k] = strings.ReplaceAll(v, "$", r.name+"-")
	}
	if r.owner != nil {
		p.OwnerReferences = []metav1.OwnerReference{*r.owner}
	}
	p, err := r.kube.CoreV1().Pods(r.name).Create(r.Context(), p, metav1.CreateOptions{})
	if err != nil {
		r.Fatal(err)
	}
	return p
}

func (r *rig) deletePod(name string) {
	r.Helper()
	if err := r.kube.CoreV1().Pods(r.name).Delete(r.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		r.Fatal(err)
	}
}

const macvlan = `{"cniVersion": "1.1.0", "name": "vlan910", "type": "macvlan", "master": "eth0", "ipam": {"type": "berth"}}`

// request of the plugin for an interface of a pod's sandbox.
func request(p *corev1.Pod, sandbox, ifName, conf string) *delegate.Request {
	return &delegate.Request{
		ContainerID: sandbox, NetNS: "/run/netns/" + sandbox, IfName: ifName, Config: json.RawMessage(conf), MAC: "02:00:00:00:00:01",
		Args: fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=%s", p.Namespace, p.Name, sandbox, p.UID),
	}
}

// call a verb over the socket, as the plugin does.
func (r *rig) call(ctx context.Context, verb string, req *delegate.Request) (*types100.Result, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.socket)
	}}}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://berth"+verb, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(post)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		e := &delegate.Error{}
		if err := json.NewDecoder(resp.Body).Decode(e); err != nil {
			return nil, err
		}
		return nil, e
	}
	if verb != delegate.PathAdd {
		return nil, nil
	}
	res := &types100.Result{}
	return res, json.NewDecoder(resp.Body).Decode(res)
}

// add an interface of a macvlan network and return its addresses.
func (r *rig) add(p *corev1.Pod, sandbox, ifName string) string {
	r.Helper()
	res, err := r.call(r.Context(), delegate.PathAdd, request(p, sandbox, ifName, macvlan))
	if err != nil {
		r.Fatal(err)
	}
	var out []string
	for _, ip := range res.IPs {
		out = append(out, ip.Address.IP.String())
	}
	return strings.Join(out, " ")
}

func (r *rig) del(p *corev1.Pod, sandbox, ifName string) {
	r.Helper()
	r.delAhead(p, sandbox, ifName)
	r.lock.lock(sandbox, ifName)() // until the API is told
}

// delAhead of the API.
func (r *rig) delAhead(p *corev1.Pod, sandbox, ifName string) {
	r.Helper()
	if _, err := r.call(r.Context(), delegate.PathDel, request(p, sandbox, ifName, macvlan)); err != nil {
		r.Fatal(err)
	}
}

// refused checks an ADD that fails.
func (r *rig) refused(req *delegate.Request, code uint, messages ...string) {
	r.Helper()
	res, err := r.call(r.Context(), delegate.PathAdd, req)
	checkError(r, res, err, code, messages...)
}

func checkError(t testing.TB, res *types100.Result, err error, code uint, messages ...string) {
	t.Helper()
	var e *delegate.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v, %v; want a CNI error of code %d", res, err, code)
	}
	if e.Code != code {
		t.Errorf("code %d, want %d: %s", e.Code, code, e.Msg)
	}
	for _, m := range messages {
		if !strings.Contains(e.Msg, m) {
			t.Errorf("the message lacks %q:\n%s", m, e.Msg)
		}
	}
	if strings.Contains(e.Msg, "\n") {
		t.Errorf("more than one line: %q", e.Msg)
	}
}

// bound leases of the network by the API server: "address pod/interface/sandbox", sorted.
func (r *rig) bound() []string {
	r.Helper()
	list, err := r.leases.List(r.Context(), metav1.ListOptions{FieldSelector: "spec.network=" + r.name + ",spec.phase=Bound"})
	if err != nil {
		r.Fatal(err)
	}
	out := []string{}
	for _, l := range list.Items {
		out = append(out, fmt.Sprintf("%s %s/%s/%s", l.Spec.Address, l.Spec.Holder.Pod, l.Spec.Holder.Interface, l.Spec.Holder.ContainerID))
	}
	slices.Sort(out)
	return out
}

func (r *rig) wantBound(want ...string) {
	r.Helper()
	if got := r.bound(); !slices.Equal(got, want) && len(got)+len(want) > 0 {
		r.Errorf("bound\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// event on the pod.
func (r *rig) event(pod, reason string, notes ...string) {
	r.Helper()
	apitest.Eventually(r, "event "+reason+" on pod "+pod, func() error {
		list, err := r.kube.EventsV1().Events(r.name).List(r.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range list.Items {
			if e.Regarding.Name != pod {
				continue
			}
			seen = append(seen, e.Reason+": "+e.Note)
			if e.Reason == reason && e.Type == corev1.EventTypeWarning && e.ReportingController == "berth-agent" &&
				!slices.ContainsFunc(notes, func(n string) bool { return !strings.Contains(e.Note, n) }) {
				return nil
			}
		}
		return fmt.Errorf("events %q, want %q", seen, notes)
	})
}

// fakePath takes notes of what a service path is told.
type fakePath struct {
	mu        sync.Mutex
	endpoints map[string]bool // "address parent mac"
	synced    []path.Endpoint
	steered   []netip.Prefix
	onAttach  func() error // nil: success
	see       func(path.Sighting)
	watched   map[string]path.Watched
	tenants   path.Tenants
	others    *[]path.OtherNode
}

func newFakePath() *fakePath {
	return &fakePath{endpoints: map[string]bool{}, steered: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}
}

func (f *fakePath) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
func (f *fakePath) SetPrefixes(path.Prefixes)     {}
func (f *fakePath) SetOthers(others []path.OtherNode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.others = &others
}
func (f *fakePath) SetMultihomed([]netip.Addr)            {}
func (f *fakePath) KeptApart() (map[string]uint64, error) { return map[string]uint64{"vmac2": 5}, nil }
func (f *fakePath) SetTenants(t path.Tenants) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tenants = t
}
func (f *fakePath) OnLinks(func([]string) error) {}
func (f *fakePath) Steered() []netip.Prefix      { return f.steered }
func (f *fakePath) Wanted() *path.Wanted         { return nil }
func (f *fakePath) Counters() (map[string]map[string]uint64, error) {
	return map[string]map[string]uint64{"vmac2": {"steered": 7}}, nil
}

func (f *fakePath) Sightings() (map[string]map[string]uint64, error) {
	return map[string]map[string]uint64{"vmac2": {"told": 3}}, nil
}
func (f *fakePath) OnSighting(see func(path.Sighting)) { f.see = see }

func (f *fakePath) SetWatched(w map[string]path.Watched) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watched = w
}

func (f *fakePath) setOnAttach(do func() error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onAttach = do
}

func (f *fakePath) Attach(_ context.Context, eps ...path.Endpoint) error {
	f.mu.Lock()
	on := f.onAttach
	f.mu.Unlock()
	if on != nil {
		if err := on(); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range eps {
		f.endpoints[fmt.Sprint(e.Address, " ", e.Parent, " ", e.MAC)] = true
	}
	return nil
}

func (f *fakePath) Detach(ctx context.Context, eps ...path.Endpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range eps {
		delete(f.endpoints, fmt.Sprint(e.Address, " ", e.Parent, " ", e.MAC))
	}
	return ctx.Err()
}

func (f *fakePath) Sync(_ context.Context, all []path.Endpoint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.synced = all
	return nil
}

func (f *fakePath) list() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.endpoints))
}
