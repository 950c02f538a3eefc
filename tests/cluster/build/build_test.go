package build

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestStamp(t *testing.T) {
	src := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module x")
	b := &Builder{Source: src, Dir: t.TempDir()}
	c := component{name: "x", pkg: "tool", outputs: []string{"x"}}
	stamp := func() string {
		t.Helper()
		s, err := b.stamp(c)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := stamp()
	if stamp() != first {
		t.Error("the same sources have two stamps")
	}
	write("x_test.go", "package x")
	if stamp() != first {
		t.Error("a test makes a new stamp")
	}
	write("go.mod", "module x // v2")
	second := stamp()
	if second == first {
		t.Error("another go.mod has the same stamp")
	}
	c.ldflags = "-X y=z"
	if stamp() == second {
		t.Error("other flags have the same stamp")
	}
}

func TestFresh(t *testing.T) {
	b := &Builder{Dir: t.TempDir()}
	c := component{dir: "components/x", outputs: []string{"x"}}
	if err := os.MkdirAll(filepath.Join(b.Dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if b.fresh(c, "s") {
		t.Error("fresh without a stamp")
	}
	if err := os.WriteFile(b.stampFile(c), []byte("s"), 0o644); err != nil {
		t.Fatal(err)
	}
	if b.fresh(c, "s") {
		t.Error("fresh without the binary")
	}
	if err := os.WriteFile(b.bin("x"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if !b.fresh(c, "s") || b.fresh(c, "other") {
		t.Error("the stamp is not what decides")
	}
}

func TestNewer(t *testing.T) {
	dir := t.TempDir()
	file, archive := filepath.Join(dir, "file"), filepath.Join(dir, "archive")
	for _, f := range []string{file, archive} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	if !newer(archive, map[string]string{"/f": file}) {
		t.Error("a younger archive is taken for stale")
	}
	if newer(file, map[string]string{"/f": archive}) {
		t.Error("a stale archive is taken for new")
	}
	if newer(filepath.Join(dir, "none"), nil) {
		t.Error("a missing archive is taken for new")
	}
}

// Everything the nodes get must come from somewhere.
func TestOutputsAreUnique(t *testing.T) {
	seen := map[string]string{}
	for _, c := range components {
		for _, o := range c.outputs {
			if other, ok := seen[o]; ok {
				t.Errorf("%s is built by %s and by %s", o, other, c.name)
			}
			seen[o] = c.name
		}
	}
}
