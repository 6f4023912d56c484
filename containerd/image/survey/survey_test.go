//go:build linux

package survey

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A few small indexes that list each other many times are refused, because a walk would take years.
func TestTake_RefusesAnExplosion(t *testing.T) {
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	inner := put(t, store, []byte(`{"manifests":[]}`))
	inner.MediaType = ocispec.MediaTypeImageIndex
	for _, copies := range []int{100, 1} {
		outer := inner
		for range MaxNesting + 1 {
			data, err := json.Marshal(ocispec.Index{Manifests: slices.Repeat([]ocispec.Descriptor{outer}, copies)})
			if err != nil {
				t.Fatal(err)
			}
			outer = put(t, store, data)
			outer.MediaType = ocispec.MediaTypeImageIndex
		}
		if _, err := Take(t.Context(), store, outer); !errdefs.IsInvalidArgument(err) {
			t.Errorf("indexes that list each other %d times: got %v, want a refusal", copies, err)
		}
	}
}

// An image may use a limited part of the memory of nodes and managers.
func TestTake_IsBounded(t *testing.T) {
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	config := put(t, store, []byte(`{"os":"linux","architecture":"amd64"}`))
	config.MediaType = ocispec.MediaTypeImageConfig
	index := func(manifests ...ocispec.Descriptor) ocispec.Descriptor {
		data, err := json.Marshal(ocispec.Index{Manifests: manifests})
		if err != nil {
			t.Fatal(err)
		}
		d := put(t, store, data)
		d.MediaType = ocispec.MediaTypeImageIndex
		return d
	}
	data, err := json.Marshal(ocispec.Manifest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	manifest := put(t, store, data)
	manifest.MediaType = ocispec.MediaTypeImageManifest
	for n, says := range map[int]string{maxPlatforms: "", maxPlatforms + 1: "more than 64 platforms"} {
		_, err := Take(t.Context(), store, index(slices.Repeat([]ocispec.Descriptor{manifest}, n)...))
		if says == "" && err != nil || says != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says)) {
			t.Errorf("%d platforms: got %v, want %q", n, err, says)
		}
	}
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent")}
	half := slices.Repeat([]ocispec.Descriptor{absent}, maxListed/2)
	_, err = Take(t.Context(), store, index(index(half...), index(slices.Concat(half, half[:1])...)))
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "more than 1024 manifests") {
		t.Errorf("many manifests: got %v, want a refusal", err)
	}
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
