//go:build linux

package image_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"swarm/containerd/image"
	"swarm/internal/registrytest"
	"swarm/worker/engine"
)

// newRegistryHandler returns a real registry. If it has users, it requires a login.
func newRegistryHandler(t *testing.T, users map[string]string) http.Handler {
	t.Helper()
	h, err := registrytest.New(t.Context(), t.TempDir(), users)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// newRegistry returns the host:port of a registry. wrap may be nil.
func newRegistry(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	h := newRegistryHandler(t, nil)
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// push pushes an image and returns its digest.
func push(t *testing.T, ref string, what remote.Taggable, auth authn.Authenticator) string {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	switch what := what.(type) {
	case v1.Image:
		err = remote.Write(tag, what, remote.WithAuth(auth))
	case v1.ImageIndex:
		err = remote.WriteIndex(tag, what, remote.WithAuth(auth))
	}
	if err != nil {
		t.Fatal(err)
	}
	digest, err := what.(interface{ Digest() (v1.Hash, error) }).Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

func TestPull_FromARegistry(t *testing.T) {
	t.Parallel()
	n := newNode(t, image.Config{}, image.Deps{})
	host := newRegistry(t, nil)
	ref := host + "/team/app:1"
	first := push(t, ref, newImage(t, 2), authn.Anonymous)

	if got, err := n.Resolve(t.Context(), ref, ""); err != nil || got != first {
		t.Errorf("resolve: got %s, %v, want %s", got, err, first)
	}
	got, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil)
	if err != nil || got.GetDigest() != first || got.GetName() != ref {
		t.Fatalf("pull of a tag: got %v, %v, want %s", got, err, first)
	}
	n.wantUnpacked(t, ref)

	second := push(t, ref, newImage(t, 1), authn.Anonymous)
	if got, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil); err != nil || got.GetDigest() != second {
		t.Errorf("pull of the tag that moved: got %v, %v, want %s", got, err, second)
	}
	if !n.Holds(first) || !n.Holds(second) {
		t.Errorf("held: got %v, %v, want the old digest too", n.Holds(first), n.Holds(second))
	}
	if got, err := n.Pull(t.Context(), engine.PullRequest{Ref: host + "/team/app@" + first}, nil); err != nil || got.GetDigest() != first {
		t.Errorf("pull by digest alone: got %v, %v, want %s", got, err, first)
	}
}

func TestPull_ChoosesThePlatform(t *testing.T) {
	t.Parallel()
	n := newNode(t, image.Config{}, image.Deps{})
	host := newRegistry(t, nil)
	digest := push(t, host+"/multi:1", newIndex(t, "s390x", runtime.GOARCH), authn.Anonymous)
	got, err := n.Pull(t.Context(), engine.PullRequest{Ref: host + "/multi:1"}, nil)
	if err != nil || got.GetDigest() != digest || len(got.GetPlatforms()) != 1 || got.GetPlatforms()[0].GetArchitecture() != runtime.GOARCH {
		t.Fatalf("pull: got %v, %v, want the index %s with this node's platform", got, err, digest)
	}
	n.wantUnpacked(t, host+"/multi:1")
	got, err = n.Pull(t.Context(), engine.PullRequest{Ref: host + "/multi:1", Platform: "linux/s390x"}, nil)
	if err != nil || len(got.GetPlatforms()) != 2 {
		t.Errorf("pull of another platform: got %v, %v, want both", got, err)
	}
	_, err = n.Pull(t.Context(), engine.PullRequest{Ref: host + "/multi:1", Platform: "linux/riscv64"}, nil)
	wantInvalid(t, "no such platform", err, "it is for")
	push(t, host+"/foreign:1", newImageFor(t, 1, "linux", "s390x"), authn.Anonymous)
	_, err = n.Pull(t.Context(), engine.PullRequest{Ref: host + "/foreign:1"}, nil)
	wantInvalid(t, "another platform's manifest", err, "s390x")
	_, err = n.Pull(t.Context(), engine.PullRequest{Ref: host + "/multi:1", Platform: "linux/"}, nil)
	wantInvalid(t, "bad platform", err, "OS/ARCH")
	_, err = n.Pull(t.Context(), engine.PullRequest{Ref: "no such name"}, nil)
	wantInvalid(t, "bad reference", err, "not a reference")
}

func registryAuth(t *testing.T, user, password string) string {
	t.Helper()
	data, err := json.Marshal(map[string]string{"username": user, "password": password})
	if err != nil {
		t.Fatal(err)
	}
	return base64.URLEncoding.EncodeToString(data)
}

type fixed authn.AuthConfig

func (f fixed) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(f)), nil
}

