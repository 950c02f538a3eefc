package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// binds are the places of a node that have a directory of their own on the
// machine's disk. What is not here but in /run, /etc, /opt or /var is private
// to the node as well, in memory.
var binds = map[string]string{
	"cni-bin":        "/opt/cni/bin",
	"cni-conf":       "/etc/cni",
	"kubelet":        "/var/lib/kubelet",
	"containerd":     "/var/lib/containerd",
	"cni-state":      "/var/lib/cni",
	"berth":          "/var/lib/berth",
	"pod-logs":       "/var/log/pods",
	"container-logs": "/var/log/containers",
}

// machineSysctls are settings of the whole machine that a kubelet writes, with
// the values it wants. On the node a plain file covers each, so that the lab
// leaves the machine as it is.
var machineSysctls = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

func (n *Node) directories() []string {
	return slices.Sorted(maps.Keys(binds))
}

// mountScript makes the machine's file system look like one of the node's own.
// It runs inside the new namespaces.
func (n *Node) mountScript() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("hostname %s", n.Name)
	line("mount --make-rprivate /")
	line("mount -t proc proc /proc")
	// The named network namespaces of the machine, other labs' among them, must
	// not live on because a node still has them mounted.
	line("umount -l /run/netns 2>/dev/null || true")
	line("mount -t tmpfs -o mode=755 tmpfs /run")
	line("mkdir -p /run/lock /run/netns /run/lab/node /run/lab/cgroup /run/lab/sysctl")
	line("mount --bind '%s' /run/lab/node", n.Dir)

	// A sysfs shows the links of the network namespace it was mounted in. The
	// cgroups below the machine's must come along.
	line("mount --rbind /sys/fs/cgroup /run/lab/cgroup")
	line("mount -t sysfs sysfs /sys")
	line("mount --rbind /run/lab/cgroup /sys/fs/cgroup")
	line("umount -R /run/lab/cgroup")
	line("mount -t bpf bpf /sys/fs/bpf")
	line("mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null || true")
	line("mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || true")

	// The upper directories are in memory and not in n.Dir, since that may lie
	// below one of the lower ones.
	for _, d := range []string{"etc", "opt", "var"} {
		line("mkdir -p /run/lab/overlay/%[1]s/upper /run/lab/overlay/%[1]s/work", d)
		line("mount -t overlay overlay -o lowerdir=/%[1]s,upperdir=/run/lab/overlay/%[1]s/upper,workdir=/run/lab/overlay/%[1]s/work /%[1]s", d)
	}
	// Names outside the cluster fail at once: the machine's name server cannot be
	// reached from here.
	line("rm -f /etc/resolv.conf")
	line("echo '# no name server' > /etc/resolv.conf")
	for _, dir := range n.directories() {
		line("mkdir -p %s", binds[dir])
		line("mount --bind /run/lab/node/%s %s", dir, binds[dir])
	}
	for _, name := range slices.Sorted(maps.Keys(machineSysctls)) {
		file := "/run/lab/sysctl/" + strings.ReplaceAll(name, "/", ".")
		line("echo %s > %s", machineSysctls[name], file)
		line("if [ -e /proc/sys/%[2]s ]; then mount --bind %[1]s /proc/sys/%[2]s; fi", file, name)
	}
	line("mount --make-rshared /")
	return b.String()
}
