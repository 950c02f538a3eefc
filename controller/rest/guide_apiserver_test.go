//go:build apiserver

package rest

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// TestGuide runs the commands of the user guide, by curl, as they stand there; but those of kubectl, for which the test stands in, and the
// controller's carving.
func TestGuide(t *testing.T) {
	c := newCluster(t)
	u := c.user(t)
	text, err := os.ReadFile("../../docs/user-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## REST API\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1)
	if len(blocks) < 5 {
		t.Fatalf("only %d blocks of commands found", len(blocks))
	}
	shop := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	if err := c.admin.Create(t.Context(), shop); err != nil && !apierrors.IsAlreadyExists(err) { // nothing ends a namespace here
		t.Fatal(err)
	}
	at := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop910"}}
	all := []client.Object{named1(&v1alpha1.IPPool{}, "shop910"), at, named1(&v1alpha1.HostNetwork{}, "shop910"), named1(&v1alpha1.Subnet{}, "shop910")}
	c.cleanUp(t, all...)

	dir := t.TempDir()
	certificate := regexp.MustCompile(`(?m)^openssl req .*\n.*$`).FindString(blocks[0][1])
	shell(t, dir, certificate)
	served := c.serveFrom(t, dir)
	start := "BERTH=" + served + " TOKEN=" + u.token + "\n"
	for i, b := range blocks[1:] {
		commands := strings.ReplaceAll(b[1], "curl -sS", "curl -sS --fail-with-body")
		if i == 0 {
			start += regexp.MustCompile(`(?m)^berth\(\) .*$`).FindString(commands) + "\n"
		}
		if i == 2 {
			start += regexp.MustCompile(`(?m)^WEB=.*$`).FindString(commands) + "\n"
		}
		out := shell(t, dir, "set -e\n"+start+commands)
		for d := json.NewDecoder(strings.NewReader(out)); d.More(); {
			var answer map[string]any
			if err := d.Decode(&answer); err != nil || answer["status"] == 409.0 {
				t.Errorf("%v: %s", err, out)
			}
		}
		if i == 1 { // what the controller does
			p := all[0].(*v1alpha1.IPPool)
			c.exist(t, p)
			p.Spec.Subnets = []v1alpha1.PoolSubnet{{CIDR: "10.91.0.0/24", IPs: []string{"10.91.0.2-10.91.0.31"}, Gateway: "10.91.0.1"}}
			if err := c.admin.Update(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
	}
	if there := c.exist(t, all...); there != nil {
		t.Errorf("at the end there are %v", there)
	}
	var problem Problem
	if err := json.Unmarshal([]byte(regexp.MustCompile("(?s)```json\n(.*?)```").FindStringSubmatch(section)[1]), &problem); err != nil {
		t.Fatal(err)
	}
	body := map[string]any{"name": "shop910", "subnet": map[string]any{"cidrs": []any{map[string]any{"cidr": "10.91.0.7/24"}}}}
	u.ask(t, "POST", "/v1/networks", body).want(t, 422, nil, problem.Detail, problem.Errors[0].Detail, problem.Errors[0].Remedy)
}

func shell(t *testing.T, dir, commands string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", commands)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = append(out, exit.Stderr...)
		}
		t.Fatalf("%v\n%s\n%s", err, commands, out)
	}
	return string(out)
}

// serveFrom serves with the certificate in dir, by the name localhost.
func (c *cluster) serveFrom(t *testing.T, dir string) (url string) {
	t.Helper()
	other := *c
	other.certDir = filepath.Clean(dir)
	other.serve(t, c.config, func(*Server) {})
	return strings.Replace(other.url, "127.0.0.1", "localhost", 1)
}
