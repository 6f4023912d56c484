//go:build linux

package image_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"golang.org/x/sync/errgroup"

	"swarm/containerd/image"
	"swarm/containerd/image/peer"
	"swarm/worker/engine"
)

// links are connections between nodes, over real HTTP, with the caller's name at the other end.
type links struct {
	addr map[string]string // of the nodes that serve

	mu   sync.Mutex // guards sent
	sent map[string][]string
}

func newLinks() *links { return &links{addr: map[string]string{}, sent: map[string][]string{}} }

// serve makes a node reachable.
func (l *links) serve(t *testing.T, id string, h http.Handler) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller := r.Header.Get("Caller")
		counted := &counter{ResponseWriter: w}
		h.ServeHTTP(counted, r.WithContext(peer.WithCaller(r.Context(), caller)))
		if counted.n > 1<<20 {
			l.mu.Lock()
			l.sent[id] = append(l.sent[id], caller)
			l.mu.Unlock()
		}
	}))
	server.Start()
	t.Cleanup(server.Close)
	l.addr[id] = server.Listener.Addr().String()
}

type counter struct {
	http.ResponseWriter
	n int
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += n
	return n, err
}

// from returns the transport of one node.
func (l *links) from(t *testing.T, caller string) http.RoundTripper {
	tr := &http.Transport{DialContext: func(ctx context.Context, _, hostport string) (net.Conn, error) {
		id, _, _ := net.SplitHostPort(hostport)
		if l.addr[id] == "" {
			return nil, fmt.Errorf("dial node %s: connection refused", id)
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.addr[id])
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return called{tr, caller}
}

type called struct {
	next   http.RoundTripper
	caller string
}

func (c called) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Caller", c.caller)
	return c.next.RoundTrip(r)
}

func largeImage(t *testing.T) v1.Image {
	t.Helper()
	layer, err := random.Layer(3<<20, "application/vnd.docker.image.rootfs.diff.tar.gzip")
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(newImage(t, 1), layer)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestPull_LargeBlobSpreadsLikeATree(t *testing.T) {
	t.Parallel()
	first, ref := holder(t)
	net := newLinks()
	net.serve(t, "first", first.Handler())
	var all []*node
	for i := range 6 {
		id := fmt.Sprintf("n%d", i)
		n := newNode(t, image.Config{}, image.Deps{Peers: only("first"), PeerTransport: net.from(t, id)})
		net.serve(t, id, n.Handler())
		all = append(all, n)
	}
	var group errgroup.Group
	for _, n := range all {
		group.Go(func() error {
			_, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	total := 0
	for id, to := range net.sent {
		total += len(to)
		if len(to) > 2 {
			t.Errorf("%s sent the blob to %v: more than two", id, to)
		}
	}
	if total != len(all) {
		t.Errorf("the blob was sent %d times, want once to each of %d nodes: %v", total, len(all), net.sent)
	}
}

// A node to which others are redirected may be gone, or send wrong content. The node that has
// redirected them then serves them itself, and is not blamed.
func TestPull_SentOnInVain(t *testing.T) {
	t.Parallel()
	for name, wrong := range map[string]http.HandlerFunc{
		"gone":           nil,
		"has it no more": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"lies":           func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bytes.Repeat([]byte("x"), 3<<20)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, ref := holder(t)
			net := newLinks()
			net.serve(t, "first", first.Handler())
			// Two nodes have got every large blob.
			for _, id := range []string{"a", "b"} {
				n := newNode(t, image.Config{}, image.Deps{Peers: only("first"), PeerTransport: net.from(t, id)})
				if _, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil); err != nil {
					t.Fatal(err)
				}
				if wrong != nil {
					net.serve(t, id, wrong)
				}
			}
			n := newNode(t, image.Config{}, image.Deps{Peers: only("first"), PeerTransport: net.from(t, "c")})
			if _, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(net.sent["first"], " "); got != "a b c" {
				t.Errorf("the first node served %q, want a b c", got)
			}
		})
	}
}

// holder returns a node with a large image whose registry does not exist.
func holder(t *testing.T) (n *node, ref string) {
	t.Helper()
	n = newNode(t, image.Config{}, image.Deps{})
	loaded, err := n.Load(t.Context(), bytes.NewReader(dockerArchive(t, "hello:1", largeImage(t))), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return n, "localhost:1/hello:1@" + loaded[0].GetDigest()
}

func only(id string) func(context.Context, string) []string {
	return func(context.Context, string) []string { return []string{id} }
}
