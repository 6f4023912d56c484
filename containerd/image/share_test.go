//go:build linux

package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"swarm/containerd/image"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// recorder counts the requests for each path, and holds them until open is closed.
type recorder struct {
	next    http.Handler
	open    chan struct{}
	arrived chan struct{}

	mu   sync.Mutex
	seen map[string]int
}

func newRecorder(next http.Handler) *recorder {
	return &recorder{next: next, open: make(chan struct{}), arrived: make(chan struct{}, 100), seen: map[string]int{}}
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.seen[req.URL.Path]++
	r.mu.Unlock()
	r.arrived <- struct{}{}
	select {
	case <-r.open:
		r.next.ServeHTTP(w, req)
	case <-req.Context().Done():
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func TestPull_ConcurrentPullsShareOne(t *testing.T) {
	t.Parallel()
	first := newNode(t, image.Config{}, image.Deps{})
	loaded, err := first.Load(t.Context(), bytes.NewReader(dockerArchive(t, "hello:1", newImage(t, 2))), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	req := engine.PullRequest{Ref: "localhost:1/hello:1@" + loaded[0].GetDigest()}
	rec := newRecorder(first.Handler())
	net := peers{"n1": rec}
	second := newNode(t, image.Config{}, image.Deps{Peers: net.all, PeerTransport: net})

	impatient, leave := context.WithCancel(t.Context())
	var group errgroup.Group
	left := make(chan error, 1)
	go func() {
		_, err := second.Pull(impatient, req, nil)
		left <- err
	}()
	<-rec.arrived // the fetch has begun
	boarded := make(chan struct{})
	for range 8 {
		group.Go(func() error {
			boarded <- struct{}{}
			var steps []string
			_, err := second.Pull(t.Context(), req, func(p *swarmv1.ImageProgress) { steps = append(steps, p.GetStep()) })
			if err == nil && len(steps) > 0 && steps[len(steps)-1] != "Pull complete" {
				err = errors.New("progress ended with " + steps[len(steps)-1])
			}
			return err
		})
		<-boarded
	}
	close(rec.open)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	leave()
	if err := <-left; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("first caller: %v", err)
	}
	for path, n := range rec.seen {
		if n != 1 {
			t.Errorf("%s: fetched %d times, want once", path, n)
		}
	}
}

func TestPull_EndsWithItsLastCaller(t *testing.T) {
	t.Parallel()
	rec := newRecorder(http.NotFoundHandler())
	net := peers{"n1": rec}
	n := newNode(t, image.Config{}, image.Deps{Peers: net.all, PeerTransport: net})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := n.Pull(ctx, engine.PullRequest{Ref: "localhost:1/x@sha256:" + strings.Repeat("ab", 32)}, nil)
		left <- err
	}()
	<-rec.arrived
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("caller that left: got %v, want cancelled", err)
	}
	if err := n.Close(); err != nil { // returns only when the fetch has ended
		t.Error(err)
	}
	if _, err := n.Pull(t.Context(), engine.PullRequest{Ref: "localhost:1/x@sha256:" + strings.Repeat("ab", 32)}, nil); !errdefs.IsUnavailable(err) {
		t.Errorf("pull after close: got %v, want unavailable", err)
	}
}

// cutting cuts the first answer with a large body in the middle, and records the requested ranges.
type cutting struct {
	next http.Handler

	mu     sync.Mutex
	cut    bool
	ranges []string
}

func (c *cutting) RoundTrip(req *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	c.next.ServeHTTP(w, req)
	resp := w.Result()
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := req.Header.Get("Range"); r != "" {
		c.ranges = append(c.ranges, r)
	}
	if w.Body.Len() > 100<<10 && !c.cut {
		c.cut = true
		resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(w.Body.Bytes()[:64<<10]), failing{errors.New("connection reset")}))
	}
	return resp, nil
}

