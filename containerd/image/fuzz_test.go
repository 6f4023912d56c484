//go:build linux

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/plugins/content/local"

	"swarm/containerd/document"
	"swarm/containerd/inflate"
)

// FuzzArchive imports what a user may load, plain or compressed, up to its index.
func FuzzArchive(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": `{"manifests":[]}`, "manifest.json": `[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l"]}]`} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			f.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, data []byte) {
		plain, err := inflate.Stream(bytes.NewReader(data))
		if err != nil {
			return
		}
		defer plain.Close()
		store, err := local.NewStore(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = archive.ImportIndex(context.Background(), withoutLayers{store}, document.Archive(plain))
	})
}
