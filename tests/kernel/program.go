package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// commands that tests call and busybox has not, or not enough of. The machine gets them from this one, with their libraries.
var commands = []string{
	"sh", // busybox's prefers its own ip to ours, whatever PATH says
	"ip", "tc", "nft", "setpriv", "sysctl",
	"iptables-nft-restore", "iptables-legacy", "iptables-legacy-restore", "ip6tables-legacy-restore",
}

// programs are the files that all machines have, by their paths there: test binaries with their testdata, commands, libraries.
func programs(ctx context.Context, o opts, work string) (map[string]string, error) {
	files := make(map[string]string)
	for _, p := range o.packages {
		binary := filepath.Join(work, strings.ReplaceAll(p, "/", "-")+".test")
		fmt.Println("building the tests of", p)
		build := exec.CommandContext(ctx, "go", "test", "-c", "-ldflags", "-s -w", "-o", binary, "./"+p)
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // as the product is
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the tests of %s: %w\n%s", p, err, out)
		}
		files["tests/"+p+"/test"] = binary
		err := filepath.WalkDir(filepath.Join(p, "testdata"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files["tests/"+path] = path
			}
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
	}
	return files, addCommands(files)
}

func addCommands(files map[string]string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("busybox: %w; install busybox-static", err)
	}
	files["bin/busybox"] = busybox
	files["etc/protocols"] = "/etc/protocols" // nft's names of protocols, in listings
	for _, c := range commands {
		path, err := look(c)
		if err != nil {
			return err
		}
		files["usr/bin/"+c] = path
		if err := addLibraries(files, path); err != nil {
			return err
		}
	}
	// What iptables has for each match and target, it loads by name.
	for _, dir := range []string{"/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib/xtables"} {
		plugins, _ := filepath.Glob(filepath.Join(dir, "*.so"))
		for _, p := range plugins {
			files[p[1:]] = p
		}
	}
	return nil
}

// look for a command also where only root's PATH leads, and follow its links.
func look(command string) (string, error) {
	path, err := exec.LookPath(command)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + command)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w; make deps installs it", command, err)
	}
	return filepath.EvalSymlinks(path)
}

var library = regexp.MustCompile(`(?m)(/\S+) \(0x`)

func addLibraries(files map[string]string, binary string) error {
	out, err := exec.Command("ldd", binary).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ldd %s: %w\n%s", binary, err, out)
	}
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		real, err := filepath.EvalSymlinks(m[1])
		if err != nil {
			return err
		}
		files[m[1][1:]] = real
	}
	return nil
}

// folders above the files, each before those in it.
func folders(files map[string]string) (dirs []string) {
	for name := range files {
		for d := filepath.Dir(name); d != "."; d = filepath.Dir(d) {
			dirs = append(dirs, d)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}
