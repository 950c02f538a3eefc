package build

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/berthdev/berth/tests/cluster/images"
)

// busybox is Debian's busybox-static. It is in the test image for the people
// and tests that look around in a pod.
const busybox = "/bin/busybox"

var applets = []string{
	"sh", "arp", "arping", "awk", "cat", "chmod", "cp", "cut", "date", "dd", "dmesg", "env", "expr", "find", "grep", "head",
	"hostname", "id", "ifconfig", "ip", "ipcalc", "kill", "killall", "ln", "ls", "mkdir", "mount", "mv", "nc", "netstat",
	"nslookup", "ping", "ping6", "printf", "ps", "pwd", "readlink", "rm", "route", "sed", "seq", "sleep", "sort", "stat",
	"tail", "tar", "tee", "telnet", "test", "time", "timeout", "top", "touch", "tr", "traceroute", "traceroute6", "umount",
	"uname", "uniq", "vi", "watch", "wc", "wget", "which", "xargs", "yes",
}

func (b *Builder) images() error {
	dir := filepath.Join(b.Dir, "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	links := map[string]string{}
	for _, a := range applets {
		links["/bin/"+a] = "busybox"
	}
	list := map[string]images.Image{
		"pause.tar": {
			Ref:        "docker.io/berthdev/pause:dev",
			Files:      map[string]string{"/pause": b.bin("pause")},
			Entrypoint: []string{"/pause"},
		},
		"coredns.tar": {
			Ref:        "docker.io/berthdev/coredns:dev",
			Files:      map[string]string{"/coredns": b.bin("coredns")},
			Entrypoint: []string{"/coredns"},
		},
		"testapp.tar": {
			Ref:        "docker.io/berthdev/testapp:dev",
			Files:      map[string]string{"/bin/testapp": b.bin("testapp"), "/bin/busybox": busybox},
			Links:      links,
			Dirs:       []string{"/tmp", "/etc", "/root", "/proc", "/sys"},
			Entrypoint: []string{"/bin/testapp"},
			Cmd:        []string{"serve"},
		},
	}
	for file, img := range list {
		path := filepath.Join(dir, file)
		if newer(path, img.Files) {
			continue
		}
		b.Say("making image %s", img.Ref)
		if err := img.Write(path); err != nil {
			return fmt.Errorf("%w (busybox comes with the Debian package busybox-static)", err)
		}
	}
	return nil
}

// newer reports whether the archive is there and younger than its files.
func newer(archive string, files map[string]string) bool {
	a, err := os.Stat(archive)
	if err != nil {
		return false
	}
	for _, f := range files {
		if s, err := os.Stat(f); err != nil || s.ModTime().After(a.ModTime()) {
			return false
		}
	}
	return true
}
