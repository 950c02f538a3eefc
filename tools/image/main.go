// Command image writes the one container image of Berth as a docker archive: static binaries on an empty root, nothing else.
// The same binaries give the same bytes.
//
//	image -bin bin -out dist/image.tar -tag docker.io/berthdev/berth:dev
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// binaries of the image, all in /usr/local/bin. The agent copies berth, the CNI plugin, to the host.
var binaries = []string{"berth", "berth-agent", "berth-controller", "kubectl-berth"}

// epoch is the time of every file and of the image: builds must not differ by when they were made.
var epoch = time.Unix(0, 0).UTC()

func main() {
	bin := flag.String("bin", "bin", "directory of the binaries")
	out := flag.String("out", "dist/image.tar", "docker archive to write")
	ref := flag.String("tag", "docker.io/berthdev/berth:dev", "reference of the image")
	flag.Parse()
	if err := run(*bin, *out, *ref); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(bin, out, ref string) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	img, err := build(bin)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return tarball.WriteToFile(out, tag, img)
}

func build(bin string) (v1.Image, error) {
	content, err := layerTar(bin)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
	if err != nil {
		return nil, err
	}
	img, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "tools/image"},
	})
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.Created = v1.Time{Time: epoch}
	cfg.OS, cfg.Architecture = "linux", runtime.GOARCH
	cfg.Config = v1.Config{
		Env:    []string{"PATH=/usr/local/bin"},
		Cmd:    []string{"/usr/local/bin/kubectl-berth", "version"},
		Labels: map[string]string{"org.opencontainers.image.source": "https://github.com/berthdev/berth"},
	}
	return mutate.ConfigFile(img, cfg)
}

// layerTar is the file system: the binaries, and /tmp.
func layerTar(bin string) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, d := range []struct {
		name string
		mode int64
	}{{"tmp/", 0o1777}, {"usr/", 0o755}, {"usr/local/", 0o755}, {"usr/local/bin/", 0o755}} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d.name, Mode: d.mode, ModTime: epoch}); err != nil {
			return nil, err
		}
	}
	for _, b := range binaries {
		data, err := os.ReadFile(filepath.Join(bin, b))
		if err != nil {
			return nil, fmt.Errorf("%w; run make build", err)
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: "usr/local/bin/" + b, Mode: 0o755, Size: int64(len(data)), ModTime: epoch}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
