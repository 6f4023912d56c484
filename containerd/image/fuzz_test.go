//go:build linux

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/document"
	"swarm/containerd/image/survey"
	"swarm/containerd/inflate"
)

// FuzzManifest: what a registry or an archive calls a manifest or an index, and the configuration that it names.
func FuzzManifest(f *testing.F) {
	config := []byte(`{"os":"linux","architecture":"amd64","config":{"Env":["A=1"]}}`)
	dgst := digest.FromBytes(config).String()
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"`+dgst+`","size":62},"layers":[]}`), config)
	f.Add([]byte(`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"`+dgst+`","size":-1}]}`), config)
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		mediaType, err := mediaTypeOf(manifest)
		if err != nil {
			return
		}
		ctx := context.Background()
		store, err := local.NewStore(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		root := put(t, store, manifest)
		put(t, store, config)
		root.MediaType = mediaType
		_, _ = survey.Take(ctx, store, root)
	})
}

// put stores a blob.
func put(t *testing.T, store content.Store, data []byte) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := content.WriteBlob(context.Background(), store, desc.Digest.String(), bytes.NewReader(data), desc); err != nil {
		t.Fatal(err)
	}
	return desc
}

// FuzzArchive: what a user loads, plain or compressed, up to its index.
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
		_, _ = archive.ImportIndex(context.Background(), anyNode{store}, document.Archive(plain))
	})
}

// FuzzCredentials: the header in which a user's credentials for a registry come.
func FuzzCredentials(f *testing.F) {
	f.Add(base64.URLEncoding.EncodeToString([]byte(`{"username":"u","password":"p","auth":"YTpi"}`)))
	f.Fuzz(func(t *testing.T, header string) {
		c, err := parseCredentials(header)
		if err == nil {
			_, _ = c.secret()
		}
	})
}
