//go:build linux

package inflate

import (
	"archive/tar"
	"bufio"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// maxHeld is how many bytes containerd may need for the entries of a layer while it unpacks the
// layer. It remembers the path of each entry, and the header of each folder. A million files and
// some hundred thousand folders fit.
const maxHeld = 256 << 20

// heldOf returns roughly how many bytes containerd needs for an entry.
func heldOf(h *tar.Header) int {
	held := 128 + len(h.Name)
	if h.Typeflag != tar.TypeDir {
		return held
	}
	for k, v := range h.PAXRecords {
		held += len(k) + len(v)
	}
	return held + 384
}

// errEntries says that a layer has too many entries. It is an ErrInvalidArgument.
var errEntries = errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the layer has too many entries: their headers take more than %d MiB", maxHeld>>20))

// entries passes a layer, a tar, on unchanged, and fails when it has too many entries. A second
// reader of tars looks at the bytes that were read, so that both readers see the same entries.
type entries struct {
	from io.ReadCloser
	look *io.PipeWriter
	read io.Reader
	done chan struct{} // closed when the second reader has ended
}

func boundEntries(from io.ReadCloser, most int) *entries {
	look, to := io.Pipe()
	e := &entries{from: from, look: to, read: io.TeeReader(from, to), done: make(chan struct{})}
	go func() {
		defer close(e.done)
		if err := count(look, most); err != nil {
			look.CloseWithError(err)
			return
		}
		_, _ = io.Copy(io.Discard, look) // It fails only with an error of the other end.
	}()
	return e
}

func (e *entries) Read(p []byte) (int, error) {
	n, err := e.read.Read(p)
	if err != nil {
		_ = e.look.CloseWithError(err) // It never fails.
	}
	return n, err
}

func (e *entries) Close() error {
	_ = e.look.Close()
	<-e.done
	return e.from.Close()
}

// count returns errEntries if there are too many entries. It ignores other errors in the layer,
// which the unpacking finds.
func count(from io.Reader, most int) error {
	r := tar.NewReader(bufio.NewReaderSize(from, 32<<10))
	held := 0
	for {
		h, err := r.Next()
		if err != nil {
			return nil
		}
		held += heldOf(h)
		if held > most {
			return errEntries
		}
	}
}
