package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/adapter/dataplane"
	"swarm/adapter/imagepeer"
	"swarm/adapter/monitor"
	"swarm/cli"
	"swarm/manager/ca"
	"swarm/node"
	"swarm/overlay/probe"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/worker"
	"swarm/worker/containerd/image"
	"swarm/worker/logs"
	"swarm/worker/simulated"
)

// parts makes the parts of a member for package node.
type parts struct {
	host    *host
	options cli.DaemonOptions
	machine string
	log     *slog.Logger
	monitor *monitor.Monitor
	store   atomic.Pointer[raftstore.Store] // of the manager that runs; nil: none does
}

// found makes the first rows of a new cluster.
func (p *parts) found(r node.FoundRequest) (node.Founded, error) {
	founding, err := ca.NewCluster(ca.Founder{
		ClusterID: r.ClusterID, NodeID: r.NodeID, Spec: r.Init.GetSpec(), Format: raftstore.Format, CSR: r.CSR,
		MachineID: r.MachineID, Hostname: r.Hostname, Addr: r.Membership.Addr, Port: uint32(r.Membership.Port),
		DataPathAddr: r.Membership.DataPathAddr, Availability: r.Init.GetAvailability(),
	}, time.Now())
	if err != nil {
		return node.Founded{}, err
	}
	out := node.Founded{
		Rows: founding.Changes, Certificate: founding.Certificate, Bundle: founding.Bundle,
		WorkerToken: founding.Cluster.GetRootCa().GetJoinTokens().GetWorker(),
	}
	for _, key := range founding.Cluster.GetGossipKeys() {
		out.GossipKeys = append(out.GossipKeys, key.GetKey())
	}
	return out, nil
}

func (p *parts) newGossip(b node.Base) (node.Gossip, error) { return dataplane.NewGossip(b, version) }

// workerMember fits package worker to package node.
type workerMember struct {
	*worker.Worker
	host    *host
	log     *slog.Logger
	peers   imagepeer.Cluster
	blobs   net.Listener
	prober  *probe.Prober
	gossip  *dataplane.Gossip
	monitor *monitor.Monitor
	plane   *dataplane.Plane // nil with a simulated runtime
	contact chan struct{}    // closed at the first contact
}

func (p *parts) newWorker(b node.Base, g node.Gossip, hooks node.WorkerHooks) (node.Worker, error) {
	m := &workerMember{host: p.host, log: p.log, contact: make(chan struct{}), blobs: b.Listener.Blob(), gossip: g.(*dataplane.Gossip), monitor: p.monitor}
	dial := func(nodeID string) (grpc.ClientConnInterface, error) { return b.Dialer.DialGRPC(nodeID) }
	m.peers = imagepeer.Cluster{
		Transport: b.Dialer.BlobTransport(), Alive: m.gossip.Alive, Managers: hooks.Managers, Dial: dial, Log: b.Log,
	}
	m.prober = dataplane.NewProber(p.options.Hostname, b, m.gossip, m.self)
	store, err := logs.New(logs.Config{
		Dir: filepath.Join(p.options.StateDir, "logs"), NodeID: b.Membership.NodeID,
		RetainAge: p.options.LogsAge, RetainBytes: p.options.LogsSize,
	}, logs.Deps{Log: b.Log})
	if err != nil {
		return nil, err
	}
	var (
		network  worker.Network = simulated.NewNetwork()
		topology                = func(changes []*swarmv1.AssignmentChange) {
			b.Members.Apply(changes)
			m.gossip.Apply(changes)
		}
		inForce func(context.Context) error
		held    func(context.Context, string) (*swarmv1.NodeNetwork, error)
	)
	describe := p.host.describe
	if p.host.bridge != nil {
		m.plane, err = dataplane.New(b, dataplane.Config{RunDir: p.options.RunDir, Resolver: p.host.resolver()}, dataplane.Deps{
			Bridge: p.host.bridge, Gossip: m.gossip, RoundDone: p.monitor.RoundDone,
			ConflictsChanged: func() { m.Redescribe() }, // m.Worker is set before anything is published
		})
		if err != nil {
			return nil, err
		}
		network, held, inForce = m.plane.Network(), m.plane.Inspect, m.plane.Programmed
		told := topology
		topology = func(changes []*swarmv1.AssignmentChange) {
			told(changes)
			m.plane.Apply(changes)
		}
		describe = func() *swarmv1.NodeDescription {
			d := p.host.describe()
			d.PortConflicts = m.plane.PortConflicts()
			return d
		}
	}
	contacted := false // OnContact is called by one goroutine.
	w, err := worker.New(worker.Config{
		NodeID: b.Membership.NodeID, ClusterID: b.Membership.ClusterID, Hostname: p.options.Hostname, MachineID: p.machine,
		Addr: b.Membership.Addr, DataPathAddr: b.Membership.DataPathAddr, Port: uint32(b.Membership.Port), StateDir: b.Dir, RunDir: p.options.RunDir,
		CgroupParent: p.options.CgroupParent,
		Clean:        worker.Clean{Start: p.options.CleanStart, Stop: p.options.CleanStop, ImageAge: p.options.ImageAge},
	}, worker.Deps{
		Storage: p.host.storage(), Space: p.host.space(),
		Log: b.Log, Runtime: p.host.runtime, Images: p.host.images, Network: network, Executor: p.host.runtime,
		Logs: store, Describe: describe, OnNode: hooks.OnNode, OnKeys: hooks.OnKeys, OnTopology: topology, InForce: inForce, Overlay: held,
		Managers: func() []*swarmv1.Peer { return peerMessages(hooks.Managers()) },
		Dial:     dial,
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

// Run runs the tasks, and serves images to the other nodes meanwhile.
func (m *workerMember) Run(ctx context.Context) error {
	defer m.monitor.AddWorker(m.measured())()
	defer m.host.peers.Join(m.peers)()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer m.Close()
		return m.Worker.Run(ctx)
	})
	g.Go(func() error {
		node.WatchBuilds(ctx, m.host.builds, m.Redescribe)
		return nil
	})
	if m.plane != nil {
		g.Go(func() error { return m.plane.Run(ctx) })
	}
	if m.host.disk != nil {
		g.Go(func() error {
			m.host.disk.Follow(ctx, m.Redescribe)
			return nil
		})
	}
	if m.host.store != nil {
		g.Go(func() error {
			return imagepeer.Serve(ctx, m.blobs, m.host.store.Handler(), image.WithCaller, m.log)
		})
	}
	err := g.Wait()
	if m.plane != nil {
		err = errors.Join(err, m.plane.Close())
	}
	return err
}

// measured returns the parts of this member that have metrics.
func (m *workerMember) measured() monitor.Node {
	n := monitor.Node{Worker: m, Gossip: m.gossip, Images: func(ctx context.Context) (int, error) {
		images, err := m.host.images.List(ctx)
		return len(images), err
	}}
	if m.plane != nil {
		n.Plane = m.plane
	}
	return n
}

// self returns what this node has of networks, for the doctor. With a simulated runtime it is
// nothing.
func (m *workerMember) self(ctx context.Context) (*swarmv1.SurveyedSelf, error) {
	if m.plane == nil {
		return &swarmv1.SurveyedSelf{}, nil
	}
	return m.plane.Self(ctx)
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
