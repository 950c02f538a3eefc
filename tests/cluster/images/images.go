// Package images makes container images out of static binaries, so that the
// lab needs no registry and no image from elsewhere.
package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Image is what goes into an image.
type Image struct {
	Ref        string            // "docker.io/berthdev/testapp:dev"
	Files      map[string]string // path in the image: file on the machine
	Links      map[string]string // path in the image: target
	Dirs       []string
	Entrypoint []string
	Cmd        []string
	Env        []string
}

// Write makes the image an archive, as `docker save` does, in file.
func (i Image) Write(file string) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Ref, err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer)), nil
	})
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Ref, err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Ref, err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return err
	}
	cf = cf.DeepCopy()
	cf.Architecture, cf.OS = "amd64", "linux"
	cf.Config = v1.Config{Entrypoint: i.Entrypoint, Cmd: i.Cmd, Env: append([]string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin"}, i.Env...)}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		return fmt.Errorf("image %s: %w", i.Ref, err)
	}
	tag, err := name.NewTag(i.Ref)
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(file+".new", tag, img); err != nil {
		return fmt.Errorf("image %s: %w", i.Ref, err)
	}
	return os.Rename(file+".new", file)
}

// layer is the image's one layer, the same bytes for the same content.
func (i Image) layer() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	dirs := map[string]bool{}
	mkdir := func(p string) error {
		var todo []string
		for d := path.Clean(p); d != "/" && d != "." && !dirs[d]; d = path.Dir(d) {
			dirs[d] = true
			todo = append(todo, d)
		}
		for k := len(todo) - 1; k >= 0; k-- {
			mode := int64(0o755)
			if todo[k] == "/tmp" {
				mode = 0o1777
			}
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: todo[k][1:] + "/", Mode: mode, ModTime: time.Unix(0, 0)}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, d := range i.Dirs {
		if err := mkdir(d); err != nil {
			return nil, err
		}
	}
	for _, p := range sorted(i.Files) {
		if err := mkdir(path.Dir(p)); err != nil {
			return nil, err
		}
		b, err := os.ReadFile(i.Files[p])
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: p[1:], Mode: 0o755, Size: int64(len(b)), ModTime: time.Unix(0, 0)}); err != nil {
			return nil, err
		}
		if _, err := w.Write(b); err != nil {
			return nil, err
		}
	}
	for _, p := range sorted(i.Links) {
		if err := mkdir(path.Dir(p)); err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: p[1:], Linkname: i.Links[p], Mode: 0o777, ModTime: time.Unix(0, 0)}); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func sorted(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
