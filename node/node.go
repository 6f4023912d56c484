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

// Config is data only.
type Config struct {
	StateDir string
	RunDir   string
	// Group owns the local socket; empty: root's.
	Group     string
	Hostname  string
	MachineID string
	Version   *swarmv1.VersionInfo
	// HostChanges tells operators what the daemon changed outside its folders.
	HostChanges       []string
	ContainerdAddress string
	// CgroupDriver and CgroupVersion of the containers.
	CgroupDriver, CgroupVersion string
}

// Socket is where the daemon listens for this host's users.
func (c Config) Socket() string { return filepath.Join(c.RunDir, "swarm.sock") }

// Base is what every part of a member is given.
type Base struct {
	Membership Membership
	Identity   *transport.Identity
	Dialer     *transport.Dialer
	Listener   *transport.Listener
	// Members are the keys of the cluster's nodes. The worker fills it; whoever takes something from a node asks it.
	Members *members.Members
	// Review judges all connections and calls of this node again: closes those that are not
	// admitted any more.
	Review func()
	// Dir is the part's own folder.
	Dir string
	Log *slog.Logger
}

// Manager is the node's part in Raft, and all that is served from its replica.
type Manager interface {
	// Run blocks until ctx ends; it hands leadership over first.
	Run(ctx context.Context) error
	Register(grpc.ServiceRegistrar)
	// Authorise judges every call on this node while it is a manager, and Admit every connection.
	// They wait for the leader only for a user whose credential the replica does not know, a few
	// seconds at most, and never when AuthInfo.Running is set. The manager calls Base.Review when
	// they may answer otherwise than before.
	Authorise(ctx context.Context, fullMethod string) error
	Admit(proto string, who transport.AuthInfo) (transport.Trust, error)
	Resolve(nodeID string) (Peer, bool)
	// Ready blocks until this member votes and knows a leader.
	Ready(ctx context.Context) error
	// Resign asks the cluster to make this node a worker; its vote goes soon after.
	Resign(ctx context.Context) error
	Standing() Standing
}

// Standing is where a manager stands.
type Standing struct {
	Voter           bool
	Leader          string
	Managers, Nodes int
}

// Worker runs the node's tasks.
type Worker interface {
	Run(ctx context.Context) error
	Register(grpc.ServiceRegistrar)
	// Connected blocks until a manager has welcomed this node.
	Connected(ctx context.Context) error
	// Tasks on this node.
	Tasks() int
	// Refusal is why the managers do not serve this node; nil when one does, or none has answered.
	Refusal() error
	// Depart tells the managers that this host goes down, and stops every task with its grace.
	Depart(ctx context.Context) error
	// Close frees the worker's files; Run does it too. For a member that never ran.
	Close() error
}

// WorkerHooks connect a worker with its node.
type WorkerHooks struct {
	Managers func() []Peer
	OnNode   func(*swarmv1.NodeUpdate)
	// OnKeys takes over the cluster's keys; it must not be called by two at once.
	OnKeys func([]*swarmv1.EncryptionKey)
}

// Gossip knows who is alive. It looks for the others by itself while the node is alone.
type Gossip interface {
	Run(ctx context.Context) error
	Members() []*swarmv1.Member
	// Resolve finds a node by what the managers have told of it.
	Resolve(nodeID string) (Peer, bool)
	// UpdateKeys replaces the keys; the first encrypts, each decrypts.
	UpdateKeys(keys [][]byte) error
	// Leave says goodbye.
	Leave(ctx context.Context) error
	// Close frees the port; Run does it too. For a member that never ran.
	Close() error
}

// FoundRequest is what a new cluster is made from.
type FoundRequest struct {
	NodeID, ClusterID string
	CSR               []byte
	Membership        Membership
	Init              *swarmv1.InitRequest
	Hostname          string
	MachineID         string
}

// Founded is a new cluster: its first rows, and its first member's certificate.
type Founded struct {
	Rows                []*swarmv1.Change
	Certificate, Bundle []byte
	GossipKeys          [][]byte
	WorkerToken         string
}

