package nad

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/berthdev/berth/api/v1alpha1"
)

func TestTemplateOf(t *testing.T) {
	configs := map[string]string{
		"shop/berth": `{"type":"macvlan","ipam":{"type":"berth"}}`,
		"shop/other": `{"type":"macvlan","ipam":{"type":"host-local"}}`,
	}
	config := func(name string) (string, bool) { c, ok := configs[name]; return c, ok }
	pools := func(s ...string) (out []TemplatePool) {
		for _, p := range s {
			ifName, subnet, _ := strings.Cut(p, " ")
			out = append(out, TemplatePool{ifName, subnet})
		}
		return out
	}
	tests := []struct {
		name        string
		annotations map[string]string
		want        Template
		warnings    []string
	}{
		{"nothing", kv(networksAnnotation, "berth"), Template{}, nil},
		{"pools of others", kv(networksAnnotation, "berth", PoolAnnotation, "zone-a", SizeAnnotation, "nonsense"), Template{}, nil},
		{"every interface that calls Berth", kv(networksAnnotation, "berth,other,berth", SubnetAnnotation, "office"),
			Template{Pools: pools("net1 office", "net3 office")}, nil},
		{"one that is not known yet", kv(networksAnnotation, "new", SubnetAnnotation, "office"), Template{Pools: pools("net1 office")}, nil},
		{"the only interface", kv(SubnetAnnotation, "office"), Template{Pools: pools("eth0 office")}, nil},
		{"the default network", kv(defaultNetworkAnnotation, "shop/berth", SubnetAnnotation, "office"), Template{Pools: pools("eth0 office")}, nil},
		{"by interface, whatever its network", kv(networksAnnotation, "berth,other", SubnetAnnotation, "net1=office; net2=store"),
			Template{Pools: pools("net1 office", "net2 store")}, nil},
		{"one for each family", kv(networksAnnotation, "berth", SubnetAnnotation, `{"ipv4":["office"],"ipv6":["office6"]}`),
			Template{Pools: pools("net1 office", "net1 office6")}, nil},
		{"a pool by interface wins", kv(networksAnnotation, "berth,berth", SubnetAnnotation, "office", PoolsAnnotation, "net2=zone-a"),
			Template{Pools: pools("net1 office")}, nil},
		{"size and reclaim", kv(SubnetAnnotation, "office", SizeAnnotation, "+2", ReclaimAnnotation, "False"),
			Template{Pools: pools("eth0 office"), Size: Size{N: 2}, Keep: true}, nil},
		{"a guest of a netspace", kv(SubnetAnnotation, "office", foreignNetspace, "team-a"), Template{Pools: pools("eth0 office"), Netspace: "team-a"}, nil},
		{"Spiderpool's", kv(networksAnnotation, "berth@a,berth@b", spiderSubnets, `[{"interface":"a","ipv4":["s"]},{"interface":"b","ipv4":["t"]}]`, spiderSize, "5", spiderReclaim, "true"),
			Template{Pools: pools("a s", "b t"), Size: Size{5, true}}, nil},
		{"native beside foreign", kv(networksAnnotation, "berth,berth", spiderSubnet, `{"ipv4":["s"]}`, SubnetAnnotation, "office", spiderSize, "5", SizeAnnotation, "+1"),
			Template{Pools: pools("net1 office", "net2 office"), Size: Size{N: 1}},
			[]string{"annotation ipam.spidernet.io/ippool-ip-number is ignored, since berth.dev/pool-size is set too",
				"annotation ipam.spidernet.io/subnet is ignored, since berth.dev/subnet is set too"}},
		{"Spiderpool's number of a pool of Berth's", kv(SubnetAnnotation, "office", spiderSize, "3"), Template{Pools: pools("eth0 office"), Size: Size{3, true}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, warnings, err := TemplateOf(tt.annotations, "shop", config)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warnings, warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if less, _, err := TemplateOf(Relevant(tt.annotations), "shop", config); err != nil || !cmp.Equal(got, less) {
				t.Errorf("of the relevant ones: %v, %+v", err, less)
			}
		})
	}
	for _, bad := range []map[string]string{
		kv(SubnetAnnotation, "net7=office"),
		kv(SubnetAnnotation, "office", SizeAnnotation, "x"),
		kv(SubnetAnnotation, "office", "berth.dev/pool-sizes", "5"),
		kv(SubnetAnnotation, "office", networksAnnotation, "a/b/c"),
	} {
		if got, _, err := TemplateOf(bad, "shop", config); err == nil {
			t.Errorf("%v: %+v, want an error", bad, got)
		}
	}
}

func TestSize(t *testing.T) {
	for _, test := range []struct {
		size       Size
		need, want int32
	}{{Size{}, 3, 3}, {Size{N: 2}, 3, 5}, {Size{5, true}, 50, 5}, {Size{N: 65536}, 65536, 65536}} {
		if got := test.size.Of(test.need); got != test.want {
			t.Errorf("%+v of %d: %d, want %d", test.size, test.need, got, test.want)
		}
	}
}

