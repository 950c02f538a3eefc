package delegate

import (
	"os"

	"github.com/containernetworking/cni/pkg/skel"
)

// panickingPlugin is set in the environment of a test process that shall be a plugin with a bug.
const panickingPlugin = "BERTH_TEST_PANICKING_PLUGIN"

// BePanickingPlugin makes this process a plugin whose verbs panic, if the environment asks for it.
func BePanickingPlugin() {
	if os.Getenv(panickingPlugin) == "" {
		return
	}
	bug := func(*skel.CmdArgs) error { panic("a bug") }
	if err := run(skel.CNIFuncs{Add: bug, Del: bug, Check: bug, Status: bug, GC: bug}, ""); err != nil {
		if err.Print() == nil {
			os.Exit(1)
		}
	}
	os.Exit(0)
}
