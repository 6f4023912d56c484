//go:build linux

package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/klauspost/compress/zstd"

	"swarm/containerd/image"
	swarmv1 "swarm/proto/swarm/v1"
)

// ociArchive is a tar of an OCI layout.
func ociArchive(t *testing.T, index v1.ImageIndex) []byte {
	t.Helper()
	dir := t.TempDir()
	if _, err := ocilayout.Write(dir, index); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: rel, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstded(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

func TestLoad_DockerArchiveInEveryCompression(t *testing.T) {
	t.Parallel()
	n := newNode(t, image.Config{}, image.Deps{})
	archive := dockerArchive(t, "hello:1", newImage(t, 2))
	var digest string
	for name, data := range map[string][]byte{"plain": archive, "gzip": gzipped(t, archive), "zstd": zstded(t, archive)} {
		var last *swarmv1.ImageProgress
		var read int64
		images, err := n.Load(t.Context(), slowReader{bytes.NewReader(data)}, "", func(p *swarmv1.ImageProgress) {
			if last = p; p.GetStep() == "load" {
				read = p.GetCurrent()
			}
		})
		if err != nil || len(images) != 1 {
			t.Fatalf("%s: got %v, %v, want one image", name, images, err)
		}
		img := images[0]
		if digest == "" {
			digest = img.GetDigest()
		}
		if img.GetDigest() != digest || img.GetName() != "docker.io/library/hello:1" || !img.GetLoaded() || img.GetSize() < 400<<10 ||
			len(img.GetPlatforms()) != 1 || img.GetPlatforms()[0].GetOs() != "linux" {
			t.Errorf("%s: got %v", name, img)
		}
		if last == nil || read < int64(len(data))-4096 {
			t.Errorf("%s: progress told %d bytes last, want about %d", name, read, len(data))
		}
		n.wantUnpacked(t, "hello:1")
	}
	images, err := n.List(t.Context())
	if err != nil || len(images) != 1 || images[0].GetDigest() != digest {
		t.Errorf("list: got %v, %v, want one image", images, err)
	}
}

// The layers of a Docker archive are plain tars. A node that holds the same layers compressed must
// give the image the same digest.
func TestLoad_DigestDoesNotDependOnTheNode(t *testing.T) {
	t.Parallel()
	img := newImage(t, 2)
	plain := dockerArchive(t, "hello:1", img)
	fresh := newNode(t, image.Config{}, image.Deps{})
	other := newNode(t, image.Config{}, image.Deps{})
	if _, err := other.Load(t.Context(), bytes.NewReader(ociArchive(t, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img}))), "twin:1", nil); err != nil {
		t.Fatal(err)
	}
	want, err := fresh.Load(t.Context(), bytes.NewReader(plain), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := other.Load(t.Context(), bytes.NewReader(plain), "", nil)
	if err != nil || got[0].GetDigest() != want[0].GetDigest() {
		t.Errorf("digest: got %v, %v, want %s", got, err, want[0].GetDigest())
	}
}

func TestLoad_OCIArchive(t *testing.T) {
	t.Parallel()
	n := newNode(t, image.Config{}, image.Deps{})
	img, second := newImage(t, 1), newImage(t, 1)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	annotated := func(img v1.Image, name string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Annotations: map[string]string{"org.opencontainers.image.ref.name": name}}}
	}

	data := ociArchive(t, mutate.AppendManifests(empty.Index, annotated(img, "example.com/a/b:2")))
	images, err := n.Load(t.Context(), bytes.NewReader(data), "", nil)
	if err != nil || len(images) != 1 || images[0].GetName() != "example.com/a/b:2" || images[0].GetDigest() != digest.String() {
		t.Errorf("own name: got %v, %v", images, err)
	}
	images, err = n.Load(t.Context(), bytes.NewReader(data), "mine", nil)
	if err != nil || len(images) != 1 || images[0].GetName() != "docker.io/library/mine:latest" {
		t.Errorf("given name: got %v, %v", images, err)
	}
	images, err = n.Load(t.Context(), bytes.NewReader(ociArchive(t, mutate.AppendManifests(empty.Index, annotated(img, "x:1"), annotated(second, "x:2")))), "", nil)
	if err != nil || len(images) != 2 {
		t.Errorf("two images: got %v, %v", images, err)
	}
	_, err = n.Load(t.Context(), bytes.NewReader(ociArchive(t, mutate.AppendManifests(empty.Index, annotated(img, "x:1"), annotated(second, "x:2")))), "mine", nil)
	wantInvalid(t, "one name for two images", err, "only one")
	_, err = n.Load(t.Context(), bytes.NewReader(ociArchive(t, mutate.AppendManifests(empty.Index, annotated(img, "latest")))), "", nil)
	wantInvalid(t, "a bare tag", err, "--name")
}

