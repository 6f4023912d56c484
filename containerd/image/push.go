//go:build linux

package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"swarm/containerd/image/registry"
	"swarm/containerd/image/transfer"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Push sends an image that this node holds, all its platforms, to the registry in its name. tell
// receives reports of progress, and may be nil. ErrNotFound: this node does not hold the whole
// image. For other errors, see registry.PushError.
func (s *Store) Push(ctx context.Context, req engine.PushRequest, tell func(*swarmv1.ImageProgress)) error {
	ref, err := spec.ParseImage(req.Ref)
	if err != nil {
		return err
	}
	auth, err := registry.ParseCredentials(req.Auth)
	if err != nil {
		return err
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return fmt.Errorf("look at what is held: %w", err)
	}
	held := c.images[ref.Digest]
	if held == nil {
		return errdefs.ErrNotFound.WithMessage("this node does not hold it")
	}
	ctx = namespaced(registry.Quiet(ctx))
	pusher, err := s.registry.Pusher(ctx, ref, auth)
	if err != nil {
		return registry.PushError(ref, err)
	}
	if err := transfer.Push(ctx, s.client.ContentStore(), pusher, held.target, tell); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return registry.PushError(ref, err)
	}
	s.log.Info("image pushed", "image", ref.Name, "digest", ref.Digest)
	return nil
}