// TestRelevant: of pods without such a pool nothing is kept.
func TestRelevant(t *testing.T) {
	if got := Relevant(kv(PoolAnnotation, "a", networksAnnotation, "b", "x", "y")); got != nil {
		t.Errorf("%v", got)
	}
	got := slices.Sorted(maps.Keys(Relevant(kv(spiderSubnet, "a", networksAnnotation, "b", "x", "y", "berth.dev/z", "w"))))
	if diff := cmp.Diff([]string{"berth.dev/z", spiderSubnet, networksAnnotation}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPoolName(t *testing.T) {
	web := v1alpha1.PoolOwner{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "shop", Name: "web"}
	base := PoolName(web, "", "net1", "office")
	if !strings.HasPrefix(base, "app-web-net1-") {
		t.Errorf("%s is nothing that people know", base)
	}
	older := web
	older.APIVersion = "apps/v1beta2"
	if PoolName(older, "", "net1", "office") != base {
		t.Error("another version of the same group has another name")
	}
	change := func(f func(*v1alpha1.PoolOwner)) v1alpha1.PoolOwner { o := web; f(&o); return o }
	seen := map[string]bool{base: true}
	for _, name := range []string{
		PoolName(web, "team-a", "net1", "office"), PoolName(web, "", "net2", "office"), PoolName(web, "", "net1", "store"),
		PoolName(change(func(o *v1alpha1.PoolOwner) { o.APIVersion = "example.com/v1" }), "", "net1", "office"),
		PoolName(change(func(o *v1alpha1.PoolOwner) { o.APIVersion = "v1" }), "", "net1", "office"),
		PoolName(change(func(o *v1alpha1.PoolOwner) { o.Kind = "StatefulSet" }), "", "net1", "office"),
		PoolName(change(func(o *v1alpha1.PoolOwner) { o.Namespace = "store" }), "", "net1", "office"),
		PoolName(change(func(o *v1alpha1.PoolOwner) { o.Name = "web2" }), "", "net1", "office"),
		PoolName(change(func(o *v1alpha1.PoolOwner) { o.Name = strings.Repeat("very.long-", 25) }), "", "a.very_long.ifn", "office"),
		PoolName(change(func(o *v1alpha1.PoolOwner) { o.Name = strings.Repeat("very.long-", 25) + "x" }), "", "É.", "office"),
	} {
		if seen[name] {
			t.Errorf("%s twice", name)
		}
		seen[name] = true
		if errs := validation.IsDNS1123Label(name); len(errs) > 0 {
			t.Errorf("%s: %v", name, errs)
		}
	}
}

// FuzzTemplate: whatever stands there, a pod of the template asks for what the controller makes, or both refuse it.
func FuzzTemplate(f *testing.F) {
	f.Add("office", "net1=zone-a", "", "a,b", "+2", "false", false)
	f.Add(`[{"interface":"net1","ipv4":["s"],"ipv6":"t"}]`, "", "", "a", "5", "true", true)
	f.Add(`{"ipv4":["s","t"]}`, "", "x", `[{"name":"a","interface":"x"}]`, "", "", true)
	f.Fuzz(func(t *testing.T, subnet, pools, pool, networks, size, reclaim string, foreign bool) {
		pod := map[string]string{}
		for key, value := range map[string]string{SubnetAnnotation: subnet, PoolsAnnotation: pools, PoolAnnotation: pool,
			networksAnnotation: networks, SizeAnnotation: size, ReclaimAnnotation: reclaim} {
			if foreign {
				key = map[string]string{SubnetAnnotation: spiderSubnet, PoolsAnnotation: spiderPools, PoolAnnotation: spiderPool,
					networksAnnotation: networksAnnotation, SizeAnnotation: spiderSize, ReclaimAnnotation: spiderReclaim}[key]
			}
			if value != "" {
				pod[key] = value
			}
		}
		tmpl, _, err := TemplateOf(pod, "shop", func(string) (string, bool) { return "", false })
		if err != nil {
			return // Resolve of some interface says the same
		}
		asked := map[string]Subnets{}
		interfaces, err := Interfaces(pod, "shop")
		if err != nil && Carves(pod) {
			t.Fatal(err)
		}
		for _, i := range interfaces {
			if ask, _, err := Resolve(Input{PodAnnotations: pod, Namespace: "shop", IfName: i.Name}); err == nil {
				asked[i.Name] = ask.Subnets
			}
		}
		for _, p := range tmpl.Pools {
			if s, ok := asked[p.Interface]; ok && !slices.Contains(s.Names(), p.Subnet) {
				t.Errorf("%v: the controller makes %+v, the pod asks for %+v", pod, p, s)
			}
		}
	})
}
