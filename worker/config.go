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

// Config is what can be set of a Worker.
type Config struct {
	NodeID   string
	Hostname string
	// ClusterID names the cluster that the stored assignments belong to: with another one they are not used.
	ClusterID string
	// MachineID, Addr, DataPathAddr and Port are told to the managers.
	MachineID    string
	Addr         string
	DataPathAddr string
	Port         uint32
	// StateDir survives a reboot and holds state.db. RunDir need not; it holds the tasks' small files.
	StateDir string
	RunDir   string
	// CgroupParent is handed to the runtime.
	CgroupParent string
	// Starts is how many containers are created, started or removed at once. Default 4: more only queue in runc.
	Starts int
	// ConnectTimeout is how long a manager may take to welcome this node before the next one is tried. Default 2 s.
	ConnectTimeout time.Duration
	// MaxBackoff caps the pause after no manager was reachable. Default 2 s.
	MaxBackoff time.Duration
	// SinceBoot is the clock of leases. Default lease.Now.
	SinceBoot func() time.Duration
	// Clean bounds what stays on the disk.
	Clean storage.Config
	// OS and Arch are for templates. Empty: those of this program.
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

// Deps are what a Worker works with.
type Deps struct {
	Log      *slog.Logger
	Runtime  engine.Runtime
	Images   engine.Images
	Network  engine.Network
	Executor engine.Executor
	// Storage and Space tell what is on the disk, for its clean-up. Nil: nothing is (simulated containers).
	Storage engine.Storage
	Space   storage.Space
	// Logs keeps the containers' output; the worker runs it. Nil: output is not kept (simulated containers have none).
	Logs engine.LogStore
	// Managers names the managers to try; asked again for every attempt.
	Managers func() []*swarmv1.Peer
	// Dial gives a connection to a node. The connection is the callee's, and stays open.
	Dial func(nodeID string) (grpc.ClientConnInterface, error)
	// Renewed is closed by the next renewal of this node's certificate, with which Dial connects
	// from then on. Optional.
	Renewed func() <-chan struct{}
	// Describe says what the node is; asked at the start of a session and after Redescribe.
	Describe func() *swarmv1.NodeDescription
	// OnNode is told of role, managers, roots and removal. It must not block and may keep the message. Optional.
	OnNode func(*swarmv1.NodeUpdate)
	// OnKeys is told all encryption keys whenever one changes. It must not block. Optional.
	OnKeys func([]*swarmv1.EncryptionKey)
	// OnTopology is told how the cluster's networks change: networks, peerings, routings and backends, at first those that a
	// former process was told of. It must not block, and may keep the changes but not write to them. Optional.
	OnTopology func([]*swarmv1.AssignmentChange)
	// Programmed returns nil once the kernel and the name server reflect everything that OnTopology
	// was given so far. Any error is retried. Optional: they always do.
	Programmed func(ctx context.Context) error
	// Overlay says what this node's kernel has of an overlay network. Optional.
	Overlay func(ctx context.Context, network string) (*swarmv1.NodeNetwork, error)
	// OnContact, optional, is told when contact to the managers comes and goes. It must not block.
	OnContact func(managerID string, up bool)
}

func (d Deps) validate() error {
	if d.Log == nil || d.Runtime == nil || d.Images == nil || d.Network == nil || d.Executor == nil ||
		d.Managers == nil || d.Dial == nil || d.Describe == nil {
		return fmt.Errorf("worker dependencies are incomplete: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}
