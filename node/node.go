package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/internal/members"
	"swarm/internal/private"
	"swarm/internal/transport"
	swarmv1 "swarm/proto/swarm/v1"
)

// Config configures a Node. It has only data.
type Config struct {
	// StateDir is the folder for the membership, and RunDir the folder for the local socket. Run
	// creates both.
	StateDir, RunDir string
	// Group is the group that owns the local socket. Empty means root's.
	Group     string
	Hostname  string
	MachineID string
	Version   *swarmv1.VersionInfo
	// HostChanges describes for operators what the daemon changed outside its folders.
	HostChanges       []string
	ContainerdAddress string
	// CgroupDriver and CgroupVersion are those of the containers.
	CgroupDriver, CgroupVersion string
}

// Socket returns the path of the socket on which the daemon serves users of this host.
func (c Config) Socket() string { return filepath.Join(c.RunDir, "swarm.sock") }

// Base is passed to the constructors of gossip, worker and manager.
type Base struct {
	Membership Membership
	Identity   *transport.Identity
	Dialer     *transport.Dialer
	Listener   *transport.Listener
	// Members has the public keys of the cluster's nodes. The worker fills it. Every part that
	// accepts data from a node checks the node there.
	Members *members.Members
	// Review checks all open connections and calls of this node again, and closes those that are no
	// longer allowed.
	Review func()
	// Dir is the folder of this part. No other part uses it.
	Dir string
	// LogCreated stores the ID of the manager's Raft log as Membership.ManagerLog.
	LogCreated func(id string) error
	Log        *slog.Logger
}

// Manager is the node's Raft member and the services that answer from its replica.
type Manager interface {
	// Run runs the manager until ctx ends. If it is the leader then, it transfers leadership before
	// it returns.
	Run(ctx context.Context) error
	// Register registers the manager's gRPC services.
	Register(grpc.ServiceRegistrar)
	// Authorise decides about every call to this node while it is a manager, and Admit about every
	// connection. Both decide by the replica and do not block, with one exception: if the replica
	// does not have the credential of a user, they ask the leader, and wait a few seconds at most.
	// They do not ask the leader about an open connection (AuthInfo.Established). The manager calls
	// Base.Review when their answers may have changed.
	Authorise(ctx context.Context, fullMethod string) error
	Admit(proto string, who transport.AuthInfo) (transport.Trust, error)
	// Resolve returns the address of a node from the replica.
	Resolve(nodeID string) (Peer, bool)
	// Ready blocks until this manager is a voter and knows the leader.
	Ready(ctx context.Context) error
	// Resign asks the cluster to demote this node to worker. Its vote is removed soon after Resign
	// returns.
	Resign(ctx context.Context) error
	// Status returns the current state without asking other nodes.
	Status() ManagerStatus
}

// ManagerStatus is the state of a manager as its replica has it. Leader is a node ID. Managers and
// Nodes are the numbers of managers and nodes in the cluster.
type ManagerStatus struct {
	Voter           bool
	Leader          string
	Managers, Nodes int
}

// Worker runs the tasks of this node.
type Worker interface {
	// Run runs the worker until ctx ends. Tasks continue to run after it returns.
	Run(ctx context.Context) error
	// Register registers the worker's gRPC services.
	Register(grpc.ServiceRegistrar)
	// Connected blocks until a manager has accepted this node's session.
	Connected(ctx context.Context) error
	// Tasks returns the number of tasks on this node.
	Tasks() int
	// Refusal returns the reason why the managers do not accept this node. It is nil if one does,
	// or if none has answered.
	Refusal() error
	// Announce tells the managers that this node goes away, so that they count it as down at once.
	// It waits for the acknowledgement for a short time.
	Announce(ctx context.Context)
	// Depart calls Announce and stops every task with its grace period.
	Depart(ctx context.Context) error
	// Close releases the worker's files. It is for a member whose Run was never called; Run does it
	// too.
	Close() error
}

// WorkerHooks are functions of the node that the worker calls. Managers returns the managers to
// which a session may be opened. OnNode handles a manager's update about this node.
type WorkerHooks struct {
	Managers func() []Peer
	OnNode   func(*swarmv1.NodeUpdate)
	// OnKeys handles the keys of the cluster. It is not safe for concurrent use.
	OnKeys func([]*swarmv1.EncryptionKey)
}

