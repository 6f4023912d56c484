//go:build linux

package image_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"swarm/containerd/image"
	"swarm/internal/registrytest"
	"swarm/worker/engine"
)

func quietLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// outside returns an address of this machine that is not localhost, because registries on localhost
// are trusted.
func outside(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	t.Skip("needs an address besides localhost")
	return ""
}

// serveAt returns host:port and, with TLS, the certificate of the authority in PEM.
func serveAt(t *testing.T, address string, h http.Handler, withTLS bool) (host string, authority []byte) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = l
	s.Config.ErrorLog = nil
	if withTLS {
		var cert tls.Certificate
		if cert, authority, err = registrytest.Certificate(address); err != nil {
			t.Fatal(err)
		}
		s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return l.Addr().String(), authority
}

// certs writes a folder like /etc/swarm/certs.d.
func certs(t *testing.T, host, file string, content []byte) (root string) {
	t.Helper()
	root = t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, host), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, host, file), content, 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

func digestOf(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// seed puts an image into a registry without a network address.
func seed(t *testing.T, h http.Handler, name string, img v1.Image) (digest string) {
	t.Helper()
	host, _ := serveAt(t, "127.0.0.1", h, false)
	return push(t, host+"/"+name, img, authn.Anonymous)
}

func TestPull_CertificatesOfARegistry(t *testing.T) {
	t.Parallel()
	registry := newRegistryHandler(t, nil)
	digest := seed(t, registry, "app:1", newImage(t, 1))
	host, authority := serveAt(t, outside(t), registry, true)
	plain, _ := serveAt(t, outside(t), registry, false)
	ref, plainRef := host+"/app:1", plain+"/app:1"
	caFile := filepath.Join(certs(t, "x", "authority.pem", authority), "x", "authority.pem")
	name, _, _ := strings.Cut(host, ":")
	n := newNode(t, image.Config{}, image.Deps{})
	for _, c := range []struct {
		what, ref string
		cfg       image.Config
		want      string // of the error; empty: it is pulled
	}{
		{"unknown authority", ref, image.Config{}, "/etc/swarm/certs.d/" + host + "/ca.crt"},
		{"no TLS", plainRef, image.Config{}, "does not speak TLS"},
		{"another registry's folder", ref, image.Config{CertsDirs: []string{certs(t, "other", "ca.crt", authority)}}, "authority"},
		{"Docker's layout", ref, image.Config{CertsDirs: []string{t.TempDir(), certs(t, host, "ca.crt", authority)}}, ""},
		{"containerd's layout", ref, image.Config{CertsDirs: []string{certs(t, host, "hosts.toml", fmt.Appendf(nil, "ca = %q\n", caFile))}}, ""},
		{"containerd's layout for all", ref, image.Config{CertsDirs: []string{certs(t, "_default", "hosts.toml", fmt.Appendf(nil, "ca = %q\n", caFile))}}, ""},
		{"damaged file", ref, image.Config{CertsDirs: []string{certs(t, host, "hosts.toml", []byte("ca = [\n"))}}, "hosts.toml"},
		{"insecure, with TLS", ref, image.Config{Insecure: []string{host}}, ""},
		{"insecure, without", plainRef, image.Config{Insecure: []string{plain}}, ""},
		{"insecure network", plainRef, image.Config{Insecure: []string{name + "/32"}}, ""},
		{"insecure by another port", plainRef, image.Config{Insecure: []string{name + ":1"}}, "does not speak TLS"},
	} {
		t.Run(c.what, func(t *testing.T) {
			s, err := image.New(c.cfg, image.Deps{Log: quietLog(), Client: n.client, Keychain: authn.NewMultiKeychain()})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			got, err := s.Pull(t.Context(), engine.PullRequest{Ref: c.ref}, nil)
			if c.want == "" {
				if err != nil || got.GetDigest() != digest {
					t.Fatalf("pull: got %v, %v, want %s", got, err, digest)
				}
				if err := s.Remove(t.Context(), digest); err != nil {
					t.Error(err)
				}
				return
			}
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("pull: got %v, want one line with %q", err, c.want)
			}
		})
	}
}

// counting counts requests for blobs and manifests.
type counting struct {
	next http.Handler
	mu   sync.Mutex // guards n
	n    int
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	c.next.ServeHTTP(w, r)
}

