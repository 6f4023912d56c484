//go:build linux

package image_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"swarm/worker"
	"swarm/worker/containerd/image"
)

// withLabel gives an image a configuration of some more bytes.
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
		_, err := n.Pull(t.Context(), worker.PullRequest{Ref: ref}, nil)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 1024 {
			t.Errorf("%s: got %.2000v, want invalid argument: %s", what, err, c.says)
		}
	}
	if held, err := n.List(t.Context()); err != nil || len(held) > 0 {
		t.Errorf("it holds %v, %v", held, err)
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