// Gossip is this node's part of gossip, by which the nodes detect failed nodes. While it sees no
// other node, it continues to look for them.
type Gossip interface {
	// Run takes part in gossip until ctx ends. It does not announce that the node leaves; see
	// Leave.
	Run(ctx context.Context) error
	// Members returns the known members with their state.
	Members() []*swarmv1.Member
	// Resolve returns the address of a node as the managers have sent it.
	Resolve(nodeID string) (Peer, bool)
	// UpdateKeys replaces the keys. The first key encrypts, and each key decrypts.
	UpdateKeys(keys [][]byte) error
	// Leave announces that this node leaves on purpose.
	Leave(ctx context.Context) error
	// Close releases the port. It is for a member whose Run was never called; Run does it too.
	Close() error
}

// BootstrapRequest describes a new cluster and its first node.
type BootstrapRequest struct {
	NodeID, ClusterID string
	CSR               []byte
	Membership        Membership
	Init              *swarmv1.InitRequest
	Hostname          string
	MachineID         string
}

// Bootstrapped is a new cluster: its first rows, and the certificate of its first node.
type Bootstrapped struct {
	Rows                []*swarmv1.Change
	Certificate, Bundle []byte
	GossipKeys          [][]byte
	WorkerToken         string
}

// Deps has functions that construct the parts of a member. NewGossip and NewWorker are called once
// for each membership, and NewManager each time the node becomes a manager.
type Deps struct {
	Log *slog.Logger
	// Bootstrap makes the first rows of a new cluster, and signs the certificate of its first node.
	Bootstrap func(BootstrapRequest) (Bootstrapped, error)
	NewGossip func(Base) (Gossip, error)
	NewWorker func(Base, Gossip, WorkerHooks) (Worker, error)
	// NewManager returns ErrDataLoss if the manager's files are missing or damaged. The node then
	// runs without a manager.
	NewManager func(b Base, g Gossip, rows []*swarmv1.Change) (Manager, error)
	// CheckNetwork tests the network paths between this host and a manager, over a connection that
	// proves the join token. It returns an error if a path is blocked. Optional.
	CheckNetwork func(ctx context.Context, conn grpc.ClientConnInterface, m Membership) error
	// Clean removes the containers and networks of the previous membership from this host.
	Clean func(ctx context.Context) error
	// Describe returns the description of this host: platform, resources and engine.
	Describe func() *swarmv1.NodeDescription
	// Listening is called once, when the local socket accepts connections. Optional.
	Listening func()
}

// Node is the daemon of one host. Use New to construct it and Run to run it.
type Node struct {
	swarmv1.UnimplementedDaemonServer

	cfg      Config
	deps     Deps
	disk     disk
	services *Services
	addrs    hostAddrs
	started  time.Time
	next     chan *member

	// operation is held during Init, Join and Leave, so that only one runs at a time.
	operation sync.Mutex

	mu     sync.Mutex // guards the fields below
	member *member    // nil while inactive
	err    error      // why the membership on disk cannot be used
	loaded bool       // the membership on disk has been read
}

// New returns a node. It starts nothing and writes nothing; the caller must call Run.
func New(cfg Config, deps Deps) *Node {
	n := &Node{
		cfg: cfg, deps: deps, disk: disk{dir: cfg.StateDir}, services: newServices(), addrs: interfaceAddrs,
		next: make(chan *member),
	}
	n.services.SetAuthorise(n.authorise)
	n.services.unserved = n.unservedError
	swarmv1.RegisterDaemonServer(n.services.For("daemon"), n)
	return n
}

// Run serves the local socket and runs the memberships until ctx ends. It returns an error if a
// part of the member fails. The caller calls it once.
func (n *Node) Run(ctx context.Context) error {
	n.started = time.Now()
	if err := private.Folder(n.cfg.StateDir); err != nil {
		return err
	}
	// The folder is open to other users, because members of the socket's group use the socket in
	// it.
	if err := os.MkdirAll(n.cfg.RunDir, 0o711); err != nil {
		return err
	}
	local, err := transport.ListenUnix(n.cfg.Socket(), n.cfg.Group)
	if err != nil {
		return err
	}
	if n.deps.Listening != nil {
		n.deps.Listening()
	}
	s := servers{
		members:   grpc.NewServer(append(transport.ServerOptions(), n.services.ServerOption())...),
		workers:   grpc.NewServer(append(transport.WorkerOptions(), n.services.ServerOption())...),
		strangers: grpc.NewServer(append(transport.StrangerOptions(), n.services.ServerOption())...),
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serve(ctx, s.members, local) })
	g.Go(func() error {
		defer s.members.Stop()
		defer s.workers.Stop()
		defer s.strangers.Stop()
		return n.runMemberships(ctx, s)
	})
	return g.Wait()
}

