//go:build linux

package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"swarm/containerd/containerdtest"
	"swarm/containerd/image"
	"swarm/containerd/layout"
	"swarm/containerd/server"
	"swarm/internal/eventually"
)

func TestMain(m *testing.M) {
	containerdtest.Become()
	m.Run()
}

// node is the store of one node with its own containerd.
type node struct {
	*image.Store
	client *client.Client
}

// newNode starts a containerd; deps may be zero.
func newNode(t *testing.T, cfg image.Config, deps image.Deps) *node {
	t.Helper()
	cfg.Address = newContainerd(t)
	if deps.Log == nil {
		deps.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	if deps.Keychain == nil {
		deps.Keychain = authn.NewMultiKeychain()
	}
	c, err := client.New(cfg.Address, client.WithDefaultNamespace(layout.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	eventually.Nil(t, "containerd", func() error {
		serving, err := c.IsServing(t.Context())
		if err == nil && !serving {
			err = errors.New("not serving")
		}
		return err
	})
	s, err := image.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &node{Store: s, client: c}
}

// newContainerd starts a containerd and returns its socket, on which it may not listen yet.
func newContainerd(t *testing.T) string {
	t.Helper()
	dir := containerdtest.Folder(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := layout.Layout{Data: filepath.Join(dir, "d"), Run: filepath.Join(dir, "r")}
	cfg := server.Config{Root: l.Root(), State: l.State(), Address: l.Socket(), BinDir: l.Bin()}
	cmd := exec.Command(self, append([]string{"runtime"}, cfg.Args()...)...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("containerd: %v", err)
		}
	})
	return l.Socket()
}

// newImage makes an image for this machine with some random layers.
func newImage(t *testing.T, layers int) v1.Image {
	t.Helper()
	return newImageFor(t, layers, "linux", runtime.GOARCH)
}

func newImageFor(t *testing.T, layers int, system, arch string) v1.Image {
	t.Helper()
	img, err := random.Image(200<<10, int64(layers))
	if err != nil {
		t.Fatal(err)
	}
	return withPlatform(t, img, system, arch)
}

// newIndex makes an image for several architectures.
func newIndex(t *testing.T, arches ...string) v1.ImageIndex {
	t.Helper()
	var all []mutate.IndexAddendum
	for _, arch := range arches {
		platform := &v1.Platform{OS: "linux", Architecture: arch}
		all = append(all, mutate.IndexAddendum{Add: newImageFor(t, 1, platform.OS, arch), Descriptor: v1.Descriptor{Platform: platform}})
	}
	return mutate.AppendManifests(empty.Index, all...)
}

func forThisMachine(t *testing.T, img v1.Image) v1.Image {
	t.Helper()
	return withPlatform(t, img, "linux", runtime.GOARCH)
}

func withPlatform(t *testing.T, img v1.Image, system, arch string) v1.Image {
	t.Helper()
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = system, arch
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

// dockerArchive is what `docker save` writes.
func dockerArchive(t *testing.T, ref string, img v1.Image) []byte {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tarball.Write(tag, img, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// peers is the cluster's blob transport between test nodes: the host of a URL is a node's name.
type peers map[string]http.Handler

func (p peers) RoundTrip(req *http.Request) (*http.Response, error) {
	h := p[req.URL.Host]
	if h == nil {
		return nil, fmt.Errorf("dial node %s: connection refused", req.URL.Host)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Result(), nil
}

// all is a Deps.Peers that returns every node for every image.
func (p peers) all(context.Context, string) (ids []string) {
	for id := range p {
		ids = append(ids, id)
	}
	return ids
}

// wantUnpacked fails the test unless containers can start from the image.
func (n *node) wantUnpacked(t *testing.T, ref string) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), layout.Namespace)
	img, err := n.Image(ctx, ref)
	if err != nil {
		t.Fatal(err)
	}
	if unpacked, err := img.IsUnpacked(ctx, "overlayfs"); err != nil || !unpacked {
		t.Errorf("image %s unpacked: got %v, %v, want true", ref, unpacked, err)
	}
}

// slowReader returns few bytes at a time, as a network does.
type slowReader struct{ io.Reader }

func (r slowReader) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 4096)]) }

// emptySpec returns a spec that a container record needs.
func emptySpec(t *testing.T) typeurl.Any {
	t.Helper()
	spec, err := typeurl.MarshalAny(&specs.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

func snapshotNames(to *[]string) snapshots.WalkFunc {
	return func(_ context.Context, i snapshots.Info) error {
		*to = append(*to, i.Name)
		return nil
	}
}
