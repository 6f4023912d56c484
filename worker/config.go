package worker

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/lease"
	"swarm/worker/storage"
)

// Config is the configuration of a Worker. New fills in the defaults.
type Config struct {
	// NodeID is the node's id in the cluster. Required.
	NodeID string
	// Hostname is the name of the host. A manager may give the node another name in the cluster.
	Hostname string
	// ClusterID is the id of the cluster. New deletes the content of StateDir if it belongs to
	// another cluster.
	ClusterID string
	// MachineID, Addr, DataPathAddr and Port are told to the managers.
	MachineID    string
	Addr         string
	DataPathAddr string
	Port         uint32
	// StateDir is the folder of state.db. It must survive a reboot. RunDir is the folder of the
	// tasks' small files and of the lease. A reboot must clear it, and it should be in memory. Both
	// paths must be absolute.
	StateDir string
	RunDir   string
	// CgroupParent is the cgroup under which the runtime puts containers.
	CgroupParent string
	// Starts is how many containers are created, started or removed at the same time. Default 4:
	// more would only queue in runc.
	Starts int
	// ConnectTimeout is how long a manager may take to welcome this node before the next one is
	// tried. Default 2 s.
	ConnectTimeout time.Duration
	// MaxBackoff is the longest pause after a round in which no manager could be reached. Default 2
	// s.
	MaxBackoff time.Duration
	// SinceBoot is the clock of leases. Default lease.Now.
	SinceBoot func() time.Duration
	// Clean says when the worker removes images and logs that nothing needs.
	Clean storage.Config
	// OS and Arch are for the templates of services. Default: those of this program.
	OS, Arch string
}

const (
	defaultStarts         = 4
	defaultConnectTimeout = 2 * time.Second
	defaultMaxBackoff     = 2 * time.Second
)

func (c Config) validate() (Config, error) {
	if c.SinceBoot == nil {
		c.SinceBoot = lease.Now
	}
	switch {
	case c.NodeID == "":
		return c, fmt.Errorf("worker configuration names no node: %w", errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(c.StateDir) || !filepath.IsAbs(c.RunDir):
		return c, fmt.Errorf("worker folders %q and %q must be absolute paths: %w", c.StateDir, c.RunDir, errdefs.ErrInvalidArgument)
	}
	if c.Starts <= 0 {
		c.Starts = defaultStarts
	}
	if c.ConnectTimeout <= 0 {
		c.ConnectTimeout = defaultConnectTimeout
	}
	if c.MaxBackoff <= 0 {
		c.MaxBackoff = defaultMaxBackoff
	}
	return c, nil
}

// Deps are the live objects that a Worker works with. Fields are required if their comments do not
// call them optional. OnNode, OnKeys, OnTopology and OnContact must not block.
type Deps struct {
	Log      *slog.Logger
	Runtime  engine.Runtime
	Images   engine.Images
	Network  engine.Network
	Executor engine.Executor
	// Storage and Space measure the disk, for its clean-up. Optional: simulated containers leave
	// nothing on a disk.
	Storage engine.Storage
	Space   storage.Space
	// Logs keeps the containers' output. The worker calls its Run. Optional: without it, the output
	// is discarded.
	Logs engine.LogStore
	// Managers returns the managers to try. It is called for every round of attempts.
	Managers func() []*swarmv1.Peer
	// Dial returns a connection to a node. The connection belongs to the owner of Dial: the worker
	// does not close it.
	Dial func(nodeID string) (grpc.ClientConnInterface, error)
	// Renewed returns a channel that the next renewal of this node's certificate closes. Dial
	// connects with the new certificate from then on. Optional.
	Renewed func() <-chan struct{}
	// Describe returns what the node is. It is called at the start of a session and after
	// Worker.Redescribe.
	Describe func() *swarmv1.NodeDescription
	// OnNode is told the node's role, the managers, the roots, and that the node was removed. It
	// may keep the message. Optional.
	OnNode func(*swarmv1.NodeUpdate)
	// OnKeys is given all encryption keys when one changes. Optional.
	OnKeys func([]*swarmv1.EncryptionKey)
	// OnTopology is told how the cluster's networks change: networks, peerings, routings and
	// backends. The first call has the objects that an earlier process of this node left in
	// state.db. It may keep the changes but must not write to them. Optional.
	OnTopology func([]*swarmv1.AssignmentChange)
	// Programmed returns nil once the kernel and the name server reflect everything that OnTopology
	// was given so far. The worker repeats a call that fails. Optional: without it, every change
	// counts as programmed.
	Programmed func(ctx context.Context) error
	// InspectNetwork returns what this node's kernel has of an overlay network. Optional: without
	// it, the RPC Network returns ErrNotImplemented.
	InspectNetwork func(ctx context.Context, network string) (*swarmv1.NodeNetwork, error)
	// OnContact is told when a session with a manager begins and ends. Optional.
	OnContact func(managerID string, up bool)
}

func (d Deps) validate() error {
	if d.Log == nil || d.Runtime == nil || d.Images == nil || d.Network == nil || d.Executor == nil ||
		d.Managers == nil || d.Dial == nil || d.Describe == nil {
		return fmt.Errorf("worker dependencies are incomplete: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}
