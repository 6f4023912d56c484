//go:build linux

package document_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/document"
)

// blobs is a content provider in memory.
type blobs map[digest.Digest][]byte

type blob struct{ *bytes.Reader }

func (blob) Close() error { return nil }

func (b blobs) ReaderAt(_ context.Context, desc imagespec.Descriptor) (content.ReaderAt, error) {
	data, ok := b[desc.Digest]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return blob{bytes.NewReader(data)}, nil
}

// put stores a document with padding behind it. The descriptor says that it is small.
func (b blobs) put(t *testing.T, mediaType string, v any, padding int) imagespec.Descriptor {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, bytes.Repeat([]byte(" "), padding)...)
	d := digest.FromBytes(data)
	b[d] = data
	return imagespec.Descriptor{MediaType: mediaType, Digest: d, Size: 2}
}

func wantLimit(t *testing.T, what string, err error, says string) {
	t.Helper()
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(document.Limit(err), says) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: got %v, want invalid argument: %s", what, err, says)
	}
}

func TestConfig_IsBounded(t *testing.T) {
	store := blobs{}
	var env []string
	for i := range 150_000 {
		env = append(env, fmt.Sprintf("N%d", i)) // Few enough bytes for each of the other bounds.
	}
	config := func(c imagespec.ImageConfig) imagespec.Image { return imagespec.Image{Config: c} }
	set := map[string]struct{}{}
	labels := map[string]string{}
	for i := range 9000 {
		set[fmt.Sprint(i)], labels[fmt.Sprint(i)] = struct{}{}, "x"
	}
	long := strings.Repeat("x", 1<<20)
	for what, c := range map[string]struct {
		config  imagespec.Image
		padding int
		says    string
	}{
		"spaces":               {padding: document.MaxSize, says: "at most 4194304 are allowed"},
		"many variables":       {config: config(imagespec.ImageConfig{Env: env}), says: "has 150003 elements, at most 65536"},
		"variables":            {config: config(imagespec.ImageConfig{Env: env[:9000]}), says: "has 9002 variables, arguments and labels, at most 8192"},
		"labels":               {config: config(imagespec.ImageConfig{Labels: labels}), says: "at most 8192"},
		"volumes":              {config: config(imagespec.ImageConfig{Volumes: set}), says: "at most 8192"},
		"ports":                {config: config(imagespec.ImageConfig{ExposedPorts: set}), says: "at most 8192"},
		"a long argument":      {config: config(imagespec.ImageConfig{Cmd: []string{long}}), says: "at most 524288"},
		"a long entrypoint":    {config: config(imagespec.ImageConfig{Entrypoint: []string{long}}), says: "at most 524288"},
		"a long folder":        {config: config(imagespec.ImageConfig{WorkingDir: long}), says: "at most 524288"},
		"a long system":        {config: imagespec.Image{Platform: imagespec.Platform{OS: long}}, says: "a platform of 1048579 bytes, at most 255"},
		"many features":        {config: imagespec.Image{Platform: imagespec.Platform{OSFeatures: env[:100]}}, says: "at most 255"},
		"a long signal":        {config: config(imagespec.ImageConfig{StopSignal: long}), says: "at most 524288"},
		"hundreds of variable": {config: config(imagespec.ImageConfig{Env: env[:800]})},
	} {
		desc := store.put(t, imagespec.MediaTypeImageConfig, c.config, c.padding)
		_, err := document.Config(t.Context(), store, desc)
		if c.says == "" {
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		wantLimit(t, what, err, c.says)
		manifest := store.put(t, imagespec.MediaTypeImageManifest, imagespec.Manifest{Config: desc}, 0)
		_, err = document.ConfigOf(t.Context(), store, manifest, platforms.All)
		wantLimit(t, what+", by its manifest", err, c.says)
	}
}

func TestChildren_AreBounded(t *testing.T) {
	store := blobs{}
	layer := imagespec.Descriptor{MediaType: imagespec.MediaTypeImageLayerGzip, Digest: digest.FromString("layer"), Size: 1}
	config := store.put(t, imagespec.MediaTypeImageConfig, imagespec.Image{}, 0)
	manifest := func(layers, padding int) imagespec.Descriptor {
		return store.put(t, imagespec.MediaTypeImageManifest, imagespec.Manifest{Config: config, Layers: slices.Repeat([]imagespec.Descriptor{layer}, layers)}, padding)
	}
	notes := map[string]string{}
	for i := range 70_000 {
		notes[fmt.Sprint(i)] = ""
	}
	if all, err := document.Children(t.Context(), store, manifest(128, 0)); err != nil || len(all) != 129 {
		t.Errorf("128 layers: got %d children, %v", len(all), err)
	}
	for what, c := range map[string]struct {
		desc imagespec.Descriptor
		says string
	}{
		"layers":      {manifest(129, 0), "has 129 layers, at most 128"},
		"a large one": {manifest(1, document.MaxSize), "at most 4194304"},
		"an index":    {store.put(t, imagespec.MediaTypeImageIndex, imagespec.Index{Manifests: slices.Repeat([]imagespec.Descriptor{manifest(1, 0)}, 1025)}, 0), "lists 1025 manifests"},
		"a long type": {store.put(t, imagespec.MediaTypeImageManifest, imagespec.Manifest{Config: config, Layers: []imagespec.Descriptor{{MediaType: strings.Repeat("x", 256), Digest: layer.Digest}}}, 0), "a media type of 256 bytes, at most 255"},
		"a platform":  {store.put(t, imagespec.MediaTypeImageIndex, imagespec.Index{Manifests: []imagespec.Descriptor{{Digest: layer.Digest, Platform: &imagespec.Platform{Variant: strings.Repeat("x", 256)}}}}, 0), "at most 255"},
		"annotations": {store.put(t, imagespec.MediaTypeImageIndex, imagespec.Index{Annotations: notes}, 0), "elements, at most 65536"},
	} {
		_, err := document.Children(t.Context(), store, c.desc)
		wantLimit(t, what, err, c.says)
	}
}

// A descriptor may carry its blob itself, which would evade the provider and its limits.
func TestRead_TakesNoBlobFromItsDescriptor(t *testing.T) {
	data := []byte("{" + strings.Repeat(",", 70_000) + "}")
	desc := imagespec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data)), Data: data}
	if _, err := document.Read(t.Context(), blobs{}, desc); !errdefs.IsNotFound(err) {
		t.Errorf("got %v, want not found", err)
	}
	_, err := document.Read(t.Context(), blobs{desc.Digest: data}, desc)
	wantLimit(t, "commas", err, "at most 65536")
}
