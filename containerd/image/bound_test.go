//go:build linux

package image_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"swarm/containerd/image"
	"swarm/worker/engine"
)

// withLabel adds bytes to the configuration of an image.
func withLabel(t *testing.T, img v1.Image, bytes int) v1.Image {
	t.Helper()
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.Config.Labels = map[string]string{"long": strings.Repeat("x", bytes)}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

func TestPull_LargeConfiguration(t *testing.T) {
	n := newNode(t, image.Config{}, image.Deps{})
	host := newRegistry(t, nil)
	for what, c := range map[string]struct {
		bytes int
		says  string
	}{
		"large": {5 << 20, "at most 4194304 are allowed"},
		"long":  {1 << 20, "at most 524288 are allowed"},
	} {
		ref := host + "/" + what + ":1"
		push(t, ref, withLabel(t, newImage(t, 1), c.bytes), authn.Anonymous)
		_, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 1024 {
			t.Errorf("%s: got %.2000v, want invalid argument: %s", what, err, c.says)
		}
	}
	if held, err := n.List(t.Context()); err != nil || len(held) > 0 {
		t.Errorf("it holds %v, %v", held, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Archives and layers that require their reader to hold 128 MiB are refused.
func TestLoad_WindowsAreBounded(t *testing.T) {
	n := newNode(t, image.Config{}, image.Deps{})
	var hostile bytes.Buffer
	w, err := zstd.NewWriter(&hostile, zstd.WithWindowSize(128<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, io.LimitReader(zeros{}, 150<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	const says = "with a window of more than 32 MiB"
	_, err = n.Load(t.Context(), bytes.NewReader(hostile.Bytes()), "", nil)
	wantInvalid(t, "an archive", err, says)
	for _, mediaType := range []types.MediaType{types.OCILayerZStd, types.OCILayer, types.DockerLayer} {
		img, err := mutate.AppendLayers(newImage(t, 1), static.NewLayer(hostile.Bytes(), mediaType))
		if err != nil {
			t.Fatal(err)
		}
		_, err = n.Load(t.Context(), bytes.NewReader(ociArchive(t, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img}))), "hostile:1", nil)
		wantInvalid(t, "a layer of type "+string(mediaType), err, says)
	}
}

func TestLoad_EndsWhenTheDiskFills(t *testing.T) {
	full := errdefs.ErrResourceExhausted.WithMessage("its disk has 1 MB left")
	n := newNode(t, image.Config{}, image.Deps{Room: func(bytes int64) error {
		if bytes > 0 {
			return full
		}
		return nil
	}})
	archive := dockerArchive(t, "example.com/bomb:1", newImage(t, 1))
	release := make(chan struct{})
	first, second := io.Pipe()
	go func() {
		_, _ = second.Write(archive[:len(archive)/2])
		<-release
		_, _ = second.Write(archive[len(archive)/2:])
		_ = second.Close()
	}()
	asked := time.AfterFunc(time.Second, func() { close(release) })
	defer asked.Stop()
	_, err := n.Load(t.Context(), first, "", nil)
	_ = first.Close()
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), full.Error()) {
		t.Errorf("got %v, want %v", err, full)
	}
}
