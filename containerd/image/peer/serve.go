//go:build linux

// Package peer moves the blobs of images between nodes: Server sends them, Client fetches them.
//
// It owns the protocol between the two, a part of the registry protocol with redirects: a large
// blob spreads over the cluster like a tree, so that the first node that has the blob sends it
// twice, not once for each node. It limits how much bandwidth, memory and time other nodes may cost
// this node. It does not authenticate other nodes, because the transport does, and it does not
// verify content: the caller does, by the digest. Package image calls it. It runs no goroutine.
package peer

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"

	"swarm/containerd/image/survey"
)

// Config is data.
type Config struct {
	// Bandwidth is how many bytes a second this node sends to all other nodes together, at most. 0:
	// there is no limit.
	Bandwidth int64
}

// Deps are live objects.
type Deps struct {
	Log *slog.Logger
	// Open opens a blob that other nodes may have. ErrNotFound: this node does not hold the blob.
	// ErrInvalidArgument: the digest is malformed. Other errors are answered as transient.
	Open func(ctx context.Context, digest string) (content.ReaderAt, survey.Blob, error)
}

// Server sends blobs to other nodes. Its methods are safe for concurrent use.
type Server struct {
	deps     Deps
	relay    relay
	limiter  limiter
	arrivals arrivals
	// transfers holds an element for each blob that is being sent.
	transfers chan struct{}
}

// NewServer returns a server.
func NewServer(cfg Config, deps Deps) *Server {
	return &Server{deps: deps, limiter: limiter{rate: cfg.Bandwidth}, transfers: make(chan struct{}, maxTransfers)}
}

// Handler serves blobs to other nodes: GET and HEAD of /v2/NAME/blobs/DIGEST and
// /v2/NAME/manifests/DIGEST, with any name, and with ranges. It redirects a node that asks for a
// large blob to a node that has got the blob from this one, where the request waits while the blob
// is still on its way. It serves every caller: the transport decides which may connect.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		extendDeadline(w)
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

// blobPath returns the digest in a path.
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

func (s *Server) serve(w http.ResponseWriter, r *http.Request, digest string) {
	opened, b, err := s.deps.Open(r.Context(), digest)
	var coming <-chan struct{}
	query := r.URL.Query()
	if errdefs.IsNotFound(err) && query.Has(queryRelayed) {
		coming = s.arrivals.coming(digest)
	}
	caller := callerOf(r.Context())
	sent := false // the caller got the blob, and not an error
	large := coming != nil || err == nil && b.Size >= relaySize
	if caller != "" && large && r.Method == http.MethodGet && !query.Has(queryDirect) {
		elsewhere, done := s.relay.place(digest, caller, time.Now())
		if elsewhere != "" {
			if opened != nil {
				_ = opened.Close()
			}
			redirect(w, r, elsewhere)
			return
		}
		defer func() { done(time.Now(), sent && r.Context().Err() == nil) }()
	}
	if coming != nil {
		await(w, r, coming)
		opened, b, err = s.deps.Open(r.Context(), digest)
	}
	switch {
	case errdefs.IsNotFound(err), errdefs.IsInvalidArgument(err):
		http.NotFound(w, r)
		return
	case err != nil:
		s.deps.Log.Warn("blob cannot be served to another node", "digest", digest, "err", err)
		http.Error(w, "the node's store does not answer", http.StatusServiceUnavailable)
		return
	}
	defer opened.Close()
	w.Header().Set("Content-Type", b.MediaType)
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Etag", `"`+digest+`"`)
	sent = s.transfer(w, r, limited{newBuffered(opened), r.Context(), &s.limiter})
}

const (
	// takeTimeout is how long a node may take to receive a blob, in addition to the time that its
	// bytes take at takeRate. Then the connection is closed, because a node that reads nothing, or
	// little, would hold the connection, its goroutine and its buffers for ever.
	takeTimeout = 30 * time.Second
	// takeRate is in bytes a second. A slower node gets the blob from another source.
	takeRate = 16 << 10
	// maxTransfers is how many blobs are sent at the same time, to all nodes together. Each needs
	// about half a MiB of memory here and in containerd.
	maxTransfers = 64
	// transferWait is how long a request waits when maxTransfers blobs are being sent. It is
	// shorter than answerTimeout.
	transferWait = 3 * time.Second
)

// transfer answers with a blob, and returns true. It waits while maxTransfers blobs are being sent.
// If none of them ends in time, transfer answers with an error and returns false.
func (s *Server) transfer(w http.ResponseWriter, r *http.Request, content io.ReadSeeker) bool {
	ctx, cancel := context.WithTimeout(r.Context(), transferWait)
	defer cancel()
	select {
	case s.transfers <- struct{}{}:
	case <-ctx.Done():
		http.Error(w, "the node sends as many blobs as it can", http.StatusServiceUnavailable)
		return false
	}
	defer func() { <-s.transfers }()
	extendDeadline(w)
	send(w, r, content)
	return true
}

// extendDeadline closes the connection unless the caller takes the next bytes within takeTimeout.
// It replaces the deadline of an earlier request.
func extendDeadline(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(takeTimeout)) // Some connections in tests have no deadline.
}

// send answers with a blob.
func send(w http.ResponseWriter, r *http.Request, content io.ReadSeeker) {
	http.ServeContent(w, r, "", time.Time{}, &moving{ReadSeeker: content, to: w})
}

// moving extends the deadline of the connection as bytes are sent. The time that reading the blob
// takes does not count, because this node, or its limiter, causes it.
type moving struct {
	io.ReadSeeker
	to    http.ResponseWriter
	bytes int
	taken time.Duration // the time that the other node took for all pieces except the last
	since time.Time     // when the last piece was read from the blob
}

func (m *moving) Read(p []byte) (int, error) {
	if !m.since.IsZero() {
		m.taken += time.Since(m.since)
	}
	n, err := m.ReadSeeker.Read(p)
	m.since = time.Now()
	left := takeTimeout + time.Duration(m.bytes)*time.Second/takeRate - m.taken
	m.bytes += n
	_ = http.NewResponseController(m.to).SetWriteDeadline(m.since.Add(left)) // Some connections in tests have no deadline.
	return n, err
}

// redirect makes the caller ask another node for the same blob.
func redirect(w http.ResponseWriter, r *http.Request, nodeID string) {
	u := url.URL{Scheme: "http", Host: nodeID, Path: r.URL.Path, RawQuery: queryRelayed}
	w.Header().Set("Location", u.String())
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// serveChunk is how many bytes of a blob are read from containerd at once. Each read costs a call,
// and HTTP reads only 32 KiB at a time. Each transfer has a buffer of this size.
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

// Seek discards the bytes that were read ahead.
func (b *buffered) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekCurrent {
		offset -= int64(b.Buffered())
	}
	at, err := b.section.Seek(offset, whence)
	b.Reset(b.section)
	return at, err
}
