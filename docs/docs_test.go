// Package docs has no code, only tests that keep the pages true to the code: what has a name there has it here, and the other way
// round.
package docs

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/bpf"
	"github.com/berthdev/berth/bpf/sock"
)

const (
	architecture = "architecture.md"
	development  = "development.md"
	operations   = "operations.md"
	reference    = "reference.md"
	servicePath  = "service-path.md"
	userGuide    = "user-guide.md"
	readme       = "../README.md"
)

var pages = []string{readme, architecture, development, operations, reference, servicePath, userGuide}

func TestFlags(t *testing.T) {
	page := read(t, operations)
	for _, program := range []string{"berth-agent", "berth-controller"} {
		cmd := exec.Command("go", "run", "./cmd/"+program, "--help")
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "NODE_NAME=", "POD_NAMESPACE=")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s --help: %v", program, err)
		}
		_, flags, _ := strings.Cut(string(out), "\nFlags:\n")
		flags, _, _ = strings.Cut(flags, "\n\n")
		if flags = strings.TrimSpace(flags); flags == "" || !strings.Contains(page, flags) {
			t.Errorf("%s does not have the flags of %s as its --help prints them:\n%s", operations, program, flags)
		}
	}
}

func TestMetrics(t *testing.T) {
	name := regexp.MustCompile(`\bberth_[a-z_]+`)
	same(t, operations+", metrics", all(name, source(t, "../agent", "../controller")), all(name, section(t, operations, "Metrics")))
}

func TestVerdicts(t *testing.T) {
	listed := map[string]bool{}
	for _, row := range table(section(t, operations, "Verdicts")) {
		for _, name := range all(regexp.MustCompile("`([a-z0-9_]+)`"), row[0]) {
			listed[name] = true
		}
	}
	same(t, operations+", verdicts", slices.Concat(bpf.Reasons(), bpf.Refusals(), bpf.Denials()), slices.Collect(maps.Keys(listed)))
}

// TestDoctor: the checks by name.
func TestDoctor(t *testing.T) {
	in := all(regexp.MustCompile(`\tcheck\w+\s+= "(\w+)"`), source(t, "../agent/path", "../agent/doctor"))
	var listed []string
	for _, row := range table(section(t, operations, "Doctor")) {
		listed = append(listed, all(regexp.MustCompile("`(\\w+)`"), row[0])...)
	}
	same(t, operations+", doctor", in, listed)
}

func TestSocketEvents(t *testing.T) {
	var listed []string
	for _, row := range table(section(t, architecture, "Fast mode")) {
		if name := all(regexp.MustCompile("`([a-z]+_[a-z_]+|refused|reselected)`"), row[0]); len(row) == 2 {
			listed = append(listed, name...)
		}
	}
	same(t, architecture+", fast mode", sock.Events(), listed)
}

// reasonOfLease finds the reasons to give up a lease, or to keep it in doubt.
var reasonOfLease = regexp.MustCompile(`(?:\t|const )(?:(?:no|pod|node|owner|pool)[A-Z]\w+|timeOver|conflictSilent)\s+= "(\w+)"`)

func TestEventReasons(t *testing.T) {
	told := regexp.MustCompile(`\.(?:warn|report|event)\([^"\n]*"([A-Z]\w+)"`)
	in := all(told, source(t, "../agent"))
	in = append(in, all(reasonOfLease, source(t, "../controller"))...)
	in = append(in, all(regexp.MustCompile(`\t(?:doubt|pod)\w+\s+= "(\w+)"`), source(t, "../agent"))...)
	in = append(in, all(regexp.MustCompile(`event\w+ = "(\w+)"`), source(t, "../controller"))...)
	for _, r := range all(regexp.MustCompile(`\tLinks\w+\s+= "(\w+)"`), source(t, "../api/v1alpha1")) {
		if r != "LinksQueued" { // its turn will come
			in = append(in, r)
		}
	}
	in = append(in, all(regexp.MustCompile(`\tnote\w+\s+= "(\w+)"`), source(t, "../controller"))...)
	for _, r := range all(regexp.MustCompile(`reason\w+\s+= "(\w+)"`), source(t, "../controller")) {
		switch r {
		case "Disabled", "WaitsForLeases", "WaitsForPods", "NoNamespace", "Making", "Unknown": // somebody's wish, and nobody's news
		default:
			in = append(in, r)
		}
	}
	var listed []string
	for _, row := range table(section(t, operations, "Events")) {
		listed = append(listed, all(regexp.MustCompile("`(\\w+)`"), row[2])...)
	}
	same(t, operations+", events", in, listed)
}

