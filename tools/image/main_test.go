package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func writeBinaries(t *testing.T, dir string) {
	t.Helper()
	for _, b := range binaries {
		if err := os.WriteFile(filepath.Join(dir, b), []byte("binary "+b), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestImageIsReproducible(t *testing.T) {
	var archives [2][]byte
	for i := range archives {
		dir := t.TempDir()
		writeBinaries(t, dir)
		old := time.Now().Add(-time.Duration(i) * time.Hour)
		for _, b := range binaries {
			if err := os.Chtimes(filepath.Join(dir, b), old, old); err != nil {
				t.Fatal(err)
			}
		}
		out := filepath.Join(dir, "dist", "image.tar")
		if err := run(dir, out, "docker.io/berthdev/berth:dev"); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		archives[i] = data
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same binaries gave two different archives")
	}
}

func TestImageHoldsTheBinaries(t *testing.T) {
	dir := t.TempDir()
	writeBinaries(t, dir)
	out := filepath.Join(dir, "image.tar")
	if err := run(dir, out, "docker.io/berthdev/berth:dev"); err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(out, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.OS != "linux" || cfg.Architecture == "" {
		t.Errorf("platform %s/%s", cfg.OS, cfg.Architecture)
	}
	content, err := layerTar(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range binaries {
		if !bytes.Contains(content, []byte("usr/local/bin/"+b)) {
			t.Errorf("no %s in the layer", b)
		}
	}
}

func TestMissingBinaryNamesTheRemedy(t *testing.T) {
	err := run(t.TempDir(), filepath.Join(t.TempDir(), "image.tar"), "docker.io/berthdev/berth:dev")
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("error %v, want one that says make build", err)
	}
}
