//go:build linux

package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/containerd/document"
	"swarm/worker/engine"
)

// Push sends an image that this node holds, all its platforms, to the registry that its name names. What the registry
// has already is not sent again.
func (s *Store) Push(ctx context.Context, req engine.PushRequest, progress func(*swarmv1.ImageProgress)) error {
	ref, err := spec.ParseImage(req.Ref)
	if err != nil {
		return err
	}
	auth, err := parseCredentials(req.Auth)
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
	ctx = namespaced(quiet(ctx))
	// By the digest the pusher knows which of the manifests the tag is for.
	pusher, err := s.resolver(ref, auth).Pusher(ctx, ref.Name+"@"+ref.Digest)
	if err != nil {
		return refusal(ref, err)
	}
	u := &upload{store: s.client.ContentStore(), pusher: pusher, tell: progress}
	if err := u.tree(ctx, held.target); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return refusal(ref, err)
	}
	s.log.Info("image pushed", "image", ref.Name, "digest", ref.Digest)
	return nil
}

// upload sends one image's blobs, then the manifests that name them, then the index.
type upload struct {
	store  content.Store
	pusher remotes.Pusher
	tell   func(*swarmv1.ImageProgress) // may be nil
	board  *board                       // of the manifest under way
}

func (u *upload) tree(ctx context.Context, desc ocispec.Descriptor) error {
	children, err := document.Children(ctx, u.store, desc)
	if err != nil {
		return incomplete(desc, err)
	}
	if images.IsIndexType(desc.MediaType) {
		for _, c := range children {
			if err := u.tree(ctx, c); err != nil {
				return err
			}
		}
		return u.blob(ctx, desc)
	}
	u.board = newBoard(u.tell, layerGoes, children)
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	seen := map[digest.Digest]bool{}
	for _, c := range children {
		if !seen[c.Digest] {
			seen[c.Digest] = true
			group.Go(func() error { return u.blob(gctx, c) })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return u.blob(ctx, desc)
}

func (u *upload) blob(ctx context.Context, desc ocispec.Descriptor) error {
	from, err := u.store.ReaderAt(ctx, desc)
	if err != nil {
		return incomplete(desc, err)
	}
	defer from.Close()
	desc.URLs = nil
	w, err := u.pusher.Push(ctx, desc)
	if errdefs.IsAlreadyExists(err) {
		u.board.say(layerThere, desc)
		return nil
	}
	if err != nil {
		return fmt.Errorf("push %s: %w", desc.Digest, err)
	}
	defer w.Close()
	body := &metered{from: io.NewSectionReader(from, 0, desc.Size), meter: u.board.of(desc.Digest)}
	if err := content.Copy(ctx, w, body, desc.Size, desc.Digest); err != nil {
		return fmt.Errorf("push %s: %w", desc.Digest, err)
	}
	u.board.say(layerGone, desc)
	return nil
}

// incomplete is said of an image of several platforms of which this node has fetched its own.
func incomplete(desc ocispec.Descriptor, err error) error {
	if !errdefs.IsNotFound(err) {
		return &localError{fmt.Errorf("read %s: %w", desc.Digest, err)}
	}
	what := "a part of it"
	if desc.Platform != nil {
		what = describe([]ocispec.Platform{*desc.Platform})
	}
	return &localError{errdefs.ErrNotFound.WithMessage(fmt.Sprintf("this node holds it without %s: load the whole image with `swarm image load`, and push that", what))}
}

// refusal says in one line why a registry does not take an image, or a login.
func refusal(ref spec.Image, err error) error {
	registry := domain(ref.Name)
	var local *localError
	if errors.As(err, &local) {
		return local.err
	}
	err = classed(err)
	switch {
	case errdefs.IsFailedPrecondition(err):
		return errdefs.ErrFailedPrecondition.WithMessage(distrust(registry, err))
	case errdefs.IsUnauthorized(err):
		return errdefs.ErrUnauthenticated.WithMessage(fmt.Sprintf("registry %s wants a login: run `swarm login %s`", registry, registry))
	case errdefs.IsPermissionDenied(err):
		return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("registry %s does not let this user write: ask for access, or log in as another with `swarm login %s`", registry, registry))
	case errdefs.IsNotFound(err), errdefs.IsInvalidArgument(err), errdefs.IsCanceled(err):
		return err
	}
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("registry %s %s", registry, ailment(err)))
}
