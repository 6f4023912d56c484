//go:build linux

// Package document reads the JSON documents of images: indexes, manifests and configurations.
// Layers are streamed, but a document is held in memory, and the author of the image has chosen its
// size and content. Therefore all code of the node reads documents through this package, which
// refuses documents that exceed its limits before it decodes them. Archive does the same for the
// entries of an archive.
//
// The package owns the limits for documents and archives. It stores nothing and runs no goroutine.
// Packages containerd, imagecache and image call it.
package document

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/internal/spec"
)

const (
	// MaxSize is the largest size of a document in bytes. Registries and containerd refuse larger
	// manifests too.
	MaxSize = 4 << 20
	// maxElements is how many elements all lists and objects of a document may have together.
	// Decoded, an empty descriptor of 3 bytes needs more than 100.
	maxElements = 64 << 10
	// maxLayers is how many layers a manifest may have, as in Docker, because overlayfs supports no
	// more.
	maxLayers = 128
	// maxManifests is how many manifests an index may list, and how many names of images an
	// archive.
	maxManifests = 1024
	// maxType is the longest media type in bytes, as in RFC 6838.
	maxType = 255
	// maxPlatform is the longest platform in bytes, all its fields together.
	maxPlatform = 255
)

// limitError says that a document exceeds a limit. It is an ErrInvalidArgument.
type limitError struct{ text string }

func (e *limitError) Error() string { return e.text }
func (e *limitError) Unwrap() error { return errdefs.ErrInvalidArgument }

func beyond(format string, args ...any) error { return &limitError{fmt.Sprintf(format, args...)} }

// Limit returns the text for users if err says that a document exceeds a limit, else "".
func Limit(err error) string {
	var e *limitError
	if errors.As(err, &e) {
		return e.text
	}
	return ""
}

// CheckSize returns ErrInvalidArgument if the descriptor says that a document exceeds MaxSize.
func CheckSize(desc imagespec.Descriptor) error {
	if desc.Size > MaxSize {
		return beyond("%s has %d bytes, at most %d are allowed", describe(desc), desc.Size, MaxSize)
	}
	return nil
}

func describe(desc imagespec.Descriptor) string {
	what := "document"
	switch {
	case images.IsConfigType(desc.MediaType):
		what = "configuration"
	case images.IsIndexType(desc.MediaType):
		what = "index"
	case images.IsManifestType(desc.MediaType):
		what = "manifest"
	}
	return what + " " + desc.Digest.String()
}

// Bounded returns a provider of the documents in another provider. Its readers hold the whole
// document. ErrInvalidArgument: the blob exceeds a limit. Bounded checks the blob itself and does
// not trust its descriptor.
func Bounded(from content.Provider) content.Provider { return bounded{from} }

type bounded struct{ from content.Provider }

func (b bounded) ReaderAt(ctx context.Context, desc imagespec.Descriptor) (content.ReaderAt, error) {
	r, err := b.from.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	desc.Size = r.Size()
	if err := CheckSize(desc); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.NewSectionReader(r, 0, desc.Size))
	if err != nil {
		return nil, err
	}
	if err := checkElements(describe(desc), data); err != nil {
		return nil, err
	}
	return held{bytes.NewReader(data)}, nil
}

// checkElements refuses a document that would need very much memory when it is decoded.
func checkElements(what string, data []byte) error {
	// Each element of a list or an object except the first follows a comma. Commas in texts count
	// too, but no real document has so many.
	if n := bytes.Count(data, []byte(",")); n > maxElements {
		return beyond("%s has %d elements, at most %d are allowed", what, n, maxElements)
	}
	return nil
}

// held is a document in memory.
type held struct{ *bytes.Reader }

func (held) Close() error { return nil }

// Read returns a document. ErrNotFound: the provider does not have it. ErrInvalidArgument: it
// exceeds a limit.
func Read(ctx context.Context, from content.Provider, desc imagespec.Descriptor) ([]byte, error) {
	desc.Data = nil // A copy of the blob in the descriptor would evade the limits.
	return content.ReadBlob(ctx, Bounded(from), desc)
}

