//go:build linux

package inflate_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"runtime"
	"testing"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/inflate"
)

func zstded(t *testing.T, window int, from io.Reader) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, zstd.WithWindowSize(window))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, from); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestStream(t *testing.T) {
	text := bytes.Repeat([]byte("layer"), 1000)
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write(text)
	_ = w.Close()
	for what, data := range map[string][]byte{"plain": text, "gzip": zipped.Bytes(), "zstd": zstded(t, 32<<20, bytes.NewReader(text))} {
		r, err := inflate.Stream(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s: got %d bytes, %v", what, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if r, err := inflate.Stream(bytes.NewReader(nil)); err != nil {
		t.Errorf("nothing: %v", err)
	} else if got, err := io.ReadAll(r); err != nil || len(got) > 0 {
		t.Errorf("nothing: got %q, %v", got, err)
	}
}

// A small layer cannot make its reader hold much memory.
func TestProcessor_WindowIsBounded(t *testing.T) {
	hostile := zstded(t, 128<<20, io.LimitReader(zeros{}, 150<<20))
	for _, mediaType := range []string{imagespec.MediaTypeImageLayerZstd, "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar"} {
		start, ok := inflate.Processor(t.Context(), mediaType)
		if !ok {
			t.Errorf("%s is not read by it", mediaType)
			continue
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		p, err := start(t.Context(), diff.NewProcessorChain(mediaType, bytes.NewReader(hostile)), nil)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, p)
		runtime.ReadMemStats(&after)
		if !errdefs.IsInvalidArgument(err) || n > 0 {
			t.Errorf("%s: read %d bytes, %v, want invalid argument", mediaType, n, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 20<<20 {
			t.Errorf("%s: %d bytes of input take %d of memory", mediaType, len(hostile), used)
		}
		if p.MediaType() != imagespec.MediaTypeImageLayer {
			t.Errorf("it makes %s", p.MediaType())
		}
		_ = p.Close()
	}
	if _, ok := inflate.Processor(t.Context(), imagespec.MediaTypeImageManifest); ok {
		t.Error("it reads what is no layer")
	}
}