func TestPull_GoesOnWhereItBroke(t *testing.T) {
	t.Parallel()
	first := newNode(t, image.Config{}, image.Deps{})
	loaded, err := first.Load(t.Context(), bytes.NewReader(dockerArchive(t, "hello:1", newImage(t, 1))), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	net := &cutting{next: first.Handler()}
	second := newNode(t, image.Config{}, image.Deps{Peers: peers{"n1": nil}.all, PeerTransport: net})
	req := engine.PullRequest{Ref: "localhost:1/hello:1@" + loaded[0].GetDigest()}
	if _, err := second.Pull(t.Context(), req, nil); !errdefs.IsUnavailable(err) {
		t.Fatalf("cut off: got %v, want unavailable", err)
	}
	if _, err := second.Pull(t.Context(), req, nil); err != nil {
		t.Fatal(err)
	}
	if len(net.ranges) != 1 || net.ranges[0] != "bytes=65536-" {
		t.Errorf("ranges of the second attempt: got %v, want from 65536", net.ranges)
	}
	second.wantUnpacked(t, req.Ref)
	if left, err := second.client.LeasesService().List(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("leases: got %v, %v, want none", left, err)
	}
}

func TestHandler(t *testing.T) {
	t.Parallel()
	n := newNode(t, image.Config{}, image.Deps{})
	loaded, err := n.Load(t.Context(), bytes.NewReader(dockerArchive(t, "hello:1", newImage(t, 1))), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	digest := loaded[0].GetDigest()
	b, err := n.Blob(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	whole := make([]byte, b.Size())
	if _, err := b.ReadAt(whole, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path, byteRange string
		status                  int
		body                    []byte
	}{
		{"GET", "/v2/a/b/manifests/" + digest, "", 200, whole},
		{"GET", "/v2/x/blobs/" + digest, "", 200, whole},
		{"HEAD", "/v2/x/blobs/" + digest, "", 200, nil},
		{"GET", "/v2/x/blobs/" + digest, "bytes=10-19", 206, whole[10:20]},
		{"GET", "/v2/x/blobs/" + digest, "bytes=100-", 206, whole[100:]},
		{"GET", "/v2/x/blobs/" + digest, "bytes=-7", 206, whole[len(whole)-7:]},
		{"GET", "/v2/x/blobs/" + digest, "bytes=999999-", 416, nil},
		{"GET", "/v2/x/blobs/sha256:" + strings.Repeat("ab", 32), "", 404, nil},
		{"GET", "/v2/x/blobs/latest", "", 404, nil},
		{"GET", "/v2/x/tags/" + digest, "", 404, nil},
		{"GET", "/v2/blobs/" + digest, "", 404, nil},
		{"GET", "/", "", 404, nil},
		{"DELETE", "/v2/x/blobs/" + digest, "", 405, nil},
	} {
		req := httptest.NewRequest(c.method, c.path, nil)
		if c.byteRange != "" {
			req.Header.Set("Range", c.byteRange)
		}
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, req)
		if w.Code != c.status || c.status < 300 && !bytes.Equal(w.Body.Bytes(), c.body) {
			t.Errorf("%s %s %q: got %d with %d bytes, want %d with %d", c.method, c.path, c.byteRange, w.Code, w.Body.Len(), c.status, len(c.body))
		}
	}
}

// Many nodes do not have an image, and some do not answer.
func TestPull_FindsTheOneNodeThatHasIt(t *testing.T) {
	t.Parallel()
	first := newNode(t, image.Config{}, image.Deps{})
	loaded, err := first.Load(t.Context(), bytes.NewReader(dockerArchive(t, "hello:1", newImage(t, 2))), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	silent := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	net := peers{"has": first.Handler(), "silent1": silent, "silent2": silent, "down": nil}
	for i := range 20 {
		net[fmt.Sprintf("n%d", i)] = http.NotFoundHandler()
	}
	second := newNode(t, image.Config{}, image.Deps{Peers: net.all, PeerTransport: net})
	host := newRegistry(t, nil)
	if _, err := second.Pull(t.Context(), engine.PullRequest{Ref: host + "/hello:1@" + loaded[0].GetDigest()}, nil); err != nil {
		t.Fatal(err)
	}
	delete(net, "silent1")
	delete(net, "silent2")
	ref := host + "/hello@sha256:" + strings.Repeat("ab", 32)
	if _, err := second.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil); !errdefs.IsUnavailable(err) {
		t.Errorf("nobody has it and one node is down: got %v, want unavailable", err)
	}
	delete(net, "down")
	if _, err := second.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("nobody has it: got %v, want not found", err)
	}
}
