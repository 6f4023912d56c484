//go:build linux

package image_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"swarm/containerd/image"
	"swarm/worker/engine"
)

func TestPull_FromANodeThatLoadedIt(t *testing.T) {
	t.Parallel()
	first := newNode(t, image.Config{}, image.Deps{})
	net := peers{"n1": first.Handler()}
	second := newNode(t, image.Config{}, image.Deps{Peers: net.all, PeerTransport: net})

	loaded, err := first.Load(t.Context(), bytes.NewReader(dockerArchive(t, "hello:1", newImage(t, 3))), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	digest := loaded[0].GetDigest()
	ref := "hello:1@" + digest
	changed := second.Changed()
	if second.Holds(digest) {
		t.Fatal("held before it was pulled")
	}
	got, err := second.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.GetDigest() != digest || got.GetName() != "docker.io/library/hello:1" || got.GetSize() != loaded[0].GetSize() || got.GetLoaded() {
		t.Errorf("pulled: got %v, want what was loaded: %v", got, loaded[0])
	}
	select {
	case <-changed:
	default:
		t.Error("changed: not told")
	}
	if !second.Holds(digest) {
		t.Error("not held after it was pulled")
	}
	second.wantUnpacked(t, ref)

	delete(net, "n1")
	if _, err := second.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil); err != nil {
		t.Errorf("pull of what is held: %v", err)
	}
}

// corrupting changes the bytes of large blobs.
func corrupting(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&flipping{ResponseWriter: w}, r)
	})
}

type flipping struct{ http.ResponseWriter }

func (f *flipping) Write(p []byte) (int, error) {
	if len(p) > 10<<10 {
		p = bytes.Clone(p)
		p[len(p)/2] ^= 1
	}
	return f.ResponseWriter.Write(p)
}

func TestPull_CorruptNodeIsRefusedAndAnotherAsked(t *testing.T) {
	t.Parallel()
	first := newNode(t, image.Config{}, image.Deps{})
	loaded, err := first.Load(t.Context(), bytes.NewReader(dockerArchive(t, "hello:1", newImage(t, 3))), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	ref := "localhost:1/hello:1@" + loaded[0].GetDigest()

	net := peers{"bad": corrupting(first.Handler())}
	second := newNode(t, image.Config{}, image.Deps{Peers: net.all, PeerTransport: net})
	if _, err := second.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil); !errdefs.IsUnavailable(err) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("only a corrupt node: got %v, want one line of unavailable", err)
	}
	if second.Holds(loaded[0].GetDigest()) {
		t.Error("held though it was corrupt")
	}
	net["good"] = first.Handler()
	for range 3 { // whichever is asked first
		if _, err := second.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil); err != nil {
			t.Fatal(err)
		}
		second.wantUnpacked(t, ref)
		if err := second.Remove(t.Context(), loaded[0].GetDigest()); err != nil {
			t.Fatal(err)
		}
	}
}
