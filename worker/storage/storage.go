package storage

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	"swarm/internal/disk"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/assignment"
	"swarm/worker/engine"
	"swarm/worker/state"
)

// Config says when the Disk removes images and logs that nothing needs.
type Config struct {
	// Start and Stop are percentages of the disk. When Start or more is in use, the Disk removes
	// images and logs until less than Stop is in use. Defaults 85 and 75.
	Start, Stop int
	// ImageAge is how long an unused image stays. 0: until Start percent of the disk are in use.
	ImageAge time.Duration
}

const (
	defaultStart = 85
	defaultStop  = 75
)

// Space says how full the disk is. *disk.Watch implements it.
type Space interface {
	// Dir returns the folder whose disk is measured.
	Dir() string
	// Space returns the last measurement.
	Space() disk.Space
	// Now makes a new measurement.
	Now() (disk.Space, error)
	// Changed returns a channel that is closed when the disk becomes full or is no longer full.
	Changed() <-chan struct{}
}

// Containers lists the containers of the node.
type Containers interface {
	// List is engine.Runtime.List.
	List(ctx context.Context) ([]engine.Found, error)
}

// Tasks says which containers and images the node's tasks need.
type Tasks interface {
	// Has reports whether the node has a task.
	Has(taskID string) bool
	// IsLive reports whether the node has the task and the task may have a container, now or later.
	IsLive(taskID string) bool
	// Remove removes the container, the attachment and the files of a task.
	Remove(ctx context.Context, taskID string) error
}

// Deps are the live objects that a Disk works with.
type Deps struct {
	Log        *slog.Logger
	Containers Containers
	Images     engine.Images
	// Storage and Space are both nil if containers are simulated: then nothing is on a disk.
	Storage engine.Storage
	Space   Space
	// Logs is nil if nothing keeps the output of containers.
	Logs    engine.LogStore
	Objects *assignment.Set
	State   *state.DB
	Tasks   Tasks
	// Synced is closed once the managers have said which tasks the node has.
	Synced <-chan struct{}
	// Conn returns a connection to the manager of the session.
	Conn func() (grpc.ClientConnInterface, error)
}

// Disk is the node's disk. It removes images, logs of former tasks, and containers that belong to
// no task, and implements swarmv1.DiskServer. Its methods may be called concurrently.
type Disk struct {
	swarmv1.UnimplementedDiskServer
	cfg  Config
	deps Deps
	// began is when this node began to record which images are in use. state.db keeps it.
	began     time.Time
	filling   bool          // the last clean-up found the disk too full; only Run uses it
	measuring chan struct{} // capacity 1: a token while a call of Usage adds up the sizes on the disk

	mu   sync.Mutex           // guards used
	used map[string]time.Time // when an image was last seen in use, by digest
}

// New returns a Disk, which does nothing before Run. saved has the times at which an earlier
// process saw images in use.
func New(cfg Config, deps Deps, saved *state.Saved) *Disk {
	if cfg.Start == 0 {
		cfg.Start = defaultStart
	}
	if cfg.Stop == 0 {
		cfg.Stop = min(defaultStop, cfg.Start)
	}
	d := &Disk{cfg: cfg, deps: deps, began: saved.Began, used: saved.Used, measuring: make(chan struct{}, 1)}
	if d.began.IsZero() {
		d.began = time.Now()
		d.deps.State.SetBegan(d.began)
	}
	return d
}

// isSynced reports whether the managers have said which tasks the node has.
func (d *Disk) isSynced() bool {
	select {
	case <-d.deps.Synced:
		return true
	default:
		return false
	}
}
