//go:build linux

package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/image/progress"
	"swarm/containerd/image/registry"
)

// errCorrupt says that a source delivered content with another digest.
var errCorrupt = errdefs.ErrDataLoss.WithMessage("the content does not have the requested digest")

// blob fetches one blob, if the store does not have it.
func (d *Download) blob(ctx context.Context, desc ocispec.Descriptor) error {
	if desc.Size < 0 || desc.Digest.Validate() != nil {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the manifest is damaged: blob %q of %d bytes", desc.Digest, desc.Size))
	}
	return d.trySources(ctx, func(src Source) error {
		for {
			resumed, err := d.from(ctx, src, desc)
			var local *registry.LocalError
			if err == nil || ctx.Err() != nil || errors.As(err, &local) {
				return err
			}
			// Try the same source again in two cases: the first part of a corrupt blob came from an
			// earlier attempt, or the source has redirected this node to a node that failed.
			tryAgain := errors.Is(err, errCorrupt) && resumed || askDirectly(src, desc.Digest)
			if !tryAgain {
				return err
			}
		}
	})
}

// from fetches a blob from one source, and continues where an earlier attempt ended. It discards a
// blob with the wrong content.
func (d *Download) from(ctx context.Context, src Source, desc ocispec.Descriptor) (resumed bool, err error) {
	key := remotes.MakeRefKey(ctx, desc)
	w, err := content.OpenWriter(ctx, d.deps.Store, content.WithRef(key), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, &registry.LocalError{Err: fmt.Errorf("store blob %s: %w", desc.Digest, err)}
	}
	status, err := w.Status()
	if err != nil {
		_ = w.Close()
		return false, &registry.LocalError{Err: fmt.Errorf("store blob %s: %w", desc.Digest, err)}
	}
	err = d.copy(ctx, w, src, desc, status.Offset)
	if cerr := w.Close(); err == nil && cerr != nil {
		err = &registry.LocalError{Err: fmt.Errorf("store blob %s: %w", desc.Digest, cerr)}
	}
	if errors.Is(err, errCorrupt) {
		if aerr := d.deps.Store.Abort(ctx, key); aerr != nil && !errdefs.IsNotFound(aerr) {
			err = &registry.LocalError{Err: errors.Join(err, aerr)}
		}
	}
	return status.Offset > 0, err
}

func (d *Download) copy(ctx context.Context, w content.Writer, src Source, desc ocispec.Descriptor, offset int64) error {
	meter := d.board.Of(desc.Digest)
	if offset < desc.Size {
		body, err := src.Open(ctx, desc, offset)
		if err != nil {
			return err
		}
		defer body.Close()
		meter.Add(offset)
		read := &progress.Reader{From: io.LimitReader(body, desc.Size-offset), Meter: meter}
		n, err := copyChunks(w, read)
		offset += n
		switch {
		case read.Err != nil:
			meter.Add(-offset)
			return fmt.Errorf("read blob %s: %w", desc.Digest, registry.Class(read.Err))
		case err != nil:
			return &registry.LocalError{Err: fmt.Errorf("store blob %s: %w", desc.Digest, err)}
		case offset < desc.Size:
			meter.Add(-offset)
			return fmt.Errorf("read blob %s: it ended after %d of %d bytes: %w", desc.Digest, offset, desc.Size, errdefs.ErrUnavailable)
		}
	}
	err := w.Commit(ctx, desc.Size, desc.Digest)
	switch {
	case err == nil, errdefs.IsAlreadyExists(err):
		return nil
	case errdefs.IsFailedPrecondition(err): // This is containerd's class for a different digest or size.
		meter.Add(-desc.Size)
		return fmt.Errorf("blob %s: %w", desc.Digest, errCorrupt)
	}
	return &registry.LocalError{Err: fmt.Errorf("store blob %s: %w", desc.Digest, err)}
}

// chunk is how many bytes of a blob are written to containerd at once.
const chunk = 1 << 20

// copyChunks copies in large pieces, because each piece costs a call to containerd.
func copyChunks(w io.Writer, r io.Reader) (written int64, err error) {
	buf := make([]byte, chunk)
	for {
		n, rerr := io.ReadFull(r, buf)
		if n > 0 {
			m, err := w.Write(buf[:n])
			written += int64(m)
			if err != nil {
				return written, err
			}
		}
		switch {
		case errors.Is(rerr, io.EOF), errors.Is(rerr, io.ErrUnexpectedEOF):
			return written, nil
		case rerr != nil:
			return written, rerr
		}
	}
}
