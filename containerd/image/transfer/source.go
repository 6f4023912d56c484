//go:build linux

package transfer

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source delivers blobs: a registry, or another node. Implementations are comparable and safe for
// concurrent use.
//
// ErrNotFound: the source does not have the blob. After any other error a peer is not asked again.
type Source interface {
	// Root opens the index or manifest with a digest.
	Root(ctx context.Context, d digest.Digest) (io.ReadCloser, error)
	// Open opens a blob at an offset in bytes.
	Open(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
	// String names the source in the log.
	fmt.Stringer
}

// Peer is another node as a source.
type Peer interface {
	Source
	// Deferred reports whether the node is to be asked after all other sources.
	Deferred() bool
	// Defer makes Deferred return true for some time.
	Defer()
	// AskDirectly reports whether the node has redirected a request for the blob, and makes it
	// serve the blob itself from now on. It returns true once for each blob.
	AskDirectly(d digest.Digest) bool
}

func isDeferred(src Source) bool {
	peer, ok := src.(Peer)
	return ok && peer.Deferred()
}

func askDirectly(src Source, d digest.Digest) bool {
	peer, ok := src.(Peer)
	return ok && peer.AskDirectly(d)
}
