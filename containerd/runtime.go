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

	"swarm/containerd/exec"
	"swarm/containerd/exit"
	"swarm/containerd/imagecache"
	"swarm/containerd/layout"
	"swarm/containerd/shimgroup"
	"swarm/containerd/volume"
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
	labelStdin   = "io.swarm.stdin" // set if the standard input stays open
	labelSignal  = client.StopSignalLabel
)

// Config says where the runtime keeps its files, and how containers are made.
type Config struct {
	// StateDir is a persistent folder, for volumes and for a folder of each task. Its path also
	// tells the containers of this daemon from those of another daemon on the same containerd.
	StateDir string
	// RunDir is a folder that a reboot may clear. It holds secrets and configs on a tmpfs, the
	// files of each container's /etc on a tmpfs of the task, staging folders, and the pipes of
	// execs.
	RunDir string
	// RuncRoot is runc's state folder, which no other daemon may use. Runc is the path of the
	// program. If they are empty, containerd uses the values of its configuration.
	RuncRoot, Runc string
	// Build names the build of swarm from whose files the shims run. Only containers of one build
	// share shims. Build is empty if the shims are those of the host's containerd.
	Build string
	// Exits is the folder of exit records (layout.Exits). It is empty if the shims write none.
	Exits string
	// Init is the path of a static program that behaves as reaper.Main when it is called
	// swarm-init. If it is empty, containers run without an init process.
	Init string
	// CgroupParent is the parent cgroup of containers whose service names none: a path from the
	// root of the hierarchy, or the name of a slice if SystemdCgroup is set.
	CgroupParent string
	// SystemdCgroup says that systemd makes the cgroups, as scopes, and not runc.
	SystemdCgroup bool
	// Snapshotter is the name of containerd's snapshotter. Empty stands for overlayfs.
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
	// Client is a client that Connect has returned.
	Client *client.Client
	// Room returns an error when the disk has no room for a number of bytes. Nil: there is always
	// room.
	Room func(bytes int64) error
}

// Runtime implements engine.Runtime and engine.Executor. Its methods are safe for concurrent use by
// many tasks. Calls for one task must not overlap, except that Wait and Exec may run beside others.
type Runtime struct {
	cfg     Config
	log     *slog.Logger
	client  *client.Client
	options typeurl.Any // runc options
	host    host
	images  *imagecache.Cache
	exits   exit.Dir
	groups  *shimgroup.Table
	volumes *volume.Store
	execs   *exec.Runner

	// tmpfs guards the mount of the tmpfs for secrets: a second mount would hide the files in the
	// first.
	tmpfs sync.Mutex

	mu       sync.Mutex          // guards prepared
	prepared map[string]prepared // by task: containers that this process has prepared and not yet started
}

var (
	_ engine.Runtime  = (*Runtime)(nil)
	_ engine.Executor = (*Runtime)(nil)
)

// Connect returns a client of the containerd on a socket. It does not wait for containerd to
// answer.
func Connect(address string) (*client.Client, error) {
	// A containerd that restarts is back within a fraction of a second, and exits of containers are
	// not seen until the client has connected again. gRPC's default pause is a second and more.
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

// New returns a runtime. containerd need not answer yet. ErrInvalidArgument: the configuration is
// not valid.
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
		groups:   shimgroup.New(cfg.Build),
		prepared: make(map[string]prepared),
	}
	r.execs = exec.New(deps.Client, deps.Log, filepath.Join(cfg.RunDir, "exec"))
	r.volumes = volume.New(volume.Config{
		Dir:        filepath.Join(cfg.StateDir, "volumes"),
		TasksDir:   r.tasksRoot(),
		StagingDir: filepath.Join(cfg.RunDir, "staged"),
	}, volume.Deps{Log: deps.Log, Room: deps.Room})
	r.images = imagecache.New(deps.Client, cfg.Snapshotter, deps.Room)
	return r, nil
}

// List returns every container of this daemon, running or not. ErrRuntimeAway: containerd does not
// answer.
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

// owned lists the container records of this daemon, and not those of other daemons on the same
// containerd.
func (r *Runtime) owned(ctx context.Context) ([]containers.Container, error) {
	return r.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%q", labelOwner, r.cfg.StateDir))
}

func namespaced(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, layout.Namespace)
}
