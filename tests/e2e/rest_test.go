package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/tests/tokens"
)

// management is the REST API of the controller that is installed, as somebody with a token has it.
type management struct {
	*space
	url   string
	http  *http.Client
	token string
}

// management through a port of this machine, as the user guide does it without a certificate: the public key is one that a controller logged.
func (s *space) management() *management {
	s.Helper()
	log, err := kubectl(s, "", "-n", berthNamespace, "logs", "-l", "app.kubernetes.io/component=controller", "--tail=-1")
	must(s, err)
	var pins []string
	for _, found := range regexp.MustCompile(`sha256//([A-Za-z0-9+/]{43}=)`).FindAllStringSubmatch(log, -1) {
		pins = append(pins, found[1])
	}
	ctx, cancel := context.WithCancel(context.Background())
	forward := on.lab.kubectl(ctx, "-n", berthNamespace, "port-forward", "service/berth-rest", ":443")
	out, err := forward.StdoutPipe()
	must(s, err)
	must(s, forward.Start())
	s.Cleanup(func() { cancel(); _ = forward.Wait() }) // killed
	lines := bufio.NewScanner(out)
	found := regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) `)
	for lines.Scan() && !found.MatchString(lines.Text()) {
	}
	at := found.FindStringSubmatch(lines.Text())
	if at == nil {
		s.Fatalf("kubectl port-forward: %q, %v", lines.Text(), lines.Err())
	}
	pinned := func(c tls.ConnectionState) error {
		sum := sha256.Sum256(c.PeerCertificates[0].RawSubjectPublicKeyInfo)
		pin := base64.StdEncoding.EncodeToString(sum[:])
		if !strings.Contains(strings.Join(pins, " "), pin) {
			return fmt.Errorf("the server's key is %s, controllers logged %q", pin, pins)
		}
		return nil
	}
	return &management{space: s, url: "https://" + at[1], http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyConnection: pinned}}}}
}

// as somebody else.
func (m *management) as(token string) *management {
	out := *m
	out.token = token
	return &out
}

// account of the space, and a token of it.
func (s *space) account(name string) (token string) {
	s.Helper()
	for _, verb := range [][]string{{"create", "serviceaccount", name}, {"create", "token", name}} {
		out, err := kubectl(s, "", append([]string{"-n", s.name}, verb...)...)
		must(s, err)
		token = strings.TrimSpace(out)
	}
	return token
}

// said is an answer: an object, a list of them, or a problem.
type said struct {
	State, WaitsFor string
	Gone            bool
	Take            []string
	Items           []said
	Spec            v1alpha1.IPLeaseSpec
	Lease           *struct{ Spec v1alpha1.IPLeaseSpec }
	Families        []struct{ Free string }
}

// try a request. A status other than that is an error, and so is an answer without one of the words.
func (m *management) try(status int, method, path string, body any, words ...string) (out said, err error) {
	text, err := json.Marshal(body)
	if s, ok := body.(string); ok {
		text = []byte(s)
	}
	if err != nil {
		return out, err
	}
	r, err := http.NewRequestWithContext(m.Context(), method, m.url+path, bytes.NewReader(text))
	if err != nil {
		return out, err
	}
	if m.token != "" {
		r.Header.Set("Authorization", "Bearer "+m.token)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := m.http.Do(r)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return out, err
	}
	if resp.StatusCode != status {
		return out, fmt.Errorf("%s %s: status %d, want %d: %s", method, path, resp.StatusCode, status, data)
	}
	for _, w := range words {
		if !strings.Contains(string(data), w) {
			return out, fmt.Errorf("%s %s: %q is not in %s", method, path, w, data)
		}
	}
	return out, json.Unmarshal(data, &out)
}

func (m *management) ask(status int, method, path string, body any, words ...string) said {
	m.Helper()
	out, err := m.try(status, method, path, body, words...)
	must(m, err)
	return out
}

// eventually the request has that answer.
func (m *management) eventually(status int, method, path string, words ...string) {
	m.Helper()
	eventually(m, returned, method+" "+path, func(context.Context) error {
		_, err := m.try(status, method, path, nil, words...)
		return err
	})
}

type object = map[string]any

// TestREST: a network, a pool and a fixed address through the REST API of the controller on the cluster, which a pod then has; who has it; and
// all of it back. What is made by it belongs to the Subnet. Who has no right, or a token of the past, is refused.
func TestREST(t *testing.T) {
	s := newSpace(t)
	m := s.management()
	admin, nobody := m.as(s.account("platform")), m.as(s.account("nobody"))
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metaOf("", s.name), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "berth-network-admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: s.name, Name: "platform"}}}
	must(t, on.Create(t.Context(), binding))
	network, at := &v1alpha1.Subnet{ObjectMeta: metaOf("", s.name)}, networkNamed(s.name, s.name)
	pool, linked := &v1alpha1.IPPool{ObjectMeta: metaOf("", s.name)}, &v1alpha1.Subnet{ObjectMeta: metaOf("", s.name+"-links")}
	t.Cleanup(func() {
		for _, o := range []client.Object{binding, pool, network, linked} {
			must(t, client.IgnoreNotFound(on.Delete(context.Background(), o)))
		}
	})
	none := func(what string, all ...client.Object) {
		t.Helper()
		for _, o := range all {
			if exists(t.Context(), o) {
				t.Fatalf("%s, and there is %T %s", what, o, o.GetName())
			}
		}
	}
	admin.eventually(200, "GET", "/v1/networks") // the role is known

	// Who may not.
	key := filepath.Join(on.lab.dir, "run", on.lab.name, "pki", "service-accounts.key")
	ending := func(in time.Duration) *management {
		token, err := tokens.Ending(admin.token, key, time.Now().Add(in))
		must(t, err)
		return m.as(token)
	}
	body := object{"name": s.name, "subnet": object{"network": s.name, "parent": "eth0",
		"cidrs": []object{{"cidr": fmt.Sprintf("10.6.%d.0/24", s.third)}}, "attachments": object{"namespaces": []string{s.name}}}}
	m.ask(401, "POST", "/v1/networks", body, "no token", "kubectl create token")
	ending(-5*time.Minute).ask(401, "POST", "/v1/networks", body, "expired", "kubectl create token")
	ending(5*time.Minute).ask(201, "POST", "/v1/networks?dryRun=true", body)
	nobody.ask(403, "POST", "/v1/networks", body, "system:serviceaccount:"+s.name+":nobody", "may not", "have a role with that verb bound to it")

	// What is malformed.
	admin.ask(400, "POST", "/v1/networks", `{"name": `)
	admin.ask(413, "POST", "/v1/networks", `{"name": "`+strings.Repeat("n", 1<<20)+`"}`, "too large")
	admin.ask(422, "POST", "/v1/networks", object{"name": s.name, "subnet": object{"cidrs": []object{{"cidr": "10.6.0.7/24"}}}},
		`"field":"subnet.cidrs[0].cidr"`, "10.6.0.7/24 has host bits", "write 10.6.0.0/24")
	none("refused or a dry run", network, at)

	// A network, what may be carved from it, a pool.
	admin.ask(201, "POST", "/v1/networks", body)
	admin.ask(409, "POST", "/v1/networks", body, "exists")
	must(t, on.Get(t.Context(), client.ObjectKeyFromObject(network), network))
	must(t, on.Get(t.Context(), client.ObjectKeyFromObject(at), at))
	if o := at.GetOwnerReferences(); len(o) != 1 || o[0].UID != network.UID {
		t.Errorf("the attachment's owners are %+v", o)
	}
	fixed := s.addr4("a", 4)
	if got := admin.ask(200, "GET", "/v1/networks/"+s.name+"/carve?size=5", nil).Take; fmt.Sprint(got) != fmt.Sprintf("[%s-%s]", s.addr4("a", 1), s.addr4("a", 5)) {
		t.Errorf("5 addresses would be %v", got)
	}
	none("a dry run", pool)
	admin.ask(201, "POST", "/v1/pools", object{"name": s.name, "spec": object{"network": s.name, "subnet": s.name, "size": 5}})
	admin.eventually(200, "GET", "/v1/pools/"+s.name, fmt.Sprintf("%s-%s", s.addr4("a", 1), s.addr4("a", 5)))
	admin.ask(409, "PATCH", "/v1/pools/"+s.name, object{"size": 300}, `"field":"size"`, `"value":300`, "are free")
	admin.ask(200, "GET", "/v1/networks", nil, s.name)
	if got := admin.ask(200, "GET", "/v1/networks/"+s.name+"/free", nil).Families; len(got) != 1 || got[0].Free != "249" {
		t.Errorf("free are %+v", got)
	}

	// An address for an application, which its pod has.
	app, who := "/v1/applications/"+s.name+"/Deployment/web/addresses", fmt.Sprintf("/v1/addresses/%s?network=%s", fixed, s.name)
	admin.ask(201, "POST", app, object{"network": s.name, "addresses": []string{fixed.String()}})
	admin.ask(409, "POST", strings.Replace(app, "web", "other", 1), object{"network": s.name, "addresses": []string{fixed.String()}}, "reserved for Deployment "+s.name+"/web")
	attached := func(p string) (addresses string, pod string) {
		s.deployment(p, 1, onNode(nodeA), note(networks, s.name))
		pods := s.readyPods(p, 1, patience)
		got, _ := s.boundTo(&pods[0], "net1")
		return fmt.Sprint(got), pods[0].Name
	}
	if got, _ := attached("other"); got == fmt.Sprintf("[%s]", fixed) || got == "[]" {
		t.Errorf("the pod of another application has %s", got)
	}
	got, pod := attached("web")
	if got != fmt.Sprintf("[%s]", fixed) {
		t.Errorf("the application's pod has %s, want %s", got, fixed)
	}
	if a := admin.ask(200, "GET", who, nil); a.State != "Bound" || a.Lease.Spec.Holder.Pod != pod {
		t.Errorf("%s: %+v", fixed, a)
	}
	if l := admin.ask(200, "GET", app, nil).Items; len(l) != 1 || l[0].Spec.Address != fixed.String() {
		t.Errorf("fixed are %+v", l)
	}

	// And back: the pod keeps it for its life, the network waits for its pools.
	if d := admin.ask(200, "DELETE", fmt.Sprintf("%s/%s?network=%s", app, fixed, s.name), nil); d.Gone || !strings.Contains(d.WaitsFor, pod) {
		t.Errorf("released in use: %+v", d)
	}
	admin.ask(409, "DELETE", "/v1/networks/"+s.name, nil, "pools are carved from network", s.name, "delete these pools first")
	for _, name := range []string{"web", "other"} {
		if _, err := kubectl(t, "", "-n", s.name, "delete", "deployment", name, "--wait=false"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, patience, fixed.String()+" is nobody's", func(context.Context) error {
		a, err := admin.try(200, "GET", who, nil)
		if err == nil && (a.State == "Bound" || a.Lease != nil && a.Lease.Spec.Identity != nil) {
			err = fmt.Errorf("%+v", a)
		}
		return err
	})
	admin.ask(200, "DELETE", "/v1/pools/"+s.name, nil)
	admin.eventually(404, "GET", "/v1/pools/"+s.name)
	admin.ask(200, "DELETE", "/v1/networks/"+s.name, nil)

	// Who deletes the Subnet of a network deletes the rest of it: Kubernetes collects what it owns.
	host, at2 := &v1alpha1.HostNetwork{ObjectMeta: metaOf("", linked.Name)}, networkNamed(s.name, linked.Name)
	admin.ask(201, "POST", "/v1/networks", object{"name": linked.Name,
		"subnet": object{"network": linked.Name, "vlan": 910, "cidrs": []object{{"cidr": "10.91.0.0/24"}}, "attachments": object{"namespaces": []string{s.name}}},
		"links":  object{"parent": "eth0", "nodeSelector": object{"matchLabels": object{"e2e": "none"}}}})
	for _, o := range []client.Object{host, at2, linked} {
		must(t, on.Get(t.Context(), client.ObjectKeyFromObject(o), o))
	}
	remove(t, linked)
	for _, o := range []client.Object{host, at2} {
		gone(t, o)
	}
	admin.eventually(404, "GET", "/v1/networks/"+s.name)
	eventually(t, patience, "the attachment goes with it", func(ctx context.Context) error {
		if exists(ctx, at) {
			return errors.New("it is there")
		}
		return nil
	})
}
