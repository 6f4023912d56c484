//go:build linux

// Package survey finds out how much of an image a content store holds.
//
// It owns the limits on how many manifests, platforms and nested indexes an image may have, and
// returns ErrInvalidArgument for images that exceed them. The limits are needed because each node
// keeps the digests of its images' blobs in memory, and each manager their platforms. The package
// only reads the store. Package image and its subpackages call it. It runs no goroutine.
package survey

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/document"
)

// Blob is one piece of an image: an index, a manifest, a configuration or a layer.
type Blob struct {
	MediaType string
	Size      int64 // in bytes
}

// Result says how much of an image a content store holds.
type Result struct {
	// Blobs has the indexes, and all blobs of the complete manifests, by digest.
	Blobs map[string]Blob
	// Platforms are those of the complete manifests. An image without any cannot be used.
	Platforms []ocispec.Platform
	// Missing is the digest of a blob that the store does not hold; empty if it holds all.
	Missing string

	listed int // manifests and indexes that were looked at
}

// Size returns the size of all blobs together, in bytes.
func (x Result) Size() (n int64) {
	for _, b := range x.Blobs {
		n += b.Size
	}
	return n
}

// Serves reports whether a complete manifest is for a platform that m matches. A manifest without a
// platform is for every platform.
func (x Result) Serves(m platforms.Matcher) bool {
	return slices.ContainsFunc(x.Platforms, func(p ocispec.Platform) bool {
		return p.OS == "" || p.Architecture == "" || m.Match(p)
	})
}

// Take finds out which blobs of the image with the index or manifest root are in the store.
//
// ErrInvalidArgument: the image is damaged or too large to be kept. Missing blobs are not an error.
func Take(ctx context.Context, store content.Store, root ocispec.Descriptor) (Result, error) {
	x := Result{Blobs: map[string]Blob{}}
	return x, x.walk(ctx, store, root, 0)
}

const (
	// MaxNesting is how many indexes may lead to an index. Builders make a single index of
	// manifests; OCI allows more.
	MaxNesting = 3
	// maxListed is how many manifests all indexes of an image may list together, and maxPlatforms
	// for how many platforms the image may be: each node remembers the blobs, and each manager the
	// platforms.
	maxListed, maxPlatforms = 1024, 64
)

// walk adds the blobs that desc leads to. It returns ErrInvalidArgument for an index that is listed
// twice or nested too deep. A few small indexes that list each other many times can name billions
// of manifests, and each later walk through the image would take very long.
func (x *Result) walk(ctx context.Context, store content.Store, desc ocispec.Descriptor, depth int) error {
	if images.IsIndexType(desc.MediaType) {
		if _, twice := x.Blobs[desc.Digest.String()]; twice || depth > MaxNesting {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("index %s is listed twice, or more than %d levels deep", desc.Digest, MaxNesting))
		}
	}
	x.listed++
	if x.listed > maxListed {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("its indexes list more than %d manifests", maxListed))
	}
	children, err := document.Children(ctx, store, desc)
	if errdefs.IsNotFound(err) {
		if x.Missing == "" {
			x.Missing = desc.Digest.String()
		}
		return nil // This node holds the image without the platform of this manifest.
	}
	if err != nil {
		return err
	}
	if images.IsIndexType(desc.MediaType) {
		x.add(desc)
		for _, child := range children {
			if err := x.walk(ctx, store, child, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	for _, child := range children {
		_, err := store.Info(ctx, child.Digest)
		if errdefs.IsNotFound(err) {
			x.Missing = child.Digest.String()
			return nil
		}
		if err != nil {
			return err
		}
	}
	return x.manifest(ctx, store, desc, children)
}

// manifest adds a complete manifest. children are its configuration and layers.
func (x *Result) manifest(ctx context.Context, store content.Store, desc ocispec.Descriptor, children []ocispec.Descriptor) error {
	x.add(desc)
	for _, child := range children {
		x.add(child)
	}
	p, err := PlatformOf(ctx, store, desc, children)
	if err != nil {
		return err
	}
	if p.OS == "unknown" { // an attestation
		return nil
	}
	x.Platforms = append(x.Platforms, p)
	if len(x.Platforms) > maxPlatforms {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("it is for more than %d platforms", maxPlatforms))
	}
	return nil
}

func (x *Result) add(desc ocispec.Descriptor) {
	x.Blobs[desc.Digest.String()] = Blob{MediaType: desc.MediaType, Size: desc.Size}
}

// PlatformOf returns the platform of a manifest: the platform in its descriptor desc if there is
// one, else the platform in its configuration, else the zero Platform. It always reads the
// configuration, which is one of children, and returns an error if the configuration is not valid.
func PlatformOf(ctx context.Context, store content.Provider, desc ocispec.Descriptor, children []ocispec.Descriptor) (ocispec.Platform, error) {
	var configured ocispec.Platform
	for _, child := range children {
		if images.IsConfigType(child.MediaType) {
			config, err := document.Config(ctx, store, child)
			if err != nil {
				return ocispec.Platform{}, err
			}
			configured = platforms.Normalize(config.Platform)
			break
		}
	}
	if desc.Platform != nil {
		return platforms.Normalize(*desc.Platform), nil
	}
	return configured, nil
}

// Describe lists platforms for people, as in "linux/amd64, linux/arm64".
func Describe(all []ocispec.Platform) string {
	var words []string
	for _, p := range all {
		words = append(words, platforms.Format(p))
	}
	return strings.Join(words, ", ")
}