func TestConditions(t *testing.T) {
	var listed []string
	for _, row := range table(section(t, operations, "Conditions")) {
		listed = append(listed, all(regexp.MustCompile("`(\\w+)`"), row[2])...)
	}
	in := all(regexp.MustCompile(`reason\w+\s+= "(\w+)"`), source(t, "../controller"))
	in = slices.DeleteFunc(in, func(r string) bool { return r == "Unknown" }) // below the table
	same(t, operations+", conditions", in, listed)
}

func TestReasonsOfMetrics(t *testing.T) {
	page := section(t, operations, "Metrics")
	for _, r := range all(reasonOfLease, source(t, "../controller")) {
		if r != "ConflictSilent" && !strings.Contains(page, "`"+r+"`") { // the only reason to end a quarantine
			t.Errorf("%s does not have the reason %s of a GC metric", operations, r)
		}
	}
}

func TestSysctls(t *testing.T) {
	page := section(t, operations, "What changes on a node")
	code := source(t, "../agent/path")
	for _, key := range append(all(regexp.MustCompile(`v[46] \+ "(\w+)"`), code), "ip_forward", "accept_ra", "accept_dad") {
		if !strings.Contains(page, key) {
			t.Errorf("%s does not have the sysctl %s", operations, key)
		}
	}
}

func TestAnnotationsAndLabels(t *testing.T) {
	key := regexp.MustCompile(`"((?:berth\.dev|ipam\.spidernet\.io)/[a-z0-9-]+)"`)
	in := all(key, source(t, "../agent", "../api", "../controller", "../delegate", "../nad", "../ipam"))
	var listed []string
	for _, s := range []string{"Annotations", "Labels and finalizers"} {
		listed = append(listed, all(regexp.MustCompile("`((?:berth\\.dev|ipam\\.spidernet\\.io)/[a-z0-9-]+)`"), section(t, reference, s))...)
	}
	same(t, reference+", annotations and labels", in, listed)
}

func TestIPAMKeys(t *testing.T) {
	_, set, _ := strings.Cut(source(t, "../delegate"), "func (ipam *IPAM) set(")
	set, _, _ = strings.Cut(set, "\n}\n")
	var in, listed []string
	for _, line := range all(regexp.MustCompile(`(?m)^\tcase (".*):$`), set) {
		in = append(in, all(regexp.MustCompile(`"(\w+)"`), line)...)
	}
	for _, row := range table(section(t, reference, "The ipam section")) {
		listed = append(listed, all(regexp.MustCompile("`(\\w+)`"), row[0])...)
	}
	same(t, reference+", ipam section", in, listed)
}

// cniCodes are those of package types that Berth uses.
var cniCodes = map[string]uint{
	"ErrIncompatibleCNIVersion": types.ErrIncompatibleCNIVersion, "ErrInvalidEnvironmentVariables": types.ErrInvalidEnvironmentVariables,
	"ErrDecodingFailure": types.ErrDecodingFailure, "ErrInternal": types.ErrInternal,
	"ErrInvalidNetworkConfig": types.ErrInvalidNetworkConfig, "ErrTryAgainLater": types.ErrTryAgainLater,
}

func TestErrorCodes(t *testing.T) {
	code := source(t, "../delegate", "../delegate/plugin", "../agent")
	in := all(regexp.MustCompile(`[cC]ode\w+\s+uint\s+= (\d+)`), code)
	for _, name := range all(regexp.MustCompile(`types\.(Err[A-Z]\w+)`), code) {
		n, ok := cniCodes[name]
		if !ok {
			t.Errorf("types.%s is new: add it to cniCodes, and to %s", name, reference)
		}
		in = append(in, fmt.Sprint(n))
	}
	var listed []string
	for _, row := range table(section(t, reference, "Error codes")) {
		listed = append(listed, row[0])
	}
	same(t, reference+", error codes", in, listed)
}

func TestSocketContract(t *testing.T) {
	name := regexp.MustCompile(`"(/v1/[a-z]+)"`)
	same(t, reference+", socket contract", all(name, source(t, "../delegate")), all(regexp.MustCompile("`(/v1/[a-z]+)`"), section(t, reference, "Socket contract")))
}