func TestPull_FromARegistryThatWantsALogin(t *testing.T) {
	t.Parallel()
	host := newRegistry(t, func(http.Handler) http.Handler {
		return newRegistryHandler(t, map[string]string{"ann": "pässword"})
	})
	ref := host + "/app:1"
	digest := push(t, ref, newImage(t, 1), &authn.Basic{Username: "ann", Password: "pässword"})

	n := newNode(t, image.Config{}, image.Deps{})
	for what, auth := range map[string]string{"none": "", "wrong": registryAuth(t, "ann", "guess")} {
		for _, ref := range []string{ref, ref + "@" + digest} {
			if _, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref, Auth: auth}, nil); !errdefs.IsUnauthorized(err) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s credentials, %s: got %v, want one line of unauthenticated", what, ref, err)
			}
		}
		if _, err := n.Resolve(t.Context(), ref, auth); !errdefs.IsUnauthorized(err) {
			t.Errorf("resolve with %s credentials: got %v, want unauthenticated", what, err)
		}
	}
	_, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref, Auth: "{}"}, nil)
	wantInvalid(t, "credentials that are none", err, "X-Registry-Auth")
	if _, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref, Auth: registryAuth(t, "ann", "pässword")}, nil); err != nil {
		t.Errorf("the caller's credentials: %v", err)
	}
	other := newNode(t, image.Config{}, image.Deps{Keychain: fixed{Username: "ann", Password: "pässword"}})
	if _, err := other.Pull(t.Context(), engine.PullRequest{Ref: ref + "@" + digest}, nil); err != nil {
		t.Errorf("credentials of the configuration: %v", err)
	}
}

func TestPull_NotFoundIsNotUnreachable(t *testing.T) {
	t.Parallel()
	n := newNode(t, image.Config{}, image.Deps{})
	host := newRegistry(t, nil)
	nothing := "@sha256:" + strings.Repeat("ab", 32)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	sick := newRegistry(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	})
	causes := map[string]string{
		strings.TrimPrefix(gone.URL, "http://") + "/app:1": "(connection refused)",
		sick + "/app:1": "answered 502 Bad Gateway:",
	}
	for ref, is := range map[string]func(error) bool{
		host + "/app:1": errdefs.IsNotFound,
		strings.TrimPrefix(gone.URL, "http://") + "/app:1": errdefs.IsUnavailable,
		"registry.invalid/app:1":                           errdefs.IsUnavailable,
		sick + "/app:1":                                    errdefs.IsUnavailable,
	} {
		for _, ref := range []string{ref, ref + nothing} {
			begin := time.Now()
			_, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil)
			if !is(err) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "load it with `docker save") == strings.HasPrefix(ref, sick) || strings.Contains(err.Error(), "sha256:") {
				t.Errorf("pull %s: got %v", ref, err)
			}
			if cause := causes[strings.TrimSuffix(ref, nothing)]; !strings.Contains(err.Error(), cause) || strings.Contains(err.Error(), "dial") {
				t.Errorf("pull %s: got %v, want no more of the cause than %q", ref, err, cause)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("pull %s: took %s", ref, took)
			}
		}
		if _, err := n.Resolve(t.Context(), ref, ""); !is(err) {
			t.Errorf("resolve %s: got %v", ref, err)
		}
	}
}

// A loaded tag needs no registry, and a pulled tag can be used after its registry has gone.
func TestPull_TagWithoutItsRegistry(t *testing.T) {
	t.Parallel()
	n := newNode(t, image.Config{}, image.Deps{})
	images, err := n.Load(t.Context(), bytes.NewReader(dockerArchive(t, "registry.invalid/app:1", newImage(t, 1))), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := n.Pull(t.Context(), engine.PullRequest{Ref: "registry.invalid/app:1"}, nil); err != nil || got.GetDigest() != images[0].GetDigest() {
		t.Errorf("loaded tag: got %v, %v, want %s", got, err, images[0].GetDigest())
	}

	s := httptest.NewServer(newRegistryHandler(t, nil))
	ref := strings.TrimPrefix(s.URL, "http://") + "/app:1"
	digest := push(t, ref, newImage(t, 1), authn.Anonymous)
	if _, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if got, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil); err != nil || got.GetDigest() != digest {
		t.Errorf("pulled tag: got %v, %v, want %s", got, err, digest)
	}
}
