//go:build linux

package image

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/authn"

	"swarm/containerd/image/peer"
	"swarm/containerd/image/registry"
	"swarm/containerd/layout"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Config is data.
type Config struct {
	// Address is containerd's socket, for when Deps has no client.
	Address string
	// Snapshotter; empty: overlayfs.
	Snapshotter string
	// Insecure names registries (HOST[:PORT], or networks of them as ADDRESS/BITS) that need no
	// certificate that anybody vouches for, or no TLS at all. Those on localhost never do.
	Insecure []string
	// PeerBandwidth is how many bytes a second go to other nodes at most; 0: any number.
	PeerBandwidth int64
	// CertsDirs have folders of registries, laid out as containerd's (HOST/hosts.toml) or Docker's
	// (HOST/ca.crt, client.cert, client.key). The first that has one of its own for a registry
	// counts, then the first with _default.
	CertsDirs []string
}

// Deps are live objects. All but Log may be nil.
type Deps struct {
	Log *slog.Logger
	// Client of containerd. Nil: New makes one, which connects when it is first used.
	Client *client.Client
	// Peers names the nodes that hold an image.
	Peers func(ctx context.Context, digest string) []string
	// PeerTransport carries http://NODE-ID/v2/...
	PeerTransport http.RoundTripper
	// Keychain finds credentials when a pull brings none. Nil: Docker's config.json and its
	// helpers.
	Keychain authn.Keychain
	// Room refuses what the disk has no room for: so many bytes, or any number when it is 0. Nil:
	// there always is.
	Room func(bytes int64) error
}

// Store implements engine.ImageStore.
type Store struct {
	cfg      Config
	log      *slog.Logger
	client   *client.Client
	close    func() error
	registry *registry.Client
	peers    *peer.Client // nil: no other node is asked
	server   *peer.Server
	deps     Deps
	platform platforms.MatchComparer
	flights  flights

	mu      sync.Mutex // guards what follows; never held while containerd is asked
	held    *catalog   // nil: to be read
	writes  uint64     // counts the records' changes, so that an old reading does not become held
	changed chan struct{}
	pulling map[string]bool // leases of pulls under way
}

var _ engine.ImageStore = (*Store)(nil)

// New makes a store; containerd need not answer yet.
func New(cfg Config, deps Deps) (*Store, error) {
	if cfg.Snapshotter == "" {
		cfg.Snapshotter = "overlayfs"
	}
	s := &Store{
		cfg:      cfg,
		log:      deps.Log,
		client:   deps.Client,
		deps:     deps,
		registry: registry.New(registry.Config{Insecure: cfg.Insecure, CertsDirs: cfg.CertsDirs}, registry.Deps{Log: deps.Log, Keychain: deps.Keychain}),
		platform: platforms.Default(),
		changed:  make(chan struct{}),
	}
	s.server = peer.NewServer(peer.Config{Bandwidth: cfg.PeerBandwidth}, peer.Deps{Log: deps.Log, Open: s.open})
	if deps.Peers != nil && deps.PeerTransport != nil {
		s.peers = peer.NewClient(deps.PeerTransport)
	}
	if s.client == nil {
		c, err := client.New(cfg.Address, client.WithDefaultNamespace(layout.Namespace))
		if err != nil {
			return nil, fmt.Errorf("image store: connect to containerd on %s: %w", cfg.Address, err)
		}
		s.client = c
	}
	s.close = sync.OnceValue(func() error {
		s.flights.close()
		if deps.Client != nil {
			return nil
		}
		return s.client.Close()
	})
	return s, nil
}

// Close ends the pulls in progress and waits for them. A client from Deps stays open.
func (s *Store) Close() error { return s.close() }

// List gives the images that are wholly here, one for each digest.
func (s *Store) List(ctx context.Context) ([]*swarmv1.Image, error) {
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	out := make([]*swarmv1.Image, 0, len(c.images))
	for _, e := range c.images {
		out = append(out, e.proto(e.name()))
	}
	slices.SortFunc(out, func(a, b *swarmv1.Image) int { return compareImages(a, b) })
	return out, nil
}

// Holds says whether an image is wholly here.
func (s *Store) Holds(digest string) bool {
	c, err := s.catalog(context.Background())
	if err != nil {
		s.log.Warn("held images are not known", "err", err)
		return false
	}
	return c.images[digest] != nil
}

// Changed is closed when what List gives next changes.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Image finds a held image by reference, by its digest when it has one. ErrNotFound: it is not
// held.
func (s *Store) Image(ctx context.Context, ref string) (client.Image, error) {
	e, err := s.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	held, err := s.client.ImageService().Get(namespaced(ctx), e.records[0])
	if errdefs.IsNotFound(err) {
		s.note() // somebody else removed it
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	return client.NewImage(s.client, held), nil
}

// note says that the records have changed.
func (s *Store) note() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = nil
	s.writes++
	close(s.changed)
	s.changed = make(chan struct{})
}

func namespaced(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, layout.Namespace)
}
