//go:build linux

// Package doctor looks whether the service path of a node is as it should be: what the running agent wants, asked on its socket,
// against what the node has. It reads, and changes nothing.
//
//	check        looks at                                              by
//	agent        the agent answers, and is ready                       agent/state
//	plugin       the plugin is installed, and is this image's          here
//	bpffs        pins can be kept                                      here
//	netns        namespaces of the pods can be seen                    here
//	services     somebody translates Services; inet berth-services     agent/proxy
//	guards       source guards: attached, as the leases say            bpf
//	fast         socket translation: its pins, or what it would need   bpf/sock
//	all others   links, programs, maps, routes, sysctls, tables        path.Examine
package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/agent/state"
)

// Config is the running agent's.
type Config struct {
	Path        path.Config
	Socket      string
	Plugin      string // what was to be installed; "" for nothing
	CNIBinDir   string
	NetNS       string // directory of the sandboxes' namespaces
	NoPath      bool
	NoFast      bool          // fast mode is turned off
	CgroupDirs  []string      // where the root of cgroup2 may be
	Between     time.Duration // two looks
	askPatience time.Duration
}

// Names of the checks of this package.
const (
	checkAgent  = "agent"
	checkPlugin = "plugin"
	checkBPFFS  = "bpffs"
	checkNetNS  = "netns"
	checkFast   = "fast"
	checkServed = "services"
	checkGuards = "guards"
)

// Examine the node. Pods come and go while it looks, and the agent is asked before the kernel: so what is wrong counts only if
// it is wrong the same at a second look.
func Examine(ctx context.Context, cfg Config) report.Findings {
	if cfg.askPatience == 0 {
		cfg.askPatience = 5 * time.Second
	}
	first := look(ctx, cfg)
	if !slices.ContainsFunc(first.Findings, isWrong) {
		return first
	}
	select {
	case <-ctx.Done():
		first.Error = "only one look: " + ctx.Err().Error()
		return first
	case <-time.After(cfg.Between):
	}
	second := look(ctx, cfg)
	second.Findings = slices.DeleteFunc(second.Findings, func(f report.Finding) bool {
		return isWrong(f) && !slices.Contains(first.Findings, f)
	})
	return second
}

func isWrong(f report.Finding) bool { return f.Severity != report.OK }

func look(ctx context.Context, cfg Config) report.Findings {
	ctx, cancel := context.WithTimeout(ctx, cfg.askPatience)
	defer cancel()
	told, err := state.Ask(ctx, cfg.Socket)
	out := report.Findings{Node: cfg.Path.NodeName}
	out.Findings = append(out.Findings, examineAgent(told, err))
	out.Findings = append(out.Findings, examinePlugin(cfg)...)
	if told != nil {
		out.Findings = append(out.Findings, examineNetNS(cfg, told)...)
	}
	if cfg.NoPath {
		return out
	}
	out.Findings = append(out.Findings, examineBPFFS(cfg), examineFast(cfg))
	if told != nil {
		out.Findings = append(out.Findings, examineGuards(cfg, told)...)
	}
	var want *path.Wanted
	if told != nil {
		want = told.Path
	}
	found, err := path.Examine(cfg.Path, want)
	out.Findings = append(out.Findings, found...)
	served, err2 := examineServed(want)
	out.Findings = append(out.Findings, served...)
	if err := errors.Join(err, err2); err != nil {
		out.Error = "cannot be read: " + err.Error()
	}
	return out
}

func finding(check string, s report.Severity, remedy, format string, args ...any) report.Finding {
	return report.Finding{Check: check, Severity: s, What: fmt.Sprintf(format, args...), Remedy: remedy}
}
