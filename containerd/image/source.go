//go:build linux

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// patience is how long a source may take for the next pieceSize bytes of a blob: one that delivers a byte now and then
	// must not hold up a pull for ever.
	patience  = 30 * time.Second
	pieceSize = 16 << 10
	// A node must deliver nodeRate bytes a second on average, and has nodeCredit more time than that. One that does not is asked
	// again after all other sources, and without this bound, which no pull may need: the line may be slow.
	nodeRate   = 256 << 10
	nodeCredit = 10 * time.Second
	// lameFor is how long a node that was slow, or lied, comes after other sources.
	lameFor = 5 * time.Minute
	// nodePatience is how long a node may take to begin: it has the blob on its disk or has it not.
	nodePatience = 5 * time.Second
)

// source has blobs. ErrNotFound: not this one. Any other error: it cannot be relied on. Comparable.
type source interface {
	// root opens an index or manifest.
	root(ctx context.Context, d digest.Digest) (io.ReadCloser, error)
	// open opens a blob at an offset.
	open(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
	// last says whether the source is to be asked after all others, and fault that it was slow or lied.
	last() bool
	fault()
	// insist says whether the source has sent us on to another for a blob, and has it serve the blob itself from now on.
	insist(d digest.Digest) bool
	peer() bool
	String() string
}

// sources of a pull: nodes in random order, so that many pulls spread over them, then the registry.
func (s *Store) sources(ctx context.Context, o order) []source {
	var out []source
	if s.deps.Peers != nil && s.deps.PeerTransport != nil {
		client := &http.Client{Transport: s.deps.PeerTransport}
		for _, id := range s.deps.Peers(ctx, o.ref.Digest) {
			out = append(out, &node{id: id, client: client, lame: &s.lame})
		}
		rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	}
	return append(out, &registry{name: o.ref.Name, resolver: s.resolver(o.ref, o.auth)})
}

// lame are the nodes that were slow, or lied, a short while ago.
type lame struct {
	mu    sync.Mutex // guards until
	until map[string]time.Time
}

// note puts a node among them.
func (l *lame) note(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until == nil {
		l.until = map[string]time.Time{}
	}
	now := time.Now()
	maps.DeleteFunc(l.until, func(_ string, until time.Time) bool { return !now.Before(until) })
	l.until[id] = now.Add(lameFor)
}

func (l *lame) has(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.until[id])
}

// node is another node's Handler.
type node struct {
	id     string
	client *http.Client
	lame   *lame

	mu     sync.Mutex             // guards direct
	direct map[digest.Digest]bool // blobs for which it has sent us on; true: no more
}

// maxHops is how deep a tree of nodes may be: twenty levels of two branches are more than any cluster has.
const maxHops = 20

func (n *node) insist(d digest.Digest) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	direct, sentOn := n.direct[d]
	if sentOn {
		n.direct[d] = true
	}
	return sentOn && !direct
}

func (n *node) last() bool     { return n.lame.has(n.id) }
func (n *node) fault()         { n.lame.note(n.id) }
func (n *node) peer() bool     { return true }
func (n *node) String() string { return "node " + n.id }

func (n *node) root(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	return n.get(ctx, "manifests", d, 0)
}

func (n *node) open(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	return n.get(ctx, "blobs", desc.Digest, offset)
}

func (n *node) get(ctx context.Context, kind string, d digest.Digest, offset int64) (io.ReadCloser, error) {
	ctx, watch := watched(ctx, nodePatience)
	if !n.last() {
		watch.rate = nodeRate
	}
	u := url.URL{Scheme: "http", Host: n.id, Path: "/v2/image/" + kind + "/" + d.String()}
	n.mu.Lock()
	if n.direct[d] {
		u.RawQuery = queryDirect
	}
	n.mu.Unlock()
	// A node that has the blob on its way says so until it has it, which it does not do for ever.
	latest := time.Now().Add(relayPatience + nodePatience)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
		watch.timer.Reset(min(nodePatience, time.Until(latest)))
		return nil
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		watch.stop()
		return nil, err
	}
	want := http.StatusOK
	if offset > 0 {
		want = http.StatusPartialContent
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := n.following(d, watch).Do(req)
	if err != nil {
		err = watch.explain(err)
		watch.stop()
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	watch.ReadCloser = resp.Body
	if resp.StatusCode == want {
		return watch, nil
	}
	_ = watch.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%s %s: %w", kind, d, errdefs.ErrNotFound)
	}
	return nil, fmt.Errorf("it answered %s: %w", resp.Status, errdefs.ErrUnavailable)
}

