//go:build linux

package image_test

import (
	"bytes"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"

	"swarm/containerd/image"
	"swarm/containerd/layout"
	"swarm/internal/eventually"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// steps records the last word about each layer.
type steps struct {
	mu   sync.Mutex // guards last
	last map[string]string
}

func (s *steps) tell(m *swarmv1.ImageProgress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		s.last = map[string]string{}
	}
	if m.GetId() != "" {
		s.last[m.GetId()] = m.GetStep()
	}
}

// wantLayers fails the test unless n layers ended with word.
func (s *steps) wantLayers(t *testing.T, what string, n int, word string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for _, step := range s.last {
		if step == word {
			count++
		}
	}
	if count != n {
		t.Errorf("%s: got %v, want %d layers with %q", what, s.last, n, word)
	}
}

func TestPush_ToARegistryThatWantsALogin(t *testing.T) {
	t.Parallel()
	host, _ := serveAt(t, "127.0.0.1", newRegistryHandler(t, map[string]string{"ann": "secret"}), false)
	auth, wrong := registryAuth(t, "ann", "secret"), registryAuth(t, "ann", "guess")
	n := newNode(t, image.Config{}, image.Deps{})
	loaded, err := n.Load(t.Context(), bytes.NewReader(dockerArchive(t, "app:1", newImage(t, 3))), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	digest := loaded[0].GetDigest()
	ref := host + "/team/app:2@" + digest
	for what, auth := range map[string]string{"no": "", "wrong": wrong} {
		err := n.Push(t.Context(), engine.PushRequest{Ref: ref, Auth: auth}, nil)
		if !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "swarm login "+host) || strings.Contains(err.Error(), "\n") {
			t.Errorf("push with %s login: got %v, want one line of unauthenticated", what, err)
		}
	}
	for _, c := range []struct{ what, word string }{{"first push", "Pushed"}, {"second push", "Layer already exists"}} {
		var seen steps
		if err := n.Push(t.Context(), engine.PushRequest{Ref: ref, Auth: auth}, seen.tell); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		seen.wantLayers(t, c.what, 3, c.word)
	}
	if err := n.Push(t.Context(), engine.PushRequest{Ref: host + "/x:1@sha256:" + strings.Repeat("ab", 32), Auth: auth}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("push of what is not held: got %v, want not found", err)
	}
	if err := n.Remove(t.Context(), digest); err != nil {
		t.Fatal(err)
	}
	var seen steps
	got, err := n.Pull(t.Context(), engine.PullRequest{Ref: host + "/team/app:2", Auth: auth}, seen.tell)
	if err != nil || got.GetDigest() != digest {
		t.Fatalf("pull of what was pushed: got %v, %v, want %s", got, err, digest)
	}
	seen.wantLayers(t, "pull", 3, "Pull complete")
	n.wantUnpacked(t, host+"/team/app:2")
}

func TestPush_AllPlatformsOrNone(t *testing.T) {
	t.Parallel()
	host := newRegistry(t, nil)
	digest := push(t, host+"/multi:1", newIndex(t, "s390x", runtime.GOARCH), authn.Anonymous)
	n := newNode(t, image.Config{}, image.Deps{})
	if _, err := n.Pull(t.Context(), engine.PullRequest{Ref: host + "/multi:1"}, nil); err != nil {
		t.Fatal(err)
	}
	to := engine.PushRequest{Ref: host + "/copy:1@" + digest}
	if err := n.Push(t.Context(), to, nil); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "without linux/s390x") {
		t.Errorf("push of one platform of two: got %v, want the name of the other", err)
	}
	if _, err := n.Pull(t.Context(), engine.PullRequest{Ref: host + "/multi:1", Platform: "linux/s390x"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := n.Push(t.Context(), to, nil); err != nil {
		t.Error(err)
	}
	if got, err := n.Resolve(t.Context(), host+"/copy:1", ""); err != nil || got != digest {
		t.Errorf("resolve: got %s, %v, want %s", got, err, digest)
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	registry := newRegistryHandler(t, map[string]string{"ann": "secret"})
	host, _ := serveAt(t, "127.0.0.1", registry, false)
	strange, _ := serveAt(t, outside(t), registry, true)
	open := newRegistry(t, nil)
	s, err := image.New(image.Config{Address: "/nowhere"}, image.Deps{Log: quietLog(), Keychain: authn.NewMultiKeychain()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, c := range []struct {
		registry, password string
		is                 func(error) bool
		want               string
	}{
		{host, "secret", nil, ""},
		{host, "guess", errdefs.IsUnauthorized, "does not take this user name and password"},
		{open, "any", nil, ""},
		{strange, "secret", errdefs.IsFailedPrecondition, "/ca.crt"},
		{"127.0.0.1:1", "secret", errdefs.IsUnavailable, "connection refused"},
		{"no registry", "secret", errdefs.IsInvalidArgument, "HOST[:PORT]"},
		{"a/b", "secret", errdefs.IsInvalidArgument, "HOST[:PORT]"},
	} {
		err := s.Login(t.Context(), c.registry, registryAuth(t, "ann", c.password))
		if c.is == nil && err != nil || c.is != nil && (!c.is(err) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("login to %s with %s: got %v, want %q", c.registry, c.password, err, c.want)
		}
	}
}

// A pull that fails must not remove the blobs of another pull with better credentials.
func TestPull_TwoCallersWithTwoLogins(t *testing.T) {
	t.Parallel()
	img := newImage(t, 2)
	registry := newRegistryHandler(t, map[string]string{"ann": "secret"})
	stranger, refuse := make(chan struct{}, 1), make(chan struct{})
	friend, open := make(chan struct{}, 1), make(chan struct{})
	hold := func(came chan<- struct{}, until <-chan struct{}) {
		select {
		case came <- struct{}{}:
			<-until
		default: // only the first waits
		}
	}
	host, _ := serveAt(t, "127.0.0.1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _, login := r.BasicAuth()
		switch {
		case !login && strings.Contains(r.URL.Path, "/manifests/sha256:"):
			hold(stranger, refuse)
		case login && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/"):
			hold(friend, open)
		}
		registry.ServeHTTP(w, r)
	}), false)
	direct, _ := serveAt(t, "127.0.0.1", registry, false)
	ref := host + "/app:1@" + push(t, direct+"/app:1", img, &authn.Basic{Username: "ann", Password: "secret"})
	n := newNode(t, image.Config{}, image.Deps{})
	pull := func(auth string) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref, Auth: auth}, nil)
			done <- err
		}()
		return done
	}
	without := pull("")
	eventually.Nil(t, "the stranger", func() error { return came(stranger) })
	with := pull(registryAuth(t, "ann", "secret"))
	eventually.Nil(t, "the friend", func() error { return came(friend) })
	close(refuse)
	if err := <-without; !errdefs.IsUnauthorized(err) {
		t.Errorf("pull without a login: got %v, want unauthenticated", err)
	}
	close(open)
	if err := <-with; err != nil {
		t.Errorf("pull with the login: %v", err)
	}
	n.wantUnpacked(t, ref)
	ctx := namespaces.WithNamespace(t.Context(), layout.Namespace)
	if left, err := n.client.LeasesService().List(ctx); err != nil || len(left) != 0 {
		t.Errorf("leases: got %v, %v, want none", left, err)
	}
}

func came(who chan struct{}) error {
	if len(who) == 0 {
		return errors.New("has not come")
	}
	return nil
}
