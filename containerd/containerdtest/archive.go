//go:build linux

package containerdtest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	imagev1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// File is one file in the layer of an image. Its size is that of Body.
type File struct {
	tar.Header
	Body []byte
}

// Archive returns the output of `docker save` for an image for this machine, with one layer.
func Archive(ref string, config imagev1.Config, files ...File) ([]byte, error) {
	packed, err := pack(files)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed)), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	cfg, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Config = "linux", runtime.GOARCH, config
	if image, err = mutate.ConfigFile(image, cfg); err != nil {
		return nil, err
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	err = tarball.Write(tag, image, &archive)
	return archive.Bytes(), err
}

func pack(files []File) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var err error
	for _, f := range files {
		f.Size = int64(len(f.Body))
		err = errors.Join(err, w.WriteHeader(&f.Header))
		_, werr := w.Write(f.Body)
		err = errors.Join(err, werr)
	}
	return b.Bytes(), errors.Join(err, w.Close())
}
