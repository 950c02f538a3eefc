package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Builder builds from the sources in Source, which is tests/cluster of a
// checkout, into Dir.
type Builder struct {
	Source string
	Dir    string
	Say    func(format string, args ...any)
}

func (b *Builder) bin(name string) string { return filepath.Join(b.Dir, "bin", name) }

// Build builds what is not there in its present version, then the images.
func (b *Builder) Build(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(b.Dir, "bin"), 0o755); err != nil {
		return err
	}
	// Labs of other names share the directory; whoever comes second finds all
	// built.
	lock, err := os.Create(filepath.Join(b.Dir, "bin", ".lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	for i, c := range components {
		want, err := b.stamp(c)
		if err != nil {
			return err
		}
		if b.fresh(c, want) {
			continue
		}
		b.Say("building %s (%d of %d)", c.name, i+1, len(components))
		start := time.Now()
		if err := b.compile(ctx, c); err != nil {
			return err
		}
		if err := os.WriteFile(b.stampFile(c), []byte(want), 0o644); err != nil {
			return err
		}
		b.Say("  %s: %.0f s", c.name, time.Since(start).Seconds())
	}
	if err := b.etcd(); err != nil {
		return err
	}
	return b.images()
}

// etcd puts Debian's beside what is built.
func (b *Builder) etcd() error {
	path, err := exec.LookPath("etcd")
	if err != nil {
		return fmt.Errorf("etcd: %w; it comes with the Debian package etcd-server", err)
	}
	if err := os.Remove(b.bin("etcd")); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Symlink(path, b.bin("etcd"))
}

func (b *Builder) compile(ctx context.Context, c component) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", strings.TrimSpace("-s -w "+c.ldflags),
		"-o", filepath.Join(b.Dir, "bin")+"/", c.pkg)
	cmd.Dir = filepath.Join(b.Source, c.dir)
	// A workspace or flags of the caller must not change what is built.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=", "GOOS=linux")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s in %s: %w\n%s", c.name, cmd.Dir, err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

func (b *Builder) stampFile(c component) string {
	return b.bin("." + strings.ReplaceAll(c.dir, "/", "-") + ".stamp")
}

func (b *Builder) fresh(c component, want string) bool {
	got, err := os.ReadFile(b.stampFile(c))
	if err != nil || string(got) != want {
		return false
	}
	for _, o := range c.outputs {
		if _, err := os.Stat(b.bin(o)); err != nil {
			return false
		}
	}
	return true
}

// stamp is a hash of all that decides what a component's binaries are: its
// sources, the versions in its go.mod, and its flags. The Go version is left
// out, since another compiler is no reason to wait six minutes.
func (b *Builder) stamp(c component) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n", c.pkg, c.ldflags)
	dir := filepath.Join(b.Source, c.dir)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(p, "_test.go") {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s %x\n", d.Name(), sha256.Sum256(data))
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("sources of %s: %w", c.name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