// Deps makes the parts. Each function is called once a membership, NewManager once a term as manager.
type Deps struct {
	Log        *slog.Logger
	Found      func(FoundRequest) (Founded, error)
	NewGossip  func(Base) (Gossip, error)
	NewWorker  func(Base, Gossip, WorkerHooks) (Worker, error)
	NewManager func(b Base, g Gossip, rows []*swarmv1.Change) (Manager, error)
	// CheckWays tries the ways between this host and the manager at the other end of a connection
	// that proves the join token, and refuses when one is blocked. Optional.
	CheckWays func(ctx context.Context, conn grpc.ClientConnInterface, m Membership) error
	// Clean removes every container and network of the former member from this host.
	Clean    func(ctx context.Context) error
	Describe func() *swarmv1.NodeDescription
	// Listening is called once when the local socket accepts calls. Optional.
	Listening func()
}

// Node is one host's daemon. New builds it, Run runs it.
type Node struct {
	swarmv1.UnimplementedDaemonServer

	cfg      Config
	deps     Deps
	disk     disk
	services *Services
	addrs    hostAddrs
	started  time.Time
	begin    chan *member

	// operation is held during Init, Join and Leave: one at a time.
	operation sync.Mutex

	mu      sync.Mutex // guards the three below
	member  *member    // nil while inactive
	err     error      // why this host cannot be the member that it remembers to be
	resumed bool       // what is remembered on disk has been read
}

// New makes a node; nothing runs and nothing is written until Run.
func New(cfg Config, deps Deps) *Node {
	n := &Node{
		cfg: cfg, deps: deps, disk: disk{dir: cfg.StateDir}, services: newServices(), addrs: interfaceAddrs,
		begin: make(chan *member),
	}
	n.services.SetAuthorise(n.authorise)
	n.services.absent = n.absent
	swarmv1.RegisterDaemonServer(n.services.For("daemon"), n)
	return n
}

// Run serves the local socket and lives the membership until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	n.started = time.Now()
	if err := private.Folder(n.cfg.StateDir); err != nil {
		return err
	}
	// The socket in it is also for the members of its group.
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
		return n.live(ctx, s)
	})
	return g.Wait()
}

// servers answer from the same Services. What gRPC bounds, it bounds for a server: workers and strangers have one each
// of their own.
type servers struct{ members, workers, strangers *grpc.Server }

// serve serves until ctx ends; a listener that was closed is no error.
func serve(ctx context.Context, server *grpc.Server, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	err := server.Serve(ln)
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// live runs one membership after the other: the one on disk, then those that Init and Join begin.
func (n *Node) live(ctx context.Context, s servers) error {
	remembered, err := n.resume()
	n.setMember(remembered, nil)
	if errdefs.IsDataLoss(err) {
		// Not the end: the operator must be able to ask what is wrong, and to leave.
		n.deps.Log.Error("this host cannot take part in its cluster", "err", err)
		n.setMember(nil, err)
	} else if err != nil {
		return err
	}
	for {
		next := remembered
		remembered = nil
		if next == nil {
			select {
			case next = <-n.begin:
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
			return err // A part failed: whoever supervises the daemon starts it anew.
		}
		if errors.Is(err, errRemoved) {
			n.deps.Log.Info("this node was removed from its cluster")
		}
		err = n.clear(ctx, next)
		n.setMember(nil, err)
		close(next.gone)
		if err != nil {
			return err
		}
	}
}

// clear makes the host as it was before it became a member.
func (n *Node) clear(ctx context.Context, m *member) error {
	if err := n.deps.Clean(ctx); err != nil {
		n.deps.Log.Error("remove containers after leaving", "err", err)
	}
	if err := n.disk.forget(); err != nil {
		return fmt.Errorf("forget cluster %s: %w", m.remembered().ClusterID, err)
	}
	return nil
}

// resume makes the member that is remembered on disk, nil when there is none.
func (n *Node) resume() (*member, error) {
	remembered, err := n.disk.load()
	if err != nil || remembered == nil {
		return nil, err
	}
	cred, bundle, err := n.disk.credential().Load()
	if err != nil {
		return nil, damaged("load this node's certificate: %v", err)
	}
	if err := n.move(remembered); err != nil {
		return nil, err
	}
	ln, err := listen(*remembered)
	if err != nil {
		return nil, err
	}
	return n.newMember(*remembered, cred, bundle, ln, nil)
}

func (n *Node) setMember(m *member, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.member, n.err, n.resumed = m, err, true
}

// broken is why this host cannot be the member that it remembers to be, nil when it is or remembers nothing.
func (n *Node) broken() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

func (n *Node) current() *member {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.member
}

// Info implements the Daemon service.
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
