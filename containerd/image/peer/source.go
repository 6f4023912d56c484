//go:build linux

package peer

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"swarm/containerd/image/watchdog"
)

const (
	// nodeRate is how many bytes a second a node must deliver on average. A node that is slower is
	// asked again after all other sources, and then without this limit, because the network may be
	// slow.
	nodeRate = 256 << 10
	// deferredFor is how long a node that was slow, or sent wrong content, is asked after all other
	// sources.
	deferredFor = 5 * time.Minute
	// answerTimeout is how long a node may take to begin its answer. It is short, because the node
	// only has to look at its disk.
	answerTimeout = 5 * time.Second
)

// deferred remembers the nodes that were slow, or sent wrong content, within deferredFor.
type deferred struct {
	mu    sync.Mutex // guards until
	until map[string]time.Time
}

// add puts a node among them.
func (l *deferred) add(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until == nil {
		l.until = map[string]time.Time{}
	}
	now := time.Now()
	maps.DeleteFunc(l.until, func(_ string, until time.Time) bool { return !now.Before(until) })
	l.until[id] = now.Add(deferredFor)
}

func (l *deferred) has(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.until[id])
}

// Client fetches blobs from other nodes' servers. It is safe for concurrent use.
type Client struct {
	http     *http.Client
	deferred deferred
}

// NewClient returns a client. transport carries requests for http://NODE-ID/v2/...
func NewClient(transport http.RoundTripper) *Client {
	return &Client{http: &http.Client{Transport: transport}}
}

// Source delivers the blobs of one image from one node. It is safe for concurrent use.
type Source struct {
	id     string
	client *Client

	mu sync.Mutex // guards direct
	// direct has the blobs for which the other node has redirected this node to a third one. True:
	// the other node must serve the blob itself from now on.
	direct map[digest.Digest]bool
}

// Source returns a node as a source of blobs. The node is not asked yet.
func (c *Client) Source(nodeID string) *Source { return &Source{id: nodeID, client: c} }

// maxHops is how many times a request may be redirected. A tree of twenty levels with two branches
// each has more nodes than any cluster.
const maxHops = 20

// AskDirectly reports whether the node has redirected a request for the blob to another node, and
// makes the node serve the blob itself from now on. It returns true once for each blob.
func (n *Source) AskDirectly(d digest.Digest) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	direct, redirected := n.direct[d]
	if redirected {
		n.direct[d] = true
	}
	return redirected && !direct
}

// Deferred reports whether the node is to be asked after all other sources.
func (n *Source) Deferred() bool { return n.client.deferred.has(n.id) }

// Defer makes all pulls of the next minutes ask the node after all other sources, because it was
// slow or sent wrong content.
func (n *Source) Defer() { n.client.deferred.add(n.id) }

// String names the node.
func (n *Source) String() string { return "node " + n.id }

// Root opens the index or manifest with a digest. For the errors, see Open.
func (n *Source) Root(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	return n.get(ctx, "manifests", d, 0)
}

// Open opens a blob at an offset in bytes. ErrNotFound: the node does not hold the blob.
// ErrUnavailable: the node did not answer as it should. The body returns watchdog.ErrStalled and
// watchdog.ErrSlow.
func (n *Source) Open(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	return n.get(ctx, "blobs", desc.Digest, offset)
}

func (n *Source) get(ctx context.Context, kind string, d digest.Digest, offset int64) (io.ReadCloser, error) {
	ctx, watch := watchdog.Watch(ctx, answerTimeout)
	if !n.Deferred() {
		watch.Rate = nodeRate
	}
	u := url.URL{Scheme: "http", Host: n.id, Path: "/v2/image/" + kind + "/" + d.String()}
	n.mu.Lock()
	if n.direct[d] {
		u.RawQuery = queryDirect
	}
	n.mu.Unlock()
	// A node that still fetches the blob itself sends a status 102 every relayBeat, for
	// relayTimeout at most.
	latest := time.Now().Add(relayTimeout + answerTimeout)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
		watch.Reset(min(answerTimeout, time.Until(latest)))
		return nil
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		watch.Stop()
		return nil, err
	}
	want := http.StatusOK
	if offset > 0 {
		want = http.StatusPartialContent
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := n.redirecting(d, watch).Do(req)
	if err != nil {
		err = watch.Explain(err)
		watch.Stop()
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

// redirecting returns an HTTP client that follows redirects to other nodes, and records in direct
// that the blob was redirected.
func (n *Source) redirecting(d digest.Digest, watch *watchdog.Body) *http.Client {
	client := *n.client.http
	client.CheckRedirect = func(_ *http.Request, via []*http.Request) error {
		if len(via) > maxHops {
			return fmt.Errorf("the request was redirected more than %d times", maxHops)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.direct == nil {
			n.direct = map[digest.Digest]bool{}
		}
		if _, known := n.direct[d]; !known {
			n.direct[d] = false
		}
		watch.Reset(answerTimeout)
		return nil
	}
	return &client
}
