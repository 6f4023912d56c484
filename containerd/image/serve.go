//go:build linux

package image

import (
	"context"
	"fmt"
	"net/http"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/image/survey"
	"swarm/worker/engine"
)

// Blob opens a blob of an image that this node holds or is pulling. ErrNotFound: there is no such
// image.
func (s *Store) Blob(ctx context.Context, digest string) (engine.Blob, error) {
	opened, _, err := s.open(ctx, digest)
	if err != nil {
		return nil, err
	}
	return opened, nil
}

func (s *Store) open(ctx context.Context, digest string) (content.ReaderAt, survey.Blob, error) {
	d, err := validDigest(digest)
	if err != nil {
		return nil, survey.Blob{}, err
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, survey.Blob{}, fmt.Errorf("blob %s: %w", digest, err)
	}
	b, ok := c.blobs[digest]
	if !ok {
		b, ok = s.server.Arrived(digest)
	}
	if !ok {
		return nil, survey.Blob{}, errdefs.ErrNotFound.WithMessage("blob " + digest + " belongs to no image of this node")
	}
	r, err := s.client.ContentStore().ReaderAt(namespaced(ctx), ocispec.Descriptor{Digest: d, Size: b.Size})
	if err != nil {
		return nil, survey.Blob{}, fmt.Errorf("blob %s: %w", digest, err)
	}
	return r, b, nil
}

// Handler serves the blobs of this node's images to other nodes, see peer.Server.Handler.
func (s *Store) Handler() http.Handler { return s.server.Handler() }
