package images

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	app := filepath.Join(dir, "app")
	if err := os.WriteFile(app, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	img := Image{
		Ref:        "docker.io/berthdev/app:dev",
		Files:      map[string]string{"/bin/app": app},
		Links:      map[string]string{"/bin/sh": "app"},
		Dirs:       []string{"/tmp"},
		Entrypoint: []string{"/bin/app"},
		Cmd:        []string{"serve"},
	}
	file := filepath.Join(dir, "app.tar")
	if err := img.Write(file); err != nil {
		t.Fatal(err)
	}

	tag, err := name.NewTag(img.Ref)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tarball.ImageFromPath(file, &tag)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := got.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cf.Config.Entrypoint, img.Entrypoint) || !slices.Equal(cf.Config.Cmd, img.Cmd) || cf.OS != "linux" {
		t.Errorf("configuration %+v", cf.Config)
	}
	layers, err := got.Layers()
	if err != nil {
		t.Fatal(err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"tmp/", "bin/", "bin/app", "bin/sh"}
	if names := entries(t, r); !slices.Equal(names, want) {
		t.Errorf("entries %v, want %v", names, want)
	}
}

func TestWriteMissingFile(t *testing.T) {
	img := Image{Ref: "docker.io/berthdev/app:dev", Files: map[string]string{"/app": "/nonexistent/app"}}
	if err := img.Write(filepath.Join(t.TempDir(), "app.tar")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func entries(t *testing.T, r io.Reader) []string {
	t.Helper()
	var names []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}
