//go:build linux

package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"swarm/node"
	"swarm/overlay/bridge"
	"swarm/overlay/directory"
	"swarm/overlay/fabric"
	"swarm/overlay/hostnet"
	"swarm/overlay/mesh"
	"swarm/overlay/nft"
	"swarm/overlay/plane"
	"swarm/overlay/probe"
	"swarm/overlay/resolve"
	"swarm/overlay/vip"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

const (
	// maxHealth is the memberlist health score from which on this node assumes that the fault is on
	// this node. The score goes from 0, which is healthy, to 8.
	maxHealth = 4
	// rulesDelay is the minimum time between two checks of the mesh's rules, so that many changes
	// of the host's nftables rules cause one check.
	rulesDelay = 200 * time.Millisecond
)

// Config configures the data plane of a member.
type Config struct {
	// RunDir is the daemon's runtime folder. The pins of network namespaces are below it.
	RunDir string
	// Resolver is the path of the Unix socket at which the name server takes its records.
	Resolver string
}

// Deps are the live objects that the data plane uses.
type Deps struct {
	// Bridge is the node's bridge network. It outlives the membership.
	Bridge *bridge.Bridge
	// Gossip reports which nodes are dead.
	Gossip *Gossip
	// RoundDone is called after each round of changes to the kernel. It must not block.
	RoundDone func(plane.Round)
	// ConflictsChanged is called when the result of PortConflicts may have changed. It must not
	// block.
	ConflictsChanged func()
}

// Plane is the data plane of a member: the overlay networks, the routing mesh, and the records of
// the name server. New builds it, Run runs it. Several goroutines may call its methods.
type Plane struct {
	plane     *plane.Plane
	directory *directory.Directory
	fabric    *fabric.Fabric
	balancer  *vip.Balancer
	feed      *resolve.Feed
	meshes    *meshes
	gossip    *Gossip
	dnsConn   *grpc.ClientConn
}

