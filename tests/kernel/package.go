package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kernel is an unpacked one.
type kernel struct {
	version string // as uname -r says
	dir     string // vmlinuz, modules.builtin and the modules
}

// fetch unpacks Debian's newest kernel whose version begins so. What is there already is not looked for again; delete the folder
// for a newer one.
func fetch(ctx context.Context, dir, version string) (kernel, error) {
	if have, _ := filepath.Glob(filepath.Join(dir, version+".*", "vmlinuz")); len(have) > 0 {
		d := filepath.Dir(have[len(have)-1])
		return kernel{filepath.Base(d), d}, nil
	}
	name, err := newest(ctx, version)
	if err != nil {
		return kernel{}, err
	}
	fmt.Println("fetching", name)
	k := kernel{version: strings.TrimPrefix(name, "linux-image-")}
	k.dir = filepath.Join(dir, k.version)
	next := k.dir + ".next"
	if err := errors.Join(os.RemoveAll(next), os.MkdirAll(next, 0o755)); err != nil {
		return kernel{}, err
	}
	get := exec.CommandContext(ctx, "apt-get", "download", "-q", name)
	get.Dir = next
	if out, err := get.CombinedOutput(); err != nil {
		return kernel{}, fmt.Errorf("apt-get download %s (apt-get update helps where lists are old): %w\n%s", name, err, out)
	}
	debs, _ := filepath.Glob(filepath.Join(next, "*.deb"))
	if len(debs) != 1 {
		return kernel{}, fmt.Errorf("%d packages downloaded for %s", len(debs), name)
	}
	if err := unpack(ctx, debs[0], next); err != nil {
		return kernel{}, fmt.Errorf("unpack %s: %w", name, err)
	}
	return k, errors.Join(os.Remove(debs[0]), os.Rename(next, k.dir))
}

// newest of the packages that apt knows.
func newest(ctx context.Context, version string) (string, error) {
	pattern := fmt.Sprintf(`^linux-image-%s\.[0-9][-+.0-9a-z]*-amd64$`, regexp.QuoteMeta(version))
	out, err := exec.CommandContext(ctx, "apt-cache", "search", "--names-only", pattern).Output()
	if err != nil {
		return "", fmt.Errorf("apt-cache search: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(line, " ")
		if !strings.Contains(name, "-rt-") && !strings.Contains(name, "-cloud-") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "", fmt.Errorf("apt knows no kernel %s: run apt-get update, or add a Debian release or its backports that has one", version)
	}
	return slices.MaxFunc(names, byVersion), nil
}

// byVersion orders the names of packages of one kernel.
func byVersion(a, b string) int { return slices.Compare(numbers(a), numbers(b)) }

var digits = regexp.MustCompile(`\d+`)

func numbers(s string) (n []int) {
	for _, d := range digits.FindAllString(s, -1) {
		i, _ := strconv.Atoi(d) // it is digits
		n = append(n, i)
	}
	return n
}

// unpack keeps the kernel and what modules of it are about networks.
func unpack(ctx context.Context, deb, dir string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = extract(tar.NewReader(out), dir)
	if err != nil {
		_ = cmd.Process.Kill() // what it did not say would block it
	}
	return errors.Join(err, cmd.Wait())
}

func extract(in *tar.Reader, dir string) error {
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		base := filepath.Base(h.Name)
		switch {
		case h.Typeflag != tar.TypeReg:
			continue
		case strings.HasPrefix(base, "vmlinuz-"):
			base = "vmlinuz"
		case base == "modules.builtin":
		case isModule(base) && slices.ContainsFunc([]string{"/kernel/net/", "/kernel/drivers/net/", "/kernel/lib/", "/kernel/crypto/"},
			func(below string) bool { return strings.Contains(h.Name, below) }):
		default:
			continue
		}
		f, err := os.Create(filepath.Join(dir, base))
		if err != nil {
			return err
		}
		_, err = io.Copy(f, in)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}
