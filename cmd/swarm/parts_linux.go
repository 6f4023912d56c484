package main

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/cli"
	"swarm/containerd/image/peer"
	"swarm/internal/transport"
	"swarm/manager/ca"
	"swarm/node"
	"swarm/overlay/gossip"
	"swarm/overlay/probe"
	"swarm/overlay/witness"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/worker"
	"swarm/worker/engine"
	"swarm/worker/logs"
	"swarm/worker/simulated"
	"swarm/worker/storage"
)

// parts makes the parts of a member for package node.
type parts struct {
	host    *host
	options cli.DaemonOptions
	machine string
	log     *slog.Logger
	monitor *monitor
	store   atomic.Pointer[raftstore.Store] // of the manager that runs; nil: none does
}

// bootstrap creates the first rows of a new cluster.
func (p *parts) bootstrap(r node.BootstrapRequest) (node.Bootstrapped, error) {
	founding, err := ca.NewCluster(ca.Founder{
		ClusterID: r.ClusterID, NodeID: r.NodeID, Spec: r.Init.GetSpec(), Format: raftstore.Format, CSR: r.CSR,
		MachineID: r.MachineID, Hostname: r.Hostname, Addr: r.Membership.Addr, Port: uint32(r.Membership.Port),
		DataPathAddr: r.Membership.DataPathAddr, Availability: r.Init.GetAvailability(),
	}, time.Now())
	if err != nil {
		return node.Bootstrapped{}, err
	}
	out := node.Bootstrapped{
		Rows: founding.Changes, Certificate: founding.Certificate, Bundle: founding.Bundle,
		WorkerToken: founding.Cluster.GetRootCa().GetJoinTokens().GetWorker(),
	}
	for _, key := range founding.Cluster.GetGossipKeys() {
		out.GossipKeys = append(out.GossipKeys, key.GetKey())
	}
	return out, nil
}

// gossipMember fits package gossip to package node.
type gossipMember struct {
	*gossip.Gossip
	self    string
	witness *witness.Witness // of the deaths that gossip tells of
}

func (p *parts) newGossip(b node.Base) (node.Gossip, error) {
	advertise, err := netip.ParseAddr(b.Membership.Addr)
	if err != nil {
		return nil, err
	}
	bind := netip.IPv4Unspecified()
	if advertise.Is6() {
		bind = netip.IPv6Unspecified()
	}
	role := "worker"
	if b.Membership.Manager {
		role = "manager"
	}
	var seeds []string
	for _, m := range b.Membership.Managers {
		if m.NodeID != b.Membership.NodeID {
			seeds = append(seeds, net.JoinHostPort(m.Addr, strconv.Itoa(int(b.Membership.GossipPort))))
		}
	}
	g, err := gossip.New(gossip.Config{
		NodeID: b.Membership.NodeID, BindAddr: bind, AdvertiseAddr: advertise, Port: b.Membership.GossipPort,
		Keys: b.Membership.GossipKeys,
		Tags: map[string]string{gossip.TagRole: role, gossip.TagBuild: version},
	}, gossip.Deps{
		Log:      b.Log,
		Key:      func() *ecdsa.PrivateKey { return b.Identity.Credential().Key },
		Conflict: func(c gossip.Conflict) { b.Log.Error("two machines have one node id", "conflict", c.String()) },
	})
	if err != nil {
		return nil, err
	}
	g.SetSeeds(seeds)
	out := &gossipMember{Gossip: g, self: b.Membership.NodeID}
	out.witness = witness.New(witness.Deps{Log: b.Log, Suspects: out.suspects, Knock: out.knock})
	return out, nil
}

func (g *gossipMember) Run(ctx context.Context) error {
	defer g.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.Gossip.Run(ctx) })
	group.Go(func() error { return g.witness.Run(ctx) })
	return group.Wait()
}

func (g *gossipMember) Members() []*swarmv1.Member {
	members, _ := g.Gossip.Members()
	var out []*swarmv1.Member
	for _, m := range members {
		out = append(out, &swarmv1.Member{NodeId: m.ID, Addr: m.Addr.String(), Status: string(m.Status)})
	}
	return out
}

// Resolve finds a node's cluster port by what the managers tell of it. What it gossips of itself
// names no place: other nodes connect there.
func (g *gossipMember) Resolve(nodeID string) (node.Peer, bool) {
	p, ok := g.Peer(nodeID)
	return node.Peer{NodeID: nodeID, Addr: p.Addr.String(), Port: p.Port}, ok && p.Addr.IsValid() && p.Port != 0
}