// New builds the data plane for a membership. It also tells the bridge network which ports serve
// the cluster, so that containers cannot reach them. New does not change the kernel.
func New(b node.Base, cfg Config, deps Deps) (*Plane, error) {
	m := b.Membership
	underlay, err := netip.ParseAddr(m.DataPathAddr)
	if err != nil {
		return nil, fmt.Errorf("data path address: %w", err)
	}
	p := &Plane{
		directory: directory.New(m.NodeID), balancer: vip.New(),
		feed:   resolve.NewFeed(resolve.FeedConfig{Socket: cfg.Resolver}, resolve.Deps{Log: b.Log}),
		meshes: &meshes{port: m.DataPathPort, log: b.Log},
		gossip: deps.Gossip,
	}
	if p.fabric, err = newFabric(cfg.RunDir, underlay, m.DataPathPort, b.Log); err != nil {
		return nil, err
	}
	dataPort := cmp.Or(m.DataPathPort, probe.DefaultDataPort)
	deps.Bridge.BlockUDPPort(dataPort)
	deps.Bridge.BlockClusterPorts(bridge.ClusterPorts{
		Cluster: cmp.Or(m.ListenPort, m.Port), Gossip: m.GossipPort, Data: dataPort,
	})
	// The connection is opened by the first call.
	p.dnsConn, err = grpc.NewClient("unix://"+cfg.Resolver, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	p.plane = plane.New(plane.Deps{
		Log: b.Log, Directory: p.directory, Bridge: deps.Bridge, Fabric: p.fabric, Balancer: p.balancer,
		Names: p.feed, Mesh: p.meshes.get, Dead: p.report,
		RoundDone: deps.RoundDone, ConflictsChanged: deps.ConflictsChanged,
	})
	return p, nil
}

// newFabric makes this host's part of the overlay networks, with its pins below runDir.
func newFabric(runDir string, underlay netip.Addr, port uint16, log *slog.Logger) (*fabric.Fabric, error) {
	return fabric.New(fabric.Config{PinDir: filepath.Join(runDir, "networks"), Underlay: underlay, Port: port}, fabric.Deps{Log: log})
}

// Purge removes the networks of tasks from the kernel: overlay networks, the routing mesh, and the
// bridge network. runDir is the daemon's runtime folder. The caller must have stopped all tasks.
func Purge(ctx context.Context, runDir string, b *bridge.Bridge, log *slog.Logger) error {
	networks, err := newFabric(runDir, netip.IPv6Loopback(), 0, log) // The underlay address does not matter: no packets are sent.
	if err == nil {
		err = errors.Join(networks.Purge(ctx), networks.Close())
	}
	ports := newMesh(0, 0, log)
	return errors.Join(err, ports.Purge(ctx), ports.Close(), b.Purge(ctx))
}

// NewBridge makes the node's bridge network, with its pins below the daemon's runtime folder.
func NewBridge(runDir string, log *slog.Logger) (*bridge.Bridge, error) {
	return bridge.New(bridge.Config{NetnsDir: filepath.Join(runDir, "netns")}, bridge.Deps{Log: log})
}

// PurgeHost is Purge on a host where no daemon runs.
func PurgeHost(ctx context.Context, runDir string, log *slog.Logger) error {
	b, err := NewBridge(runDir, log)
	if err != nil {
		return err
	}
	return errors.Join(Purge(ctx, runDir, b, log), b.Close())
}

// HostChanges lists for operators what the data plane changes outside the daemon's folders.
func HostChanges() []string {
	return []string{
		"nftables tables swarm-bridge (families inet and bridge) and device swarm0, while tasks use the bridge network",
		"nftables tables swarm-mesh and swarm-mesh-zones, device swmesh, routing rules and tables, while ports are published on all nodes",
		"while these devices exist: accept rules for them in chains of other programs that drop forwarded packets; net.ipv4.ip_forward and net.ipv6.conf.all.forwarding are 1",
	}
}

// Routed lists the ranges that the host routes, without those of the cluster. Networks of the
// cluster must not overlap them.
func Routed() ([]string, error) {
	ranges, err := hostnet.Routed(meshDevice)
	out := make([]string, len(ranges))
	for i, r := range ranges {
		out[i] = r.String()
	}
	return out, err
}

// Run programs the kernel and the name server as the directory changes, until ctx ends.
func (p *Plane) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.plane.Run(ctx) })
	g.Go(func() error {
		select {
		case <-p.plane.Restored():
			return p.feed.Run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error { return nft.Watch(ctx, rulesDelay, p.meshes.check, p.meshes.log) })
	return g.Wait()
}

// Close frees the handles of the data plane. Networks and rules stay in the kernel, so that tasks
// keep their connections while the daemon restarts.
func (p *Plane) Close() error {
	return errors.Join(p.balancer.Close(), p.fabric.Close(), p.meshes.close(), p.dnsConn.Close())
}

// Network returns the worker's view of the data plane.
func (p *Plane) Network() engine.Network { return taskNetwork{p.plane} }

// Apply takes the changes of the cluster's topology that the managers send. It does not block.
func (p *Plane) Apply(changes []*swarmv1.AssignmentChange) { p.directory.Apply(changes) }

// Programmed waits until the kernel and the name server match the changes applied so far.
func (p *Plane) Programmed(ctx context.Context) error { return p.plane.Programmed(ctx) }

// report returns the dead nodes, and a channel that is closed at the next change.
func (p *Plane) report() (directory.Report, <-chan struct{}) {
	v, changed := p.gossip.detector.Verdict()
	return directory.Report{Dead: v.Dead, Confirmed: v.Confirmed, Faulty: p.gossip.Health() >= maxHealth}, changed
}

// meshes holds the routing mesh, which is made once the VNI of the network `ingress` is known.
type meshes struct {
	port uint16
	log  *slog.Logger

	mu      sync.Mutex // guards vni and current
	vni     uint32
	current *mesh.Mesh
}

// get returns the mesh for a VNI. The VNI of network `ingress` stays the same while this host is a
// member, because nobody can remove the network. If a manager sends another VNI nevertheless, get
// makes a new mesh, whose first Sync replaces the device and the rules of the former one.
func (m *meshes) get(vni uint32) plane.Mesh {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current == nil || m.vni != vni {
		m.vni, m.current = vni, newMesh(vni, m.port, m.log)
	}
	return m.current
}

func newMesh(vni uint32, port uint16, log *slog.Logger) *mesh.Mesh {
	return mesh.New(mesh.Config{VNI: int(vni), Port: int(port)}, mesh.Deps{Log: log})
}

// check restores the mesh's rules if another program has changed them.
func (m *meshes) check(ctx context.Context) error {
	m.mu.Lock()
	current := m.current
	m.mu.Unlock()
	if current == nil {
		return nil
	}
	return current.Check(ctx)
}

func (m *meshes) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current == nil {
		return nil
	}
	return m.current.Close()
}