func TestLoad_SeveralPlatforms(t *testing.T) {
	t.Parallel()
	n := newNode(t, image.Config{}, image.Deps{})
	own, foreign := newImage(t, 1), newImageFor(t, 1, "linux", "s390x")
	on := func(img v1.Image, arch string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}}
	}
	cfg, err := own.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(empty.Index, on(own, cfg.Architecture), on(foreign, "s390x"))
	for name, data := range map[string][]byte{
		"index of the layout": ociArchive(t, index),
		"index in the layout": ociArchive(t, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index})),
	} {
		images, err := n.Load(t.Context(), bytes.NewReader(data), "multi:1", nil)
		if err != nil || len(images) != 1 || len(images[0].GetPlatforms()) != 2 {
			t.Errorf("%s: got %v, %v, want one image for two platforms", name, images, err)
		}
		n.wantUnpacked(t, "multi:1")
	}
	images, err := n.Load(t.Context(), bytes.NewReader(dockerArchive(t, "foreign:1", foreign)), "", nil)
	if err != nil || len(images) != 1 || !n.Holds(images[0].GetDigest()) {
		t.Errorf("another platform alone: got %v, %v, want it held for others", images, err)
	}
}

func wantInvalid(t *testing.T, what string, err error, word string) {
	t.Helper()
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), word) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: got %v, want one line of invalid argument with %q", what, err, word)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestLoad_RefusesInOneLine(t *testing.T) {
	t.Parallel()
	n := newNode(t, image.Config{}, image.Deps{})
	archive := dockerArchive(t, "hello:1", newImage(t, 2))
	var other bytes.Buffer
	w := tar.NewWriter(&other)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "etc/passwd", Size: 1, Mode: 0o600}), second(w.Write([]byte("x"))), w.Close()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		data []byte
		word string
	}{
		{"nothing", nil, "empty"},
		{"text", bytes.Repeat([]byte("no archive at all\n"), 100), "neither an OCI nor a Docker archive"},
		{"short text", []byte("hello"), "archive"},
		{"another tar", other.Bytes(), "neither an OCI nor a Docker archive"},
		{"cut short", archive[:len(archive)/2], "ends too early"},
		{"cut gzip", gzipped(t, archive)[:100000], "docker save"},
	} {
		_, err := n.Load(t.Context(), bytes.NewReader(c.data), "", nil)
		wantInvalid(t, c.name, err, c.word)
	}
	_, err := n.Load(t.Context(), bytes.NewReader(archive), "Not A Name", nil)
	wantInvalid(t, "bad name", err, "not a reference")
	gone := errors.New("the sender is gone")
	if _, err := n.Load(t.Context(), io.MultiReader(bytes.NewReader(archive[:5000]), failing{gone}), "", nil); !errors.Is(err, gone) {
		t.Errorf("broken stream: got %v, want %v", err, gone)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Load(ctx, bytes.NewReader(archive), "", nil); !errors.Is(err, context.Canceled) && !errdefs.IsCanceled(err) {
		t.Errorf("cancelled: got %v", err)
	}
	if images, err := n.List(t.Context()); err != nil || len(images) != 0 {
		t.Errorf("list: got %v, %v, want none", images, err)
	}
}

func second(_ int, err error) error { return err }

func TestRemove(t *testing.T) {
	t.Parallel()
	n := newNode(t, image.Config{}, image.Deps{})
	data := dockerArchive(t, "hello:1", newImage(t, 1))
	images, err := n.Load(t.Context(), bytes.NewReader(data), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Load(t.Context(), bytes.NewReader(data), "alias:1", nil); err != nil {
		t.Fatal(err)
	}
	digest := images[0].GetDigest()
	if _, err := n.client.ContainerService().Create(t.Context(), containers.Container{
		ID: "c1", Image: "docker.io/library/hello:1", Runtime: containers.RuntimeInfo{Name: "none"}, Spec: emptySpec(t),
	}); err != nil {
		t.Fatal(err)
	}
	if err := n.Remove(t.Context(), digest); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "c1") {
		t.Errorf("remove what container c1 uses: got %v, want failed precondition", err)
	}
	if err := n.client.ContainerService().Delete(t.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	changed := n.Changed()
	if err := n.Remove(t.Context(), digest); err != nil {
		t.Fatal(err)
	}
	<-changed
	if n.Holds(digest) {
		t.Error("held after it was removed")
	}
	if _, err := n.Blob(t.Context(), digest); !errdefs.IsNotFound(err) {
		t.Errorf("blob of a removed image: got %v, want not found", err)
	}
	if _, err := n.Image(t.Context(), "hello:1"); !errdefs.IsNotFound(err) {
		t.Errorf("removed image: got %v, want not found", err)
	}
	if err := n.Remove(t.Context(), digest); !errdefs.IsNotFound(err) {
		t.Errorf("second removal: got %v, want not found", err)
	}
	if err := n.Remove(t.Context(), "hello:1"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("removal by name: got %v, want invalid argument", err)
	}
	var left []string
	if err := n.client.SnapshotService("overlayfs").Walk(t.Context(), snapshotNames(&left)); err != nil || len(left) > 0 {
		t.Errorf("snapshots left: %v", cmp.Diff([]string(nil), left))
	}
}
