package docs

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// TestExamples: what can be applied is right.
func TestExamples(t *testing.T) {
	pools := 0
	for _, page := range pages {
		for _, block := range all(regexp.MustCompile("(?s)\n```yaml\n(.*?)```"), read(t, page)) {
			for doc := range strings.SplitSeq(block, "\n---\n") {
				pools += example(t, page, doc)
			}
		}
	}
	files, err := filepath.Glob("examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Errorf("no examples: %v", err)
	}
	for _, file := range files {
		for doc := range strings.SplitSeq(read(t, file), "\n---\n") {
			pools += example(t, file, doc)
		}
	}
	if pools < 6 {
		t.Errorf("only %d pools found", pools)
	}
}

func example(t *testing.T, page, doc string) (pools int) {
	t.Helper()
	var kind struct{ Kind string }
	if yaml.Unmarshal([]byte(doc), &kind) != nil || kind.Kind == "" { // annotations, line by line
		for line := range strings.SplitSeq(doc, "\n") {
			annotation(t, page, line)
		}
		return 0
	}
	var err error
	switch kind.Kind {
	case "IPPool":
		var p v1alpha1.IPPool
		if err = yaml.UnmarshalStrict([]byte(doc), &p); err == nil {
			_, err = ipam.Compile(&p)
		}
		pools = 1
	case "IPLease":
		var l v1alpha1.IPLease
		if err = yaml.UnmarshalStrict([]byte(doc), &l); err == nil {
			if want := ipam.LeaseName(l.Spec.Network, netip.MustParseAddr(l.Spec.Address)); l.Name != want {
				err = fmt.Errorf("lease is named %s, want %s", l.Name, want)
			}
		}
	case "NetworkAttachmentDefinition":
		var n struct{ Spec struct{ Config string } }
		if err = yaml.Unmarshal([]byte(doc), &n); err == nil {
			_, err = delegate.ParseConfig([]byte(n.Spec.Config))
		}
	case "Namespace", "Service", "IPAMClaim", "ClusterRole": // Berth has no word in them
	case "Netspace":
		var n v1alpha1.Netspace
		err = yaml.UnmarshalStrict([]byte(doc), &n)
	case "HostNetwork":
		var h v1alpha1.HostNetwork
		err = yaml.UnmarshalStrict([]byte(doc), &h)
	case "Subnet":
		var s v1alpha1.Subnet
		err = yaml.UnmarshalStrict([]byte(doc), &s)
	case "DaemonSet", "Deployment", "StatefulSet", "VirtualMachine":
		var w struct {
			Metadata metav1.ObjectMeta
			Spec     struct{ Template corev1.PodTemplateSpec }
		}
		if err = yaml.Unmarshal([]byte(doc), &w); err == nil {
			_, _, err = nad.Resolve(nad.Input{PodAnnotations: w.Spec.Template.Annotations, Namespace: w.Metadata.Namespace, IfName: "net1"})
		}
	case "Pod":
		var p corev1.Pod
		if err = yaml.UnmarshalStrict([]byte(doc), &p); err == nil {
			_, _, err = nad.Resolve(nad.Input{PodAnnotations: p.Annotations, Namespace: p.Namespace, IfName: "eth0"})
		}
	default:
		err = fmt.Errorf("kind %s is not checked", kind.Kind)
	}
	if err != nil {
		t.Errorf("%s: %v\n%s", page, err, doc)
	}
	return pools
}

// annotation that stands alone, on a pod with the networks that the pages speak of.
func annotation(t *testing.T, page, line string) {
	t.Helper()
	var one map[string]string
	if yaml.Unmarshal([]byte(line), &one) != nil || len(one) == 0 {
		return
	}
	pod := map[string]string{"k8s.v1.cni.cncf.io/networks": "underlay, store"}
	maps.Copy(pod, one)
	if _, _, err := nad.Resolve(nad.Input{PodAnnotations: pod, Namespace: "demo", IfName: "eth0"}); err != nil {
		t.Errorf("%s: %q: %v", page, line, err)
	}
}

// TestIPAMExamples: the ipam sections in JSON.
func TestIPAMExamples(t *testing.T) {
	for _, page := range pages {
		for _, section := range all(regexp.MustCompile(`(?m)^(\{"type": "berth".*\})$`), read(t, page)) {
			conf, _ := json.Marshal(map[string]any{"cniVersion": "1.0.0", "name": "n", "type": "macvlan", "ipam": json.RawMessage(section)})
			if _, err := delegate.ParseConfig(conf); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}
