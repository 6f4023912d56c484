//go:build linux

package containerd

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"swarm/worker/containerd/exit"
	"swarm/worker/containerd/layout"
	"swarm/worker/engine"
)

// Labels of the containers.
const (
	labelOwner   = "io.swarm.owner" // the state folder of the daemon whose container it is
	labelTask    = "io.swarm.task.id"
	labelService = "io.swarm.service.id"
	labelNode    = "io.swarm.node.id"
	labelGroup   = "io.swarm.shim-group"
	labelCgroup  = "io.swarm.cgroup"
	labelLogs    = "io.swarm.logs"
	labelStdin   = "io.swarm.stdin" // there is one, which nobody closes
	labelSignal  = client.StopSignalLabel
)

// Config is data.
type Config struct {
	// StateDir is persistent: volumes, and a folder for each task. It also tells this daemon's containers from those of
	// another on the same containerd.
	StateDir string
	// RunDir is not: secrets and configs, on a tmpfs, the files of a container's /etc, on one for each task, and the pipes
	// of execs.
	RunDir string
	// RuncRoot and Runc are the runc options of every container: its state folder, which no other daemon may share, and
	// the program; empty: what the containerd at hand has configured.
	RuncRoot, Runc string
	// Build names what the shims run from: only containers of one build share shims. Empty: a containerd of the host.
	Build string
	// Exits is the folder of exit records (layout.Exits); empty: the shims keep none.
	Exits string
	// Init is the path of a static program that behaves as reaper.Main when called swarm-init; empty: none.
	Init string
	// CgroupParent is for containers that name none: a path from the root, or with SystemdCgroup the name of a slice.
	CgroupParent string
	// SystemdCgroup: containers are scopes of systemd, not folders that runc makes.
	SystemdCgroup bool
	// Snapshotter; empty: overlayfs.
	Snapshotter string
}

func (c Config) validate() error {
	for _, p := range []struct{ name, path string }{{"state", c.StateDir}, {"run", c.RunDir}} {
		if !filepath.IsAbs(p.path) {
			return fmt.Errorf("container runtime: %s folder %q is not an absolute path: %w", p.name, p.path, errdefs.ErrInvalidArgument)
		}
	}
	if c.SystemdCgroup {
		if !strings.HasSuffix(c.CgroupParent, ".slice") || strings.Contains(c.CgroupParent, "/") {
			return fmt.Errorf("container runtime: cgroup parent %q is not the name of a slice: %w", c.CgroupParent, errdefs.ErrInvalidArgument)
		}
	} else if !strings.HasPrefix(c.CgroupParent, "/") {
		return fmt.Errorf("container runtime: cgroup parent %q does not start with a slash: %w", c.CgroupParent, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Deps are live objects.
type Deps struct {
	Log *slog.Logger
	// Client is from Connect.
	Client *client.Client
	// Room refuses what the disk has no room for, in bytes. Nil: there always is.
	Room func(bytes int64) error
}

// Runtime implements engine.Runtime and engine.Executor.
type Runtime struct {
	cfg     Config
	log     *slog.Logger
	client  *client.Client
	options typeurl.Any // runc options
	host    host
	images  images
	exits   exit.Dir
	groups  *groups

	// tmpfs lets one caller mount: a second mount would hide the files in the first.
	tmpfs sync.Mutex

	mu       sync.Mutex          // guards what follows
	prepared map[string]prepared // by task: prepared by this process, not yet started
}

var (
	_ engine.Runtime  = (*Runtime)(nil)
	_ engine.Executor = (*Runtime)(nil)
)

// Connect makes a client of the containerd at a socket. It does not wait for it to answer.
func Connect(address string) (*client.Client, error) {
	// containerd comes back within a fraction of a second, and ends of containers wait to be known: gRPC's own pause
	// would be a second and more.
	c, err := client.New(address, client.WithDefaultNamespace(layout.Namespace),
		client.WithExtraDialOpts([]grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: retryMin, Multiplier: 1.5, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		})}))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd on %s: %w", address, err)
	}
	return c, nil
}

// New returns a runtime; containerd need not answer yet. ErrInvalidArgument for a configuration it cannot use.
func New(cfg Config, deps Deps) (*Runtime, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Snapshotter == "" {
		cfg.Snapshotter = overlayfs
	}
	opts, err := typeurl.MarshalAny(&options.Options{Root: cfg.RuncRoot, BinaryName: cfg.Runc, SystemdCgroup: cfg.SystemdCgroup})
	if err != nil {
		return nil, fmt.Errorf("container runtime: options: %w", err)
	}
	r := &Runtime{
		cfg:      cfg,
		log:      deps.Log,
		client:   deps.Client,
		options:  opts,
		host:     newHost(cfg.Runc, deps.Log),
		exits:    exit.Dir(cfg.Exits),
		groups:   newGroups(cfg.Build),
		prepared: make(map[string]prepared),
	}
	r.images = images{client: deps.Client, snapshotter: cfg.Snapshotter, room: deps.Room, known: make(map[string]*slot)}
	return r, nil
}

// List names every container this node has.
func (r *Runtime) List(ctx context.Context) ([]engine.Found, error) {
	ctx = namespaced(ctx)
	owned, err := r.owned(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", engine.Away(err))
	}
	running, err := r.running(ctx)
	if err != nil {
		return nil, fmt.Errorf("list running containers: %w", engine.Away(err))
	}
	found := make([]engine.Found, 0, len(owned))
	for _, c := range owned {
		pid, runs := running[c.ID]
		found = append(found, engine.Found{TaskID: c.ID, ServiceID: c.Labels[labelService], Running: runs, Pid: pid})
	}
	return found, nil
}

// owned lists the container records of this daemon, and of no other on the same containerd.
func (r *Runtime) owned(ctx context.Context) ([]containers.Container, error) {
	return r.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%q", labelOwner, r.cfg.StateDir))
}

func namespaced(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, layout.Namespace)
}