// TestFields: each field of the CRDs is in its section as `field`, and each printer column by its name.
func TestFields(t *testing.T) {
	for kind, s := range map[string]string{"ippools": "IPPool", "ipleases": "IPLease", "subnets": "Subnet", "ipblocks": "IPBlock", "netspaces": "Netspace",
		"hostnetworks": "HostNetwork", "hubmembers": "HubMember"} {
		var crd apiextensions.CustomResourceDefinition
		if err := yaml.Unmarshal([]byte(read(t, "../api/v1alpha1/crds/berth.dev_"+kind+".yaml")), &crd); err != nil {
			t.Fatal(err)
		}
		page := section(t, reference, s)
		version := crd.Spec.Versions[0]
		for _, part := range []string{"spec", "status"} {
			fields(version.Schema.OpenAPIV3Schema.Properties[part], func(name string) {
				if !regexp.MustCompile("`(?:[\\w\\[\\]]+\\.)*" + name + "`").MatchString(page) {
					t.Errorf("%s, %s: no field `%s`, which %s has", reference, s, name, part)
				}
			})
		}
		for _, c := range version.AdditionalPrinterColumns {
			if !strings.Contains(page, c.Name) {
				t.Errorf("%s, %s: no column %s", reference, s, c.Name)
			}
		}
		for _, f := range version.SelectableFields {
			if !strings.Contains(page, "`"+strings.TrimPrefix(f.JSONPath, ".")+"`") {
				t.Errorf("%s, %s: no field selector %s", reference, s, f.JSONPath)
			}
		}
	}
}

func fields(p apiextensions.JSONSchemaProps, found func(string)) {
	if p.Items != nil && p.Items.Schema != nil {
		fields(*p.Items.Schema, found)
	}
	for name, sub := range p.Properties {
		found(name)
		_, selector := sub.Properties["matchLabels"]
		if !selector && name != "conditions" { // Kubernetes' own, explained once
			fields(sub, found)
		}
	}
}

// TestREST: the operations of the REST API are those of its document.
func TestREST(t *testing.T) {
	var document struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal([]byte(read(t, "../controller/rest/openapi.json")), &document); err != nil {
		t.Fatal(err)
	}
	var in []string
	for path, operations := range document.Paths {
		for method := range operations {
			in = append(in, strings.ToUpper(method)+" "+path)
		}
	}
	var listed []string
	for _, row := range table(section(t, reference, "REST API")) {
		listed = append(listed, all(regexp.MustCompile("^`([A-Z]+ /[^`]+)`"), row[0])...)
	}
	same(t, reference+", REST API", in, listed)
}

func TestMakeTargets(t *testing.T) {
	makefile := read(t, "../Makefile")
	targets := all(regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):.*## `), makefile)
	var listed []string
	for _, row := range table(section(t, development, "Build and test")) {
		listed = append(listed, all(regexp.MustCompile("^`make ([a-z0-9-]+)`"), row[0])...)
	}
	same(t, development+", make targets", targets, listed)
	for _, page := range pages {
		for _, target := range all(regexp.MustCompile("(?m)(?:`|^)make ([a-z0-9-]+)"), read(t, page)) {
			if !slices.Contains(targets, target) {
				t.Errorf("%s: make %s is no target", page, target)
			}
		}
	}
}

