//go:build linux

package transfer

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"swarm/containerd/document"
	"swarm/containerd/image/progress"
	"swarm/containerd/image/registry"
	"swarm/containerd/image/survey"
	swarmv1 "swarm/proto/swarm/v1"
)

// Push sends the image with the index or manifest root, all its platforms, from the store to the
// registry of the pusher. It sends the blobs first, then the manifests that name them, then the
// index. The registry does not receive again what it has already. tell receives reports of
// progress, and may be nil.
//
// The error has one of the classes of registry.Class, or is a registry.LocalError, for example if
// this node does not hold the blobs of a platform.
func Push(ctx context.Context, store content.Store, pusher remotes.Pusher, root ocispec.Descriptor, tell func(*swarmv1.ImageProgress)) error {
	u := &upload{store: store, pusher: pusher, tell: tell}
	return u.tree(ctx, root)
}

// upload is one push.
type upload struct {
	store  content.Store
	pusher remotes.Pusher
	tell   func(*swarmv1.ImageProgress) // may be nil
	board  *progress.Board              // of the manifest that is being sent
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
	u.board = progress.NewBoard(u.tell, progress.Pushing, children)
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
		u.board.Say(progress.AlreadyPushed, desc)
		return nil
	}
	if err != nil {
		return fmt.Errorf("push %s: %w", desc.Digest, err)
	}
	defer w.Close()
	body := &progress.Reader{From: io.NewSectionReader(from, 0, desc.Size), Meter: u.board.Of(desc.Digest)}
	if err := content.Copy(ctx, w, body, desc.Size, desc.Digest); err != nil {
		return fmt.Errorf("push %s: %w", desc.Digest, err)
	}
	u.board.Say(progress.Pushed, desc)
	return nil
}

// incomplete returns the error of a blob that cannot be read. If the blob does not exist, the error
// tells the user that this node holds the image for some platforms only.
func incomplete(desc ocispec.Descriptor, err error) error {
	if !errdefs.IsNotFound(err) {
		return &registry.LocalError{Err: fmt.Errorf("read %s: %w", desc.Digest, err)}
	}
	what := "a part of it"
	if desc.Platform != nil {
		what = survey.Describe([]ocispec.Platform{*desc.Platform})
	}
	return &registry.LocalError{Err: errdefs.ErrNotFound.WithMessage(fmt.Sprintf("this node holds it without %s: load the whole image with `swarm image load`, and push that", what))}
}
