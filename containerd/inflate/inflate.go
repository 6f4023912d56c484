//go:build linux

// Package inflate decompresses the layers and archives of images. The author of a zstd stream
// chooses its window, which is how much of the text a reader must hold: a layer of some kilobytes
// can require 512 MiB, of which containerd's own reader allocates twice as much. This package
// refuses windows of more than 32 MiB. It also refuses layers with very many entries, which
// containerd remembers while it unpacks a layer: a single folder, listed millions of times,
// compresses to little.
//
// It stores nothing. A reader has one goroutine, and those of its library, until Close. Package
// image calls Stream, and the embedded containerd uses Processor.
package inflate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/klauspost/compress/zstd"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxWindow is the largest window in bytes. Builders of images choose 8 MiB at most levels, and
// BuildKit 32 MiB at its highest.
const maxWindow = 32 << 20

// ErrWindow says that a stream has a larger window. It is an ErrInvalidArgument.
var ErrWindow = errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("it is compressed by zstd with a window of more than %d MiB: compress it at level 19 or less, and without --long", maxWindow>>20))

// Stream returns the decompressed content of a gzip or zstd stream, and other content unchanged.
// It, or a read of its result, returns ErrWindow if the window is too large.
func Stream(from io.Reader) (io.ReadCloser, error) {
	buf := bufio.NewReaderSize(from, 32<<10)
	head, err := buf.Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if compression.DetectCompression(head) != compression.Zstd {
		return compression.DecompressStream(buf)
	}
	z, err := zstd.NewReader(buf, zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return reader{z}, nil
}

// reader decompresses zstd.
type reader struct{ z *zstd.Decoder }

func (r reader) Read(p []byte) (int, error) {
	n, err := r.z.Read(p)
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = ErrWindow
	}
	return n, err
}

func (r reader) Close() error {
	r.z.Close()
	return nil
}

// Processor is a diff.Handler that takes the place of containerd's, and limits the entries of a
// layer.
func Processor(ctx context.Context, mediaType string) (diff.StreamProcessorInit, bool) {
	how, err := images.DiffCompression(ctx, mediaType)
	if err != nil {
		return nil, false
	}
	return func(_ context.Context, from diff.StreamProcessor, _ map[string]typeurl.Any) (diff.StreamProcessor, error) {
		if how == "" {
			return layer{boundEntries(from, maxHeld)}, nil
		}
		plain, err := Stream(from)
		if err != nil {
			return nil, err
		}
		return layer{boundEntries(plain, maxHeld)}, nil
	}, true
}

// layer is a decompressed layer.
type layer struct{ io.ReadCloser }

func (layer) MediaType() string { return imagespec.MediaTypeImageLayer }
