// Package fabric makes a lab's network namespaces and links, and removes them.
package fabric

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/berthdev/berth/tests/cluster/topology"
)

// Up makes namespaces and links. What exists already is an error: a lab that
// was left half-way must go down first.
func Up(t *topology.Topology) error {
	for _, ns := range t.Namespaces() {
		if err := ip("", "netns", "add", ns); err != nil {
			return err
		}
	}
	for _, s := range t.Sysctls() {
		if err := run("", "ip", "netns", "exec", s.Namespace, "sh", "-c", fmt.Sprintf("echo %s > /proc/sys/%s", s.Value, s.Path)); err != nil {
			return err
		}
	}
	for _, b := range t.Links() {
		if err := batch(b); err != nil {
			return err
		}
	}
	for _, n := range t.Nodes {
		if err := run(t.Masquerade(), "ip", "netns", "exec", t.Namespace(n.Name), "nft", "-f", "-"); err != nil {
			return err
		}
	}
	return nil
}

// Reset takes a node's network namespace back to what Up made of it, as a boot
// of the node would.
func Reset(t *topology.Topology, node string) error {
	script := `for l in $(ip -o link | awk -F '[:@ ]+' '{print $2}'); do
	case $l in lo|eth0|mgmt) ;; *) ip link del "$l" 2>/dev/null || true ;; esac
done
nft flush ruleset
for l in eth0 mgmt; do ip neigh flush dev $l nud all; done`
	ns := t.Namespace(node)
	if err := run("", "ip", "netns", "exec", ns, "sh", "-euc", script); err != nil {
		return err
	}
	return run(t.Masquerade(), "ip", "netns", "exec", ns, "nft", "-f", "-")
}

// Down removes what Up made, as far as it is there.
func Down(t *topology.Topology) error {
	var errs []error
	for _, ns := range t.Namespaces() {
		errs = append(errs, killMembers(ns))
	}
	// The other end may be in a namespace that ends later, and asynchronously.
	if _, err := net.InterfaceByName(t.RootLink()); err == nil {
		errs = append(errs, ip("", "link", "del", t.RootLink()))
	}
	for _, ns := range t.Namespaces() {
		if _, err := os.Stat(filepath.Join("/run/netns", ns)); err == nil {
			errs = append(errs, ip("", "netns", "del", ns))
		}
	}
	return errors.Join(errs...)
}

// killMembers kills the processes still in a namespace of the lab, which would
// keep it alive: commands run there by `lab exec`, or daemons whose record was
// lost.
func killMembers(ns string) error {
	for _, f := range members(ns) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return fmt.Errorf("ip netns pids %s: %w", ns, err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill pid %d in %s: %w", pid, ns, err)
		}
	}
	return nil
}

// Dead reports whether no process is left in the lab's namespaces: its machine was
// stopped, or its processes were killed together with those that would have removed it.
func Dead(t *topology.Topology) bool {
	for _, ns := range t.Namespaces() {
		if len(members(ns)) > 0 {
			return false
		}
	}
	return true
}

// members are the pids in a namespace, none where there is no such namespace.
func members(ns string) []string {
	out, err := exec.Command("ip", "netns", "pids", ns).Output()
	if err != nil {
		return nil
	}
	return strings.Fields(string(out))
}

// Present reports whether any of the lab's namespaces or links are there.
func Present(t *topology.Topology) bool {
	for _, ns := range t.Namespaces() {
		if _, err := os.Stat(filepath.Join("/run/netns", ns)); err == nil {
			return true
		}
	}
	_, err := net.InterfaceByName(t.RootLink())
	return err == nil
}

// Lock keeps other labs on the machine, of whatever directory, from choosing
// the slot that this one has chosen and not yet taken. The lock is on a
// directory that every machine has, so that it leaves no file.
func Lock() (unlock func(), err error) {
	d, err := os.Open("/run")
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX); err != nil {
		d.Close()
		return nil, fmt.Errorf("lock /run: %w", err)
	}
	return func() { d.Close() }, nil
}

// FreeSlot finds a management range that no link of the root namespace is in,
// the highest first, for low ones are likelier in use beyond the machine.
func FreeSlot(name string) (int, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return 0, err
	}
	for slot := 255; slot >= 0; slot-- {
		t, err := topology.New(name, slot)
		if err != nil {
			return 0, err
		}
		used := false
		for _, a := range addrs {
			_, n, err := net.ParseCIDR(a.String())
			if err != nil {
				continue
			}
			used = used || n.Contains(t.API4.AsSlice()) || n.Contains(t.API6.AsSlice())
		}
		if !used {
			return slot, nil
		}
	}
	return 0, errors.New("every range in 172.30.0.0/16 is in use on this machine; take down the labs that are not needed")
}

func batch(b topology.Batch) error {
	args := []string{"-batch", "-"}
	if b.Namespace != "" {
		args = append([]string{"-n", b.Namespace}, args...)
	}
	return run(strings.Join(b.Lines, "\n")+"\n", "ip", args...)
}

func ip(input string, args ...string) error { return run(input, "ip", args...) }

func run(input, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
