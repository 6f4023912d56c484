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
	"swarm/internal/broadcast"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// Config says how images are fetched and served.
type Config struct {
	// Address is the path of containerd's socket, used if Deps has no client.
	Address string
	// Snapshotter is the name of containerd's snapshotter. Empty stands for overlayfs.
	Snapshotter string
	// Insecure names registries whose certificates are not verified, see registry.Config.
	Insecure []string
	// PeerBandwidth is how many bytes a second this node sends to all other nodes together, at
	// most. 0: there is no limit.
	PeerBandwidth int64
	// CertsDirs are folders with certificates and mirrors of registries, see registry.Config.
	CertsDirs []string
}

// Deps are live objects. All but Log may be nil.
type Deps struct {
	Log *slog.Logger
	// Client is a client of containerd. If it is nil, New makes one, which connects when it is
	// first used.
	Client *client.Client
	// Peers returns the ids of the nodes that may hold an image.
	Peers func(ctx context.Context, digest string) []string
	// PeerTransport carries requests for http://NODE-ID/v2/...
	PeerTransport http.RoundTripper
	// Keychain finds credentials when a pull brings none. Nil: Docker's config.json and its
	// helpers.
	Keychain authn.Keychain
	// Room returns an error when the disk has no room for a number of bytes, or for any at all if
	// bytes is 0. Nil: there is always room.
	Room func(bytes int64) error
}

// Store implements engine.ImageStore. Its methods are safe for concurrent use.
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
	fetches  sharedFetches

	mu      sync.Mutex // guards the fields below; never held during a call to containerd
	held    *catalog   // nil: it must be read
	writes  uint64     // counts changes of the records, so that an outdated catalog is not stored in held
	changed broadcast.Signal
	pulling map[string]bool // leases of pulls in progress
}

var _ engine.ImageStore = (*Store)(nil)

// New returns a store. containerd need not answer yet.
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
		s.fetches.close()
		if deps.Client != nil {
			return nil
		}
		return s.client.Close()
	})
	return s, nil
}

// Close ends the pulls in progress and waits for them. It does not close a client from Deps.
func (s *Store) Close() error { return s.close() }

// List returns the complete images, one for each digest, sorted by name.
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

// Holds reports whether this node holds the complete image with a digest. If containerd does not
// answer, it returns false and writes to the log.
func (s *Store) Holds(digest string) bool {
	c, err := s.catalog(context.Background())
	if err != nil {
		s.log.Warn("list of images cannot be read", "err", err)
		return false
	}
	return c.images[digest] != nil
}

// Changed returns a channel that is closed when the result of List changes.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed.Changed()
}

// Image returns an image that this node holds, found by its digest if ref has one, else by its
// name. ErrNotFound: the node does not hold it.
func (s *Store) Image(ctx context.Context, ref string) (client.Image, error) {
	e, err := s.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	held, err := s.client.ImageService().Get(namespaced(ctx), e.records[0])
	if errdefs.IsNotFound(err) {
		s.invalidate() // Another client of containerd removed it.
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	return client.NewImage(s.client, held), nil
}

// invalidate records that the image records have changed.
func (s *Store) invalidate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = nil
	s.writes++
	s.changed.Broadcast()
}

func namespaced(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, layout.Namespace)
}
