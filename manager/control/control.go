// Package control is the users' API: it validates what is asked, resolves names, writes the desired state and reads it
// back. Reads come from this manager's replica; writes go through the leader, each as one group with the versions that it
// was made from. It also owns the authorisation table of all RPCs, those of other packages included.
//
// It refuses to decide what follows from the desired state: tasks, placement and removal are the planner's. The daemon
// registers Server for the gRPC service Control and asks Authoriser about every call. Goroutines: only those of Logs and
// Exec, which end with the call.
package control

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"swarm/internal/pace"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// Images is the image store of this manager's node.
type Images interface {
	// Load reads an OCI or Docker archive; name is for an archive without one.
	Load(ctx context.Context, r io.Reader, size int64, name string, progress func(*swarmv1.ImageProgress)) ([]*swarmv1.Image, error)
	Pull(ctx context.Context, reference, registryAuth string, progress func(*swarmv1.ImageProgress)) (*swarmv1.Image, error)
	// Push sends a held image to its registry; reference has its digest. ErrNotFound: the node does not hold all of it.
	Push(ctx context.Context, reference, registryAuth string, progress func(*swarmv1.ImageProgress)) error
}

// Resolver asks a registry for the digest of a reference: errdefs.ErrNotFound, ErrUnauthenticated or ErrPermissionDenied
// when the registry answers so, anything else when it could not be asked.
type Resolver interface {
	Resolve(ctx context.Context, reference, registryAuth string) (digest string, err error)
}

// Gossip tells whether a manager answers, for `node ls`.
type Gossip interface {
	Alive(nodeID string) (alive, known bool)
}

// Config is who this manager is.
type Config struct{ NodeID string }

// Deps are what a Server needs. Images, Resolver, Login and Gossip may be nil: then what needs them is refused or unknown.
type Deps struct {
	Log      *slog.Logger
	Store    *raftstore.Store
	Conn     func(nodeID string) (grpc.ClientConnInterface, error)
	Images   Images
	Resolver Resolver
	// Login asks a registry whether it takes the credentials: ErrUnauthenticated when it does not.
	Login  func(ctx context.Context, registry, registryAuth string) error
	Gossip Gossip
}

// Server serves swarmv1.Control.
type Server struct {
	swarmv1.UnimplementedControlServer
	cfg   Config
	deps  Deps
	log   *slog.Logger
	store *raftstore.Store
	// cursors says which addresses this manager gave last.
	cursors cursors
	// releases limits each node's.
	releases *pace.Each[string]
}

// New makes a Server.
func New(cfg Config, deps Deps) *Server {
	return &Server{
		cfg: cfg, deps: deps, log: deps.Log, store: deps.Store,
		releases: pace.New[string](pace.Budget{Burst: releaseBurst, Period: releaseEvery}),
	}
}

const (
	// attempts of a write whose caller named no version, when others write the same row, or take what it has chosen.
	// At each of them somebody got through: that many may write to the same network at the same time.
	attempts = 512
	// catchUp bounds how long a write waits to be seen by this manager's own replica.
	catchUp = 5 * time.Second
)

// actor names the caller in the log of changes.
func actor(ctx context.Context) string {
	who, err := transport.FromContext(ctx)
	if err != nil {
		return "unknown"
	}
	return who.String()
}

// write commits what change makes of the newest view. It is made again when someone else was faster: where the caller
// named no version (0), or where what it takes (a name, a port, an address) is no longer free. Then change says why not, or
// takes another.
func (s *Server) write(ctx context.Context, version uint64, change func(*raftstore.View) ([]*swarmv1.Change, error)) (uint64, error) {
	var last error
	for range attempts {
		changes, err := change(s.store.View())
		if s.outwaited(ctx, err) {
			last = err
			continue
		}
		if err != nil {
			return 0, err
		}
		if len(changes) == 0 {
			return s.store.View().Index(), nil
		}
		index, err := s.store.Commit(ctx, actor(ctx), changes...)
		if err == nil {
			return index, s.seen(ctx, index)
		}
		last = err
		if stale := errdefs.IsAborted(err) || errdefs.IsConflict(err) || errdefs.IsNotFound(err); !errdefs.IsAlreadyExists(err) && (!stale || version != 0) {
			return 0, err
		}
		if err := s.catchUp(ctx); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: others keep changing it, try again", last)
}

// seen waits until this replica holds the caller's write, so that its next read here shows it. A write that is committed
// is no error when this replica is slow.
func (s *Server) seen(ctx context.Context, index uint64) error {
	wait, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	if _, err := s.store.WaitIndex(wait, index); err != nil {
		s.log.Warn("replica lags behind a write", "index", index, "err", err)
	}
	return ctx.Err()
}

// catchUp brings this replica up to what the leader has committed.
func (s *Server) catchUp(ctx context.Context) error {
	_, err := s.store.Latest(ctx)
	return err
}

// checkVersion refuses a write made from an older row than the newest.
func checkVersion(kind, name string, want, have uint64) error {
	if want == 0 || want == have {
		return nil
	}
	return errdefs.ErrAborted.WithMessage(fmt.Sprintf("%s %s was changed meanwhile (version %d, yours is %d): look at it again and repeat", kind, name, have, want))
}