func TestPull_MirrorsComeFirstAndTheirFailureCostsNothing(t *testing.T) {
	t.Parallel()
	registry := newRegistryHandler(t, nil)
	img := newImage(t, 3)
	digest := seed(t, registry, "app:1", img)
	origin, _ := serveAt(t, outside(t), registry, false)
	mirror := &counting{next: registry}
	up, _ := serveAt(t, "127.0.0.1", mirror, false)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	sick, _ := serveAt(t, "127.0.0.1", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }), false)
	empty, _ := serveAt(t, "127.0.0.1", newRegistryHandler(t, nil), false)
	for what, url := range map[string]string{"up": "http://" + up, "down": gone.URL, "sick": "http://" + sick, "empty": "http://" + empty} {
		t.Run(what, func(t *testing.T) {
			text := fmt.Appendf(nil, "server = \"http://%s\"\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", origin, url)
			n := newNode(t, image.Config{CertsDirs: []string{certs(t, origin, "hosts.toml", text)}}, image.Deps{})
			if got, err := n.Pull(t.Context(), engine.PullRequest{Ref: origin + "/app:1"}, nil); err != nil || got.GetDigest() != digest {
				t.Fatalf("pull: got %v, %v, want %s", got, err, digest)
			}
			n.wantUnpacked(t, origin+"/app:1")
			if asked := mirror.n > 0; what == "up" && !asked {
				t.Error("the mirror was not asked")
			}
		})
	}
}

// breaking cuts the first answers with a blob in the middle, and records where the next ones begin.
type breaking struct {
	next   http.Handler
	digest string

	mu     sync.Mutex // guards what follows
	left   int        // answers to break
	ranges []string
	sent   int64
}

func (b *breaking) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/blobs/"+b.digest) {
		b.next.ServeHTTP(w, r)
		return
	}
	b.mu.Lock()
	b.ranges = append(b.ranges, r.Header.Get("Range"))
	limit := int64(1 << 60)
	if b.left > 0 {
		b.left--
		limit = 3 << 20
	}
	b.mu.Unlock()
	out := &limited{ResponseWriter: w, left: limit}
	b.next.ServeHTTP(out, r)
	b.mu.Lock()
	b.sent += limit - out.left
	b.mu.Unlock()
	if out.left == 0 {
		panic(http.ErrAbortHandler)
	}
}

// limited sends a number of bytes and then fails.
type limited struct {
	http.ResponseWriter
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(int64(len(p)), l.left)
	l.left -= n
	if n > 0 {
		if _, err := l.ResponseWriter.Write(p[:n]); err != nil {
			return 0, err
		}
		if err := http.NewResponseController(l.ResponseWriter).Flush(); err != nil {
			return 0, err
		}
	}
	if n < int64(len(p)) {
		return int(n), errors.New("cut")
	}
	return int(n), nil
}

func TestPull_GoesOnWhereALayerWasCut(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	img, err := random.Image(size, 1)
	if err != nil {
		t.Fatal(err)
	}
	img = forThisMachine(t, img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, cuts := range []int{1, 2} {
		t.Run(fmt.Sprint(cuts), func(t *testing.T) {
			t.Parallel()
			registry := &breaking{next: newRegistryHandler(t, nil), digest: layer.String(), left: cuts}
			host, _ := serveAt(t, "127.0.0.1", registry, false)
			push(t, host+"/app:1", img, authn.Anonymous)
			n := newNode(t, image.Config{}, image.Deps{})
			for try := 0; ; try++ {
				got, err := n.Pull(t.Context(), engine.PullRequest{Ref: host + "/app:1"}, nil)
				if err == nil {
					if want := digestOf(t, img); got.GetDigest() != want {
						t.Errorf("pull: got %s, want %s", got.GetDigest(), want)
					}
					break
				}
				if !errdefs.IsUnavailable(err) || try == cuts {
					t.Fatalf("pull %d: got %v, want one that is worth another", try, err)
				}
			}
			n.wantUnpacked(t, host+"/app:1")
			registry.mu.Lock()
			defer registry.mu.Unlock()
			if len(registry.ranges) != cuts+1 || registry.ranges[0] != "" || !strings.HasPrefix(registry.ranges[cuts], "bytes=") {
				t.Errorf("ranges asked for: got %q, want %d that go on", registry.ranges, cuts)
			}
			if registry.sent > size+size/2 {
				t.Errorf("sent %d bytes of a layer of %d", registry.sent, size)
			}
		})
	}
}

func TestPull_RegistryThatIsBusySaysSo(t *testing.T) {
	t.Parallel()
	registry := newRegistryHandler(t, nil)
	digest := seed(t, registry, "app:1", newImage(t, 1))
	var mu sync.Mutex
	busy := true
	host, _ := serveAt(t, "127.0.0.1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if busy {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		registry.ServeHTTP(w, r)
	}), false)
	n := newNode(t, image.Config{}, image.Deps{})
	for _, ref := range []string{host + "/app:1", host + "/app:1@" + digest} {
		if _, err := n.Pull(t.Context(), engine.PullRequest{Ref: ref}, nil); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "answered 503 Service Unavailable") {
			t.Errorf("pull %s: got %v, want unavailable with the answer", ref, err)
		}
	}
	mu.Lock()
	busy = false
	mu.Unlock()
	if got, err := n.Pull(t.Context(), engine.PullRequest{Ref: host + "/app:1"}, nil); err != nil || got.GetDigest() != digest {
		t.Errorf("pull: got %v, %v, want %s", got, err, digest)
	}
}