// Children returns the manifests that an index lists, or the configuration and the layers of a
// manifest. It returns nothing for other descriptors. ErrInvalidArgument: the document exceeds a
// limit.
func Children(ctx context.Context, from content.Provider, desc imagespec.Descriptor) ([]imagespec.Descriptor, error) {
	desc.Data = nil
	children, err := images.Children(ctx, Bounded(from), desc)
	if err != nil {
		return nil, err
	}
	switch n := len(children); {
	case images.IsIndexType(desc.MediaType) && n > maxManifests:
		return nil, beyond("%s lists %d manifests, at most %d are allowed", describe(desc), n, maxManifests)
	case images.IsManifestType(desc.MediaType) && n-1 > maxLayers:
		return nil, beyond("%s has %d layers, at most %d are allowed", describe(desc), n-1, maxLayers)
	}
	for _, child := range children {
		if err := checkWords(desc, child.MediaType, child.Platform); err != nil {
			return nil, err
		}
	}
	return children, nil
}

// checkWords refuses a media type or a platform that is too long, because both are kept in memory
// for each image and each of its blobs.
func checkWords(in imagespec.Descriptor, mediaType string, p *imagespec.Platform) error {
	if n := len(mediaType); n > maxType {
		return beyond("%s has a media type of %d bytes, at most %d are allowed", describe(in), n, maxType)
	}
	if p == nil {
		return nil
	}
	words := append([]string{p.OS, p.Architecture, p.Variant, p.OSVersion}, p.OSFeatures...)
	if n := len(strings.Join(words, " ")); n > maxPlatform {
		return beyond("%s has a platform of %d bytes, at most %d are allowed", describe(in), n, maxPlatform)
	}
	return nil
}

// Image is the configuration of an image, including the fields that Docker adds to those of OCI.
type Image struct {
	imagespec.Image
	Extra Extra
}

// Extra has the fields that Docker adds to the configuration of an image.
type Extra struct {
	Healthcheck *Healthcheck
	// Shell is the program, with its first arguments, that runs commands written as one text.
	Shell []string
}

// Healthcheck is a HEALTHCHECK of a Dockerfile. Durations are in nanoseconds.
type Healthcheck struct {
	Test                                          []string
	Interval, Timeout, StartPeriod, StartInterval int64
	Retries                                       int64
}

// Config returns a configuration. ErrInvalidArgument: its variables, arguments, labels, paths and
// ports exceed the limits that hold for those of a service.
func Config(ctx context.Context, from content.Provider, desc imagespec.Descriptor) (Image, error) {
	var image Image
	var docker struct {
		Config Extra `json:"config"`
	}
	data, err := Read(ctx, from, desc)
	if err != nil {
		return image, err
	}
	if err := errors.Join(json.Unmarshal(data, &image.Image), json.Unmarshal(data, &docker)); err != nil {
		return image, fmt.Errorf("%s is not JSON of an image: %w", describe(desc), err)
	}
	image.Extra = docker.Config
	if err := checkWords(desc, "", &image.Platform); err != nil {
		return image, err
	}
	c := image.Config
	labels := slices.Concat(slices.Collect(maps.Keys(c.Labels)), slices.Collect(maps.Values(c.Labels)))
	own := []string{c.WorkingDir, c.StopSignal}
	paths := slices.Concat(slices.Collect(maps.Keys(c.Volumes)), slices.Collect(maps.Keys(c.ExposedPorts)))
	var check []string
	if h := image.Extra.Healthcheck; h != nil {
		check = h.Test
	}
	if over := spec.TooMuchText(c.Env, c.Entrypoint, c.Cmd, labels, own, paths, check, image.Extra.Shell); over != "" {
		return image, beyond("%s has %s", describe(desc), over)
	}
	return image, nil
}

// ConfigOf returns the configuration of an image's manifest for a platform.
func ConfigOf(ctx context.Context, from content.Provider, target imagespec.Descriptor, platform platforms.MatchComparer) (Image, error) {
	target.Data = nil
	desc, err := images.Config(ctx, Bounded(from), target, platform)
	if err != nil {
		return Image{}, err
	}
	return Config(ctx, from, desc)
}