// servers are the gRPC servers, one for each level of trust, because gRPC applies its limits per
// server. All use the same Services. members serves managers and users.
type servers struct{ members, workers, strangers *grpc.Server }

// serve serves until ctx ends. It returns nil if the listener was closed.
func serve(ctx context.Context, server *grpc.Server, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	err := server.Serve(ln)
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// runMemberships runs one membership after the other: first the one on disk, then those that Init
// and Join create.
func (n *Node) runMemberships(ctx context.Context, s servers) error {
	stored, err := n.loadMember()
	n.setMember(stored, nil)
	if errdefs.IsDataLoss(err) {
		// Continue: the operator must be able to read the error and to leave the cluster.
		n.deps.Log.Error("this host cannot use its membership: restore it, or run `swarm leave --force` and join again", "err", err)
		n.setMember(nil, err)
	} else if err != nil {
		return err
	}
	for {
		next := stored
		stored = nil
		if next == nil {
			select {
			case next = <-n.next:
			case <-ctx.Done():
				return nil
			}
		}
		n.setMember(next, nil)
		err := next.run(ctx, s)
		if ctx.Err() != nil {
			return err
		}
		if !errors.Is(err, errLeft) && !errors.Is(err, errRemoved) {
			return err // A part failed. The supervisor of the daemon must restart it.
		}
		if errors.Is(err, errRemoved) {
			n.deps.Log.Info("this node was removed from its cluster: it deletes its membership")
		}
		err = n.cleanUp(ctx, next)
		n.setMember(nil, err)
		close(next.gone)
		if err != nil {
			return err
		}
	}
}

// cleanUp removes all traces of a membership from the host.
func (n *Node) cleanUp(ctx context.Context, m *member) error {
	if err := n.deps.Clean(ctx); err != nil {
		n.deps.Log.Error("cannot remove the cluster's containers and networks from this host: remove them by hand", "err", err)
	}
	if err := n.disk.forget(); err != nil {
		return fmt.Errorf("forget cluster %s: %w", m.membership().ClusterID, err)
	}
	return nil
}

// loadMember constructs the member that is stored on disk. It returns nil if there is none.
func (n *Node) loadMember() (*member, error) {
	stored, err := n.disk.load()
	if err != nil || stored == nil {
		return nil, err
	}
	cred, bundle, err := n.disk.credential().Load()
	if err != nil {
		return nil, damaged("load this node's certificate: %v", err)
	}
	if err := n.updateAddresses(stored); err != nil {
		return nil, err
	}
	ln, err := listen(*stored)
	if err != nil {
		return nil, err
	}
	return n.newMember(*stored, cred, bundle, ln, nil)
}

func (n *Node) setMember(m *member, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.member, n.err, n.loaded = m, err, true
}

// damage returns why the membership on disk cannot be used. It returns nil if it can be used or if
// there is none.
func (n *Node) damage() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

func (n *Node) current() *member {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.member
}

// Info implements the Daemon service. It works in every state of the node.
func (n *Node) Info(context.Context, *swarmv1.InfoRequest) (*swarmv1.InfoResponse, error) {
	n.mu.Lock()
	m, failure := n.member, n.err
	n.mu.Unlock()
	info := &swarmv1.InfoResponse{
		LocalNodeState: "inactive", StateDir: n.cfg.StateDir, RunDir: n.cfg.RunDir, Version: n.cfg.Version,
		Description: n.deps.Describe(), ContainerdAddress: n.cfg.ContainerdAddress, HostChanges: n.cfg.HostChanges,
		Uptime: durationpb.New(time.Since(n.started)), CgroupDriver: n.cfg.CgroupDriver, CgroupVersion: n.cfg.CgroupVersion,
	}
	if failure != nil {
		info.LocalNodeState, info.Error = "error", failure.Error()
	}
	if m != nil {
		m.info(info)
	}
	return info, nil
}