// alive lists the other nodes that answer.
func (g *gossipMember) alive() []string {
	members, _ := g.Gossip.Members()
	var ids []string
	for _, m := range members {
		if m.Status == gossip.Alive && m.ID != g.self {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// workerMember fits package worker to package node.
type workerMember struct {
	*worker.Worker
	host    *host
	source  *peerSource
	blobs   net.Listener
	prober  *probe.Prober
	gossip  *gossipMember
	monitor *monitor
	overlay *overlay      // nil with a simulated runtime
	contact chan struct{} // closed at the first contact
}

func (p *parts) newWorker(b node.Base, g node.Gossip, hooks node.WorkerHooks) (node.Worker, error) {
	m := &workerMember{host: p.host, contact: make(chan struct{}), blobs: b.Listener.Blob(), gossip: g.(*gossipMember), monitor: p.monitor}
	m.source = &peerSource{
		transport: b.Dialer.BlobTransport(), alive: m.gossip.alive, managers: hooks.Managers, dial: b.Dialer, log: b.Log,
	}
	m.prober = newProber(p.options.Hostname, m.gossip, b, m.self)
	store, err := logs.New(logs.Config{
		Dir: filepath.Join(p.options.StateDir, "logs"), NodeID: b.Membership.NodeID,
		RetainAge: p.options.LogsAge, RetainBytes: p.options.LogsSize,
	}, logs.Deps{Log: b.Log})
	if err != nil {
		return nil, err
	}
	var (
		network  engine.Network = simulated.NewNetwork()
		topology                = func(changes []*swarmv1.AssignmentChange) {
			b.Members.Apply(changes)
			m.gossip.Apply(changes)
		}
		inForce func(context.Context) error
		held    func(context.Context, string) (*swarmv1.NodeNetwork, error)
	)
	describe := p.host.describe
	if p.host.bridge != nil {
		// The worker exists before anything can be published.
		if m.overlay, err = p.newOverlay(b, m.gossip, func() { m.Redescribe() }); err != nil {
			return nil, err
		}
		network, held = overlayNetwork{m.overlay.Plane}, m.overlay.held
		told := topology
		topology = func(changes []*swarmv1.AssignmentChange) {
			told(changes)
			m.overlay.directory.Apply(changes)
		}
		inForce = m.overlay.Programmed
		describe = func() *swarmv1.NodeDescription {
			d := p.host.describe()
			d.PortConflicts = m.overlay.portConflicts()
			return d
		}
	}
	contacted := false // OnContact is called by one goroutine.
	w, err := worker.New(worker.Config{
		NodeID: b.Membership.NodeID, ClusterID: b.Membership.ClusterID, Hostname: p.options.Hostname, MachineID: p.machine,
		Addr: b.Membership.Addr, DataPathAddr: b.Membership.DataPathAddr, Port: uint32(b.Membership.Port), StateDir: b.Dir, RunDir: p.options.RunDir,
		CgroupParent: p.options.CgroupParent,
		Clean:        storage.Config{Start: p.options.CleanStart, Stop: p.options.CleanStop, ImageAge: p.options.ImageAge},
	}, worker.Deps{
		Storage: p.host.storage(), Space: p.host.space(),
		Log: b.Log, Runtime: p.host.runtime, Images: p.host.images, Network: network, Executor: p.host.runtime,
		Logs: store, Describe: describe, OnNode: hooks.OnNode, OnKeys: hooks.OnKeys, OnTopology: topology, Programmed: inForce, Overlay: held,
		Managers: func() []*swarmv1.Peer { return peerMessages(hooks.Managers()) },
		Dial:     func(nodeID string) (grpc.ClientConnInterface, error) { return b.Dialer.DialGRPC(nodeID) },
		Renewed:  b.Identity.Changed,
		OnContact: func(_ string, up bool) {
			if up && !contacted {
				contacted = true
				close(m.contact)
			}
		},
	})
	m.Worker = w
	return m, err
}

func peerMessages(peers []node.Peer) []*swarmv1.Peer {
	var out []*swarmv1.Peer
	for _, p := range peers {
		out = append(out, &swarmv1.Peer{NodeId: p.NodeID, Addr: p.Addr, Port: uint32(p.Port)})
	}
	return out
}

// Run runs the tasks, and serves images to peers meanwhile.
func (m *workerMember) Run(ctx context.Context) error {
	defer m.monitor.Add(m.metrics(m.monitor.of))()
	m.host.peers.current.Store(m.source)
	defer m.host.peers.current.Store(nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer m.Close()
		return m.Worker.Run(ctx)
	})
	g.Go(func() error {
		m.host.watchBuilds(ctx, m.Redescribe)
		return nil
	})
	if m.overlay != nil {
		g.Go(func() error { return m.overlay.Run(ctx) })
	}
	if m.host.disk != nil {
		g.Go(func() error { return watchDisk(ctx, m.host.disk, m.Redescribe) })
	}
	if m.host.store != nil {
		server := &http.Server{
			Handler: m.host.store.Handler(), ConnContext: withCaller, ErrorLog: slog.NewLogLogger(m.host.log.Handler(), slog.LevelDebug),
			ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		}
		g.Go(func() error {
			stop := context.AfterFunc(ctx, func() { _ = server.Close() })
			defer stop()
			if err := server.Serve(m.blobs); ctx.Err() == nil {
				return err
			}
			return nil
		})
	}
	err := g.Wait()
	if m.overlay != nil {
		err = errors.Join(err, m.overlay.close())
	}
	return err
}

// withCaller tells the image store which node asks.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	info, _ := transport.PeerOf(c)
	return peer.WithCaller(ctx, info.NodeID())
}

func (m *workerMember) Register(r grpc.ServiceRegistrar) {
	swarmv1.RegisterWorkerServer(r, m.Worker)
	swarmv1.RegisterDiskServer(r, m.Disk())
	swarmv1.RegisterDoctorServer(r, m.prober)
}

// Connected blocks until a manager has welcomed this node.
func (m *workerMember) Connected(ctx context.Context) error {
	select {
	case <-m.contact:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