// TestMessages: each part of a message in troubleshooting that is not … stands in the code.
func TestMessages(t *testing.T) {
	code := source(t, "../agent", "../bpf", "../controller", "../delegate", "../ipam", "../nad")
	code = regexp.MustCompile("(?:\"|`)\\s*\\+\\s*(?:\"|`)").ReplaceAllString(code, "") // strings in two halves
	code = strings.ReplaceAll(code, `\"`, `"`)
	_, after, _ := strings.Cut(read(t, userGuide), "\n## Troubleshooting\n")
	n := 0
	for _, row := range table(after) {
		for _, message := range all(regexp.MustCompile("`([^`]+)`"), row[0]) {
			for part := range strings.SplitSeq(message, " …") {
				part = strings.TrimPrefix(strings.TrimLeft(part, " ,;:"), "… ")
				if len(part) < 4 {
					continue
				}
				n++
				if !strings.Contains(code, part) {
					t.Errorf("%s: message %q: %q is nowhere in the code", userGuide, message, part)
				}
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d parts of messages found", n)
	}
}

// TestModules: the picture of the modules is what imports what.
func TestModules(t *testing.T) {
	var drawn []string
	names := map[string]string{}
	picture := section(t, architecture, "Modules")
	for _, m := range regexp.MustCompile(`([\w-]+)\["([\w/-]+)"\]`).FindAllStringSubmatch(picture, -1) {
		names[m[1]] = m[2]
	}
	name := func(id string) string {
		if n, ok := names[id]; ok {
			return n
		}
		return id
	}
	for _, m := range regexp.MustCompile(`(?m)^ +([\w-]+)(?:\[.*\])? --> ([\w-]+)`).FindAllStringSubmatch(picture, -1) {
		drawn = append(drawn, name(m[1])+" → "+name(m[2]))
	}
	const module = "github.com/berthdev/berth/"
	cmd := exec.Command("go", "list", "-f", `{{range .Imports}}{{$.ImportPath}} {{.}}{{"\n"}}{{end}}`, "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var imports []string
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) == 2 && strings.HasPrefix(f[1], module) && !strings.HasPrefix(f[0], module+"tests/") {
			imports = append(imports, strings.TrimPrefix(f[0], module)+" → "+strings.TrimPrefix(f[1], module))
		}
	}
	same(t, architecture+", modules", imports, drawn)
}

// TestNames: tests and files of the repository that the pages name exist.
func TestNames(t *testing.T) {
	tests := map[string]bool{}
	for _, name := range all(regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`), goFiles(t, true, "..")) {
		tests[name] = true
	}
	file := regexp.MustCompile("`((?:agent|api|bpf|cmd|controller|delegate|deploy|docs|ipam|nad|scripts|tests|tools)/[\\w./-]*)`")
	for _, page := range pages {
		text := read(t, page)
		for _, name := range all(regexp.MustCompile(`\b((?:Test|Fuzz)[A-Z]\w+)`), text) {
			if !tests[name] {
				t.Errorf("%s: there is no test %s", page, name)
			}
		}
		for _, path := range all(file, text) {
			if _, err := os.Stat(filepath.Join("..", path)); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}

// TestRights: each resource that a role of the installation has is in the role's row, by the name of its kind.
func TestRights(t *testing.T) {
	kinds := map[string]string{"replicationcontrollers": "workloads", "deployments": "workloads", "statefulsets": "workloads", "daemonsets": "workloads", "cronjobs": "workloads",
		"nodes": "nodes", "pods": "pods", "namespaces": "namespaces", "events": "events", "configmaps": "ConfigMap", "leases": "leader election lease", "secrets": "Secret",
		"ipamclaims": "IPAMClaims", "services": "Services,"}
	rows := map[string]string{}
	for _, row := range table(section(t, operations, "Security")) {
		rows[strings.Trim(row[0], "`")] += strings.ToLower(row[1])
	}
	rows["berth-hub-kubeconfig"] = rows["berth-controller` in `berth-system"]
	for doc := range strings.SplitSeq(read(t, "../deploy/install.yaml"), "\n---\n") {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal([]byte(doc), &role); err != nil || !strings.HasSuffix(role.Kind, "Role") {
			continue
		}
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				resource, _, _ = strings.Cut(resource, "/")
				kind := cmp.Or(kinds[resource], strings.TrimSuffix(strings.ReplaceAll(resource, "-", ""), "s"))
				if resource == "replicasets" || resource == "jobs" { // workloads of the controller's, and by name the agent's
					continue
				}
				if !strings.Contains(rows[role.Name], strings.ToLower(kind)) {
					t.Errorf("%s, security: %s may %s %s, which is not in its row", operations, role.Name, rule.Verbs, resource)
				}
			}
		}
	}
}

// TestTablesAreWhole: a row that no table is before is shown as text.
func TestTablesAreWhole(t *testing.T) {
	for _, page := range pages {
		in, before := false, ""
		for i, line := range strings.Split(read(t, page), "\n") {
			row := strings.HasPrefix(line, "|")
			rule := strings.HasPrefix(line, "|--")
			if row && !rule && !in && before != "" && !strings.HasPrefix(before, "|") {
				t.Errorf("%s:%d: a row after text: %s", page, i+1, line)
			}
			in = rule || in && row
			before = line
		}
	}
}

// TestNumberOfKinds: the installation has as many CRDs as the page says.
func TestNumberOfKinds(t *testing.T) {
	n := strings.Count(read(t, "../deploy/install.yaml"), "\nkind: CustomResourceDefinition\n")
	words := []string{7: "seven", 8: "eight", 9: "nine"}
	if n >= len(words) || !strings.Contains(read(t, operations), words[n]+" CRDs") {
		t.Errorf("%s, install: the installation has %d CRDs", operations, n)
	}
}
