//go:build linux

package image

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/worker/engine"
)

// Blob opens a blob that belongs to a held image or to one that is being pulled; ErrNotFound for anything else.
func (s *Store) Blob(ctx context.Context, digest string) (engine.Blob, error) {
	opened, _, err := s.open(ctx, digest)
	if err != nil {
		return nil, err
	}
	return opened, nil
}

func (s *Store) open(ctx context.Context, digest string) (content.ReaderAt, blob, error) {
	d, err := validDigest(digest)
	if err != nil {
		return nil, blob{}, err
	}
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, blob{}, fmt.Errorf("blob %s: %w", digest, err)
	}
	b, ok := c.blobs[digest]
	if !ok {
		b, ok = s.arrivals.here(digest)
	}
	if !ok {
		return nil, blob{}, errdefs.ErrNotFound.WithMessage("blob " + digest + " belongs to no image of this node")
	}
	r, err := s.client.ContentStore().ReaderAt(namespaced(ctx), ocispec.Descriptor{Digest: d, Size: b.size})
	if err != nil {
		return nil, blob{}, fmt.Errorf("blob %s: %w", digest, err)
	}
	return r, b, nil
}

// Handler serves the blobs of held images to other nodes: GET and HEAD of /v2/NAME/blobs/DIGEST and
// /v2/NAME/manifests/DIGEST, whatever the name, with ranges. It sends nodes on to others that got a large blob from this one, and those wait here for
// a blob that is on its way. Whoever may connect may read: the transport decides.
func (s *Store) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		giveTime(w)
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		digest, ok := blobPath(r.URL.Path)
		if !ok {
			http.NotFound(w, r)
			return
		}
		s.serve(w, r, digest)
	})
}

// blobPath takes the digest out of a path.
func blobPath(path string) (digest string, ok bool) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return "", false
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 3 {
		return "", false
	}
	kind := parts[len(parts)-2]
	return parts[len(parts)-1], kind == "blobs" || kind == "manifests"
}

func (s *Store) serve(w http.ResponseWriter, r *http.Request, digest string) {
	opened, b, err := s.open(r.Context(), digest)
	var coming <-chan struct{}
	query := r.URL.Query()
	if errdefs.IsNotFound(err) && query.Has(queryRelayed) {
		coming = s.arrivals.coming(digest)
	}
	caller := callerOf(r.Context())
	large := coming != nil || err == nil && b.size >= relaySize
	if caller != "" && large && r.Method == http.MethodGet && !query.Has(queryDirect) {
		elsewhere, done := s.relay.place(digest, caller, time.Now())
		if elsewhere != "" {
			if opened != nil {
				_ = opened.Close()
			}
			sendOn(w, r, elsewhere)
			return
		}
		defer func() { done(time.Now(), r.Context().Err() == nil) }()
	}
	if coming != nil {
		await(w, r, coming)
		opened, b, err = s.open(r.Context(), digest)
	}
	switch {
	case errdefs.IsNotFound(err), errdefs.IsInvalidArgument(err):
		http.NotFound(w, r)
		return
	case err != nil:
		s.log.Warn("blob not served", "digest", digest, "err", err)
		http.Error(w, "the node's store does not answer", http.StatusServiceUnavailable)
		return
	}
	defer opened.Close()
	w.Header().Set("Content-Type", b.mediaType)
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Etag", `"`+digest+`"`)
	s.transfer(w, r, limited{newBuffered(opened), r.Context(), &s.limiter})
}

const (
	// takePatience is how long a node may take over a blob, and the time that its bytes take at takeRate, before its
	// connection is closed. A node that reads nothing, or a little now and then, would hold the connection, its goroutine and
	// its buffers for ever.
	takePatience = 30 * time.Second
	// takeRate is in bytes a second. A node that cannot have a blob so fast gets it elsewhere.
	takeRate = 16 << 10
	// maxTransfers is how many blobs are sent at a time, to all nodes together. Each takes about half a MiB here and in
	// containerd.
	maxTransfers = 64
	// transferTurn is how long a request waits while there are as many. Less than nodePatience.
	transferTurn = 3 * time.Second
)

// transfer answers with a blob, as one of maxTransfers.
func (s *Store) transfer(w http.ResponseWriter, r *http.Request, content io.ReadSeeker) {
	ctx, cancel := context.WithTimeout(r.Context(), transferTurn)
	defer cancel()
	select {
	case s.transfers <- struct{}{}:
	case <-ctx.Done():
		http.Error(w, "the node sends as many blobs as it can", http.StatusServiceUnavailable)
		return
	}
	defer func() { <-s.transfers }()
	giveTime(w)
	send(w, r, content)
}

// giveTime has the connection closed unless what is written next is taken in time. A deadline of a former request ends.
func giveTime(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(takePatience)) // Connections in tests have none.
}

// send answers with a blob.
func send(w http.ResponseWriter, r *http.Request, content io.ReadSeeker) {
	http.ServeContent(w, r, "", time.Time{}, &moving{ReadSeeker: content, to: w})
}

// moving gives the node time for what it is sent. The time that reading takes does not count: it is this node's own, and may
// be the limiter's.
type moving struct {
	io.ReadSeeker
	to    http.ResponseWriter
	bytes int
	taken time.Duration // by the node, for all but the last piece
	since time.Time     // when the last piece was read
}

func (m *moving) Read(p []byte) (int, error) {
	if !m.since.IsZero() {
		m.taken += time.Since(m.since)
	}
	n, err := m.ReadSeeker.Read(p)
	m.since = time.Now()
	left := takePatience + time.Duration(m.bytes)*time.Second/takeRate - m.taken
	m.bytes += n
	_ = http.NewResponseController(m.to).SetWriteDeadline(m.since.Add(left)) // Connections in tests have none.
	return n, err
}

// sendOn has the caller ask another node for the same.
func sendOn(w http.ResponseWriter, r *http.Request, nodeID string) {
	u := url.URL{Scheme: "http", Host: nodeID, Path: r.URL.Path, RawQuery: queryRelayed}
	w.Header().Set("Location", u.String())
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// serveChunk is how much of a blob is asked of containerd at once: each time costs a call, and HTTP asks for 32 KiB. Each
// transfer has a buffer of it.
const serveChunk = 256 << 10

// buffered reads a blob in chunks.
type buffered struct {
	section *io.SectionReader
	*bufio.Reader
}

func newBuffered(r content.ReaderAt) *buffered {
	section := io.NewSectionReader(r, 0, r.Size())
	return &buffered{section: section, Reader: bufio.NewReaderSize(section, int(min(serveChunk, max(r.Size(), 16))))}
}

// Seek throws away what was read ahead.
func (b *buffered) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekCurrent {
		offset -= int64(b.Buffered())
	}
	at, err := b.section.Seek(offset, whence)
	b.Reset(b.section)
	return at, err
}
