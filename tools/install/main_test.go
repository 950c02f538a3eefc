package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestJoin(t *testing.T) {
	got := string(join([][]byte{[]byte("---\na: 1\n---\n\n---\nb: |\n  --- inside\n"), []byte("c: 3")}))
	want := header + "---\na: 1\n---\nb: |\n  --- inside\n---\nc: 3\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.yaml"), filepath.Join(dir, "out.yaml")
	if err := os.WriteFile(in, []byte("a: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(out, []string{in}); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(out); err != nil || string(data) != header+"---\na: 1\n" {
		t.Errorf("got %q, %v", data, err)
	}
	if err := run("", nil); err == nil {
		t.Error("no error without arguments")
	}
	if err := run(out, []string{filepath.Join(dir, "absent.yaml")}); err == nil {
		t.Error("no error for an absent manifest")
	}
}