// following is a client that notes when the node sends us on.
func (n *node) following(d digest.Digest, watch *watchdog) *http.Client {
	client := *n.client
	client.CheckRedirect = func(_ *http.Request, via []*http.Request) error {
		if len(via) > maxHops {
			return errors.New("sent on from node to node without end")
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.direct == nil {
			n.direct = map[digest.Digest]bool{}
		}
		if _, known := n.direct[d]; !known {
			n.direct[d] = false
		}
		watch.timer.Reset(nodePatience)
		return nil
	}
	return &client
}

// registry is the one that the image's name names.
type registry struct {
	name     string
	resolver remotes.Resolver
}

func (r *registry) last() bool                { return false }
func (r *registry) fault()                    {}
func (r *registry) peer() bool                { return false }
func (r *registry) insist(digest.Digest) bool { return false }
func (r *registry) String() string            { return "registry " + domain(r.name) }

func (r *registry) root(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	_, desc, err := r.resolver.Resolve(quiet(ctx), repository(r.name)+"@"+d.String())
	if err != nil {
		return nil, err
	}
	return r.open(ctx, desc, 0)
}

func (r *registry) open(ctx context.Context, desc ocispec.Descriptor, offset int64) (_ io.ReadCloser, err error) {
	ctx, watch := watched(ctx, patience)
	defer func() {
		if err != nil {
			watch.stop()
		}
	}()
	fetcher, err := r.resolver.Fetcher(quiet(ctx), repository(r.name)+"@"+desc.Digest.String())
	if err != nil {
		return nil, err
	}
	desc.URLs = nil // content comes from the registry that was named, not from where a manifest points to
	body, err := fetcher.Fetch(quiet(ctx), desc)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		seeker, ok := body.(io.Seeker)
		if !ok {
			return nil, errors.Join(errors.New("it cannot go on in the middle of a blob"), body.Close())
		}
		if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, body.Close())
		}
	}
	watch.ReadCloser = body
	return watch, nil
}

// watchdog ends a transfer that delivers nothing.
type watchdog struct {
	io.ReadCloser
	timer  *time.Timer
	cancel context.CancelCauseFunc
	cause  func() error
	begun  bool // something was delivered
	came   int  // bytes since the timer was set

	rate   int64         // bytes a second that are demanded; 0: none
	all    int64         // bytes that were delivered
	waited time.Duration // for them
}

var (
	errStalled = errdefs.ErrUnavailable.WithMessage("nothing comes from it")
	errSlow    = errdefs.ErrUnavailable.WithMessage("it delivers too slowly")
)

// watched is a context that ends when the watchdog is not fed: by the time first from now on, and then by patience.
func watched(ctx context.Context, first time.Duration) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &watchdog{cancel: cancel, cause: func() error { return context.Cause(ctx) }, timer: time.AfterFunc(first, func() { cancel(errStalled) })}
}

func (w *watchdog) Read(p []byte) (int, error) {
	began := time.Now()
	n, err := w.ReadCloser.Read(p)
	w.all += int64(n)
	w.waited += time.Since(began)
	if w.rate > 0 && err == nil && w.waited > nodeCredit+time.Duration(w.all)*time.Second/time.Duration(w.rate) {
		w.cancel(errSlow)
		return n, errSlow
	}
	if w.came += n; w.came >= pieceSize || n > 0 && !w.begun {
		w.begun, w.came = true, 0
		w.timer.Reset(patience)
	}
	return n, w.explain(err)
}

// explain tells a transfer that stalled from one that was cancelled.
func (w *watchdog) explain(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(w.cause(), errStalled) {
		return errStalled
	}
	return err
}

func (w *watchdog) Close() error {
	w.stop()
	return w.ReadCloser.Close()
}

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// repository is a name without its tag.
func repository(name string) string {
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i]
	}
	return name
}

// domain is the registry of a normalised name.
func domain(name string) string {
	host, _, _ := strings.Cut(name, "/")
	return host
}
