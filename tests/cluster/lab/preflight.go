package lab

import (
	"fmt"
	"os/exec"
	"sort"
	"strings"
)

// packages are the programs the lab runs and the Debian packages they are in.
var packages = map[string]string{
	"busybox":    "busybox-static",
	"conntrack":  "conntrack",
	"containerd": "containerd",
	"ctr":        "containerd",
	"etcd":       "etcd-server",
	"hostname":   "hostname",
	"ip":         "iproute2",
	"iptables":   "iptables",
	"mount":      "mount",
	"nft":        "nftables",
	"nsenter":    "util-linux",
	"runc":       "runc",
}

// Preflight checks that the programs the lab does not build are installed.
func Preflight() error {
	missing := map[string]bool{}
	for program, pkg := range packages {
		if _, err := exec.LookPath(program); err != nil {
			missing[pkg] = true
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var names []string
	for p := range missing {
		names = append(names, p)
	}
	sort.Strings(names)
	return fmt.Errorf("Debian packages are missing: apt-get install -y --no-install-recommends %s", strings.Join(names, " "))
}
