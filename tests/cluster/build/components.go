// Package build makes the binaries and images of the lab, each from the
// sources its project released, through the Go module proxy.
package build

import "path/filepath"

// Versions of the parts. Each is fixed in the go.mod beside it; here they are
// for the binaries that cannot tell theirs otherwise, and for people.
const (
	kubernetesVersion = "v1.36.3"
	multusVersion     = "v4.2.4"
	pluginsVersion    = "v1.9.1"
)

// component is something that is built in one go.
type component struct {
	name    string
	dir     string // below tests/cluster: a module, or a package of the lab's own
	pkg     string // what go build is told to build; "tool" is all tools of go.mod
	outputs []string
	ldflags string
}

var components = []component{
	{
		name: "the lab's own programs", dir: "cmd/testapp", pkg: ".",
		outputs: []string{"testapp"},
	},
	{
		name: "pause", dir: "cmd/pause", pkg: ".",
		outputs: []string{"pause"},
	},
	{
		name: "CNI plugins " + pluginsVersion, dir: "components/plugins", pkg: "tool",
		outputs: []string{"host-local", "static", "bridge", "loopback", "macvlan", "ptp", "portmap", "tuning"},
		ldflags: "-X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=" + pluginsVersion,
	},
	{
		name: "Multus " + multusVersion, dir: "components/multus", pkg: "tool",
		outputs: []string{"multus"},
		ldflags: "-X gopkg.in/k8snetworkplumbingwg/multus-cni.v4/pkg/multus.version=" + multusVersion,
	},
	{
		name: "CoreDNS", dir: "components/coredns", pkg: ".",
		outputs: []string{"coredns"},
	},
	{
		// Without these clients complain about a server of version v0.0.0.
		name: "Kubernetes " + kubernetesVersion, dir: "components/kubernetes", pkg: "tool",
		outputs: []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"},
		ldflags: "-X k8s.io/component-base/version.gitVersion=" + kubernetesVersion +
			" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36",
	},
}

// Image archives, below the lab's directory, in the order nodes load them.
var archives = []string{"pause.tar", "coredns.tar", "testapp.tar"}

// Archives lists the image archives that `lab up` loads into every node.
func Archives(dir string) []string {
	var out []string
	for _, a := range archives {
		out = append(out, filepath.Join(dir, "images", a))
	}
	return out
}
