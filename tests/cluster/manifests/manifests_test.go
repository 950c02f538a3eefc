package manifests

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/berthdev/berth/tests/cluster/topology"
)

func values(t *testing.T, proxy bool) Values {
	t.Helper()
	top, err := topology.New("berth", 255)
	if err != nil {
		t.Fatal(err)
	}
	return Values{Topology: top, Proxy: proxy}
}

func TestRenderAll(t *testing.T) {
	names, err := fs.Glob(files, "yaml/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range names {
		name := strings.TrimSuffix(strings.TrimPrefix(f, "yaml/"), ".yaml")
		s, err := Render(name, values(t, true))
		if err != nil {
			t.Error(err)
		}
		if strings.Contains(s, "<no value>") || strings.Contains(s, "{{") {
			t.Errorf("%s is not filled in:\n%s", name, s)
		}
	}
}

func TestRenderNodes(t *testing.T) {
	s, err := Render("nodes", values(t, true))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"name: node-a", "topology.kubernetes.io/zone: b", `podCIDRs: [10.244.1.0/24, "fd00:244:0:1::/64"]`} {
		if !strings.Contains(s, want) {
			t.Errorf("lacks %q:\n%s", want, s)
		}
	}
}

func TestCoreDNSWithoutProxy(t *testing.T) {
	for proxy, want := range map[bool]bool{true: false, false: true} {
		s, err := Render("coredns", values(t, proxy))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(s, `{name: KUBERNETES_SERVICE_HOST, value: "172.30.255.2"}`); got != want {
			t.Errorf("proxy %v: the API server's own address is there: %v", proxy, got)
		}
	}
}
