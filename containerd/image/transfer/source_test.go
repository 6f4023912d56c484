//go:build linux

package transfer

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/image/peer"
	"swarm/containerd/image/registry"
	"swarm/containerd/image/survey"
	"swarm/containerd/image/watchdog"
	"swarm/internal/spec"
)

// slowSource is a node that is too slow until it is deferred.
type slowSource struct{ *peer.Source }

func (slowSource) String() string { return "slow" }

// A slow node comes after the registry, in this pull and in those of the next minutes, and is not
// given up.
func TestEach_SlowNodesComeLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow, last Source = slowSource{peer.NewClient(nil).Source("slow")},
			registry.New(registry.Config{}, registry.Deps{}).Source(spec.Image{Name: "localhost/app"}, registry.Credentials{})
		pull := func() (order []string) {
			d := NewDownload(Request{}, Deps{Sources: []Source{slow, last}, Log: slog.New(slog.DiscardHandler)})
			err := d.trySources(t.Context(), func(src Source) error {
				order = append(order, src.String())
				switch {
				case src == last:
					return errdefs.ErrNotFound
				case isDeferred(slow):
					return nil
				}
				return watchdog.ErrSlow
			})
			if err != nil {
				t.Error(err)
			}
			return order
		}
		for _, want := range []string{"[slow registry localhost slow]", "[registry localhost slow]"} {
			if got := fmt.Sprint(pull()); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		time.Sleep(5 * time.Minute) // peer defers a node for so long.
		if isDeferred(slow) {
			t.Error("it is deferred without end")
		}
	})
}

// FuzzManifest surveys what a registry or an archive may call a manifest or an index, with the
// configuration that it names.
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
