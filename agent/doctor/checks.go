//go:build linux

package doctor

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/agent/state"
	"github.com/berthdev/berth/bpf/pins"
	"github.com/berthdev/berth/bpf/sock"
)

func examineAgent(told *state.State, err error) report.Finding {
	switch {
	case err != nil:
		return finding(checkAgent, report.Fail, "see its log; delete its pod to have it started again: what pods use stays as it is. "+
			"What follows compares the node with itself only", "%s", err)
	case !told.Ready:
		return finding(checkAgent, report.Fail, "its log says what it waits for: mostly the API server", "the agent is not ready yet: ADD and DEL fail or are answered from the journal")
	}
	return finding(checkAgent, report.OK, "", "ready, knows %d interfaces of pods", len(told.Interfaces))
}

func examinePlugin(cfg Config) []report.Finding {
	if cfg.Plugin == "" {
		return nil
	}
	target := filepath.Join(cfg.CNIBinDir, "berth")
	wants, err := os.ReadFile(cfg.Plugin)
	if err != nil {
		return []report.Finding{finding(checkPlugin, report.Fail, "use an image of Berth, or correct --plugin", "the plugin to install: %s", err)}
	}
	const again = "delete the agent's pod: it installs the plugin when it starts"
	info, err := os.Stat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return []report.Finding{finding(checkPlugin, report.Fail, again, "%s is not installed: no pod can start", target)}
	}
	if err != nil {
		return []report.Finding{finding(checkPlugin, report.Fail, "see that --cni-bin-dir is a directory of the host", "%s", err)}
	}
	has, err := os.ReadFile(target)
	switch {
	case err != nil:
		return []report.Finding{finding(checkPlugin, report.Fail, again, "%s", err)}
	case info.Mode().Perm()&0o111 == 0:
		return []report.Finding{finding(checkPlugin, report.Fail, "chmod 0755 "+target, "%s cannot be executed", target)}
	case !bytes.Equal(has, wants):
		return []report.Finding{finding(checkPlugin, report.Fail, again, "%s is not the plugin of this agent's image", target)}
	}
	return []report.Finding{finding(checkPlugin, report.OK, "", "%s is this image's", target)}
}

// examineNetNS looks whether the agent sees the namespaces of its pods, by which it knows which sandboxes live.
func examineNetNS(cfg Config, told *state.State) (found []report.Finding) {
	entries, err := os.ReadDir(cfg.NetNS)
	if err != nil {
		return []report.Finding{finding(checkNetNS, report.Fail, "give the agent's pod the host's "+cfg.NetNS+" (hostPath, mountPropagation HostToContainer)", "%s", err)}
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = true
	}
	seen := 0
	for _, i := range told.Interfaces {
		switch file := i.NetNSFile(cfg.NetNS); {
		case file == "":
			found = append(found, finding(checkNetNS, report.Warn, "none is needed: only the controller collects its address then, and trace does not see its routes",
				"pod %s/%s, %s: its network namespace is not known", i.Namespace, i.Pod, i.Name))
		case !there[filepath.Base(file)]:
			found = append(found, finding(checkNetNS, report.Warn, "if the pod runs, see that the agent's pod has the host's "+cfg.NetNS+
				" with mountPropagation HostToContainer; else its lease is freed in a minute or so",
				"pod %s/%s, %s: there is no network namespace %s", i.Namespace, i.Pod, i.Name, file))
		default:
			seen++
		}
	}
	return append(found, finding(checkNetNS, report.OK, "", "the namespaces of %d interfaces are seen", seen))
}

func examineBPFFS(cfg Config) report.Finding {
	if err := pins.OnBPFFS(cfg.Path.PinDir); err != nil {
		return finding(checkBPFFS, report.Fail, err.Error(), "programs and maps cannot be kept in %s", cfg.Path.PinDir)
	}
	return finding(checkBPFFS, report.OK, "", "%s is on a BPF file system", cfg.Path.PinDir)
}

// examineFast: fast mode is not needed, so what it lacks is no failure.
func examineFast(cfg Config) report.Finding {
	view, err := sock.Open(cfg.Path.PinDir)
	if err == nil {
		_ = view.Close()
		return finding(checkFast, report.OK, "", "fast mode is on: socket translation is pinned")
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return finding(checkFast, report.Warn, "delete the agent's pod: it attaches anew when it starts", "%s", err)
	}
	if cfg.NoFast {
		return finding(checkFast, report.OK, "", "fast mode is turned off (--fast-mode=false)")
	}
	cgroup, err := sock.FindCgroup(cfg.CgroupDirs...)
	if err == nil {
		err = sock.Supported(cgroup)
	}
	if err != nil {
		return finding(checkFast, report.Warn, "none is needed: all Services are reached by the vmac", "fast mode is off, and this node cannot do it: %s", err)
	}
	return finding(checkFast, report.Warn, "the agent's log says why it has not begun; delete its pod to have it tried again", "fast mode is off, and this node could do it (cgroup2 at %s)", cgroup)
}
