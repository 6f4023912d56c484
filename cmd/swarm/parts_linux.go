package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync/atomic"

	"google.golang.org/grpc"

	"swarm/adapter/dataplane"
	"swarm/adapter/imagepeer"
	"swarm/adapter/member"
	"swarm/adapter/monitor"
	"swarm/cli/daemon"
	"swarm/containerd/image/peer"
	"swarm/node"
	"swarm/overlay/probe"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/worker"
	"swarm/worker/engine"
	"swarm/worker/logs"
	"swarm/worker/simulated"
	"swarm/worker/storage"
)

// parts builds the parts of a member for package node.
type parts struct {
	host    *host
	options daemon.Options
	machine string
	log     *slog.Logger
	monitor *monitor.Monitor
	store   atomic.Pointer[raftstore.Store] // nil while no manager runs
}

func (p *parts) newGossip(b node.Base) (node.Gossip, error) { return dataplane.NewGossip(b, version) }

// newWorker builds a member's worker. With a simulated runtime it has no data plane.
func (p *parts) newWorker(b node.Base, g node.Gossip, hooks node.WorkerHooks) (node.Worker, error) {
	dial := func(nodeID string) (grpc.ClientConnInterface, error) { return b.Dialer.DialGRPC(nodeID) }
	gossip := g.(*dataplane.Gossip)
	blobs := b.Listener.Blob()
	deps := member.WorkerDeps{
		Gossip: gossip, Monitor: p.monitor, Images: p.host.images, Runtime: p.host.runtime, Builds: p.host.builds, Disk: p.host.disk, Peers: p.host.peers,
		Cluster: imagepeer.Cluster{
			Transport: b.Dialer.BlobTransport(), Alive: gossip.Alive, Managers: hooks.Managers, Dial: dial, Log: b.Log,
		},
		Prober: func(self func(context.Context) (*swarmv1.SurveyedSelf, error)) *probe.Prober {
			return dataplane.NewProber(p.options.Hostname, b, gossip, self)
		},
	}
	if p.host.store != nil {
		deps.ServeImages = func(ctx context.Context) error {
			return imagepeer.Serve(ctx, blobs, p.host.store.Handler(), peer.WithCaller, p.log)
		}
	}
	m := member.NewWorker(deps)
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
			gossip.Apply(changes)
		}
		programmed func(context.Context) error
		inspect    func(context.Context, string) (*swarmv1.NodeNetwork, error)
	)
	describe := p.host.describe
	if p.host.bridge != nil {
		m.Plane, err = dataplane.New(b, dataplane.Config{RunDir: p.options.RunDir, Resolver: p.host.resolver()}, dataplane.Deps{
			Bridge: p.host.bridge, Gossip: gossip, RoundDone: p.monitor.RoundDone,
			ConflictsChanged: func() { m.Redescribe() }, // m.Worker is set before anything is published
		})
		if err != nil {
			return nil, err
		}
		network, inspect, programmed = m.Plane.Network(), m.Plane.Inspect, m.Plane.Programmed
		withoutPlane := topology
		topology = func(changes []*swarmv1.AssignmentChange) {
			withoutPlane(changes)
			m.Plane.Apply(changes)
		}
		describe = func() *swarmv1.NodeDescription {
			d := p.host.describe()
			d.PortConflicts = m.Plane.PortConflicts()
			return d
		}
	}
	m.Worker, err = worker.New(worker.Config{
		NodeID: b.Membership.NodeID, ClusterID: b.Membership.ClusterID, Hostname: p.options.Hostname, MachineID: p.machine,
		Addr: b.Membership.Addr, DataPathAddr: b.Membership.DataPathAddr, Port: uint32(b.Membership.Port), StateDir: b.Dir, RunDir: p.options.RunDir,
		CgroupParent: p.options.CgroupParent,
		Clean:        storage.Config{Start: p.options.CleanStart, Stop: p.options.CleanStop, ImageAge: p.options.ImageAge},
	}, worker.Deps{
		Storage: p.host.storage(), Space: p.host.space(),
		Log: b.Log, Runtime: p.host.runtime, Images: p.host.images, Network: network, Executor: p.host.runtime,
		Logs: store, Describe: describe, OnNode: hooks.OnNode, OnKeys: hooks.OnKeys, OnTopology: topology, Programmed: programmed, InspectNetwork: inspect,
		Managers:  func() []*swarmv1.Peer { return member.PeerMessages(hooks.Managers()) },
		Dial:      dial,
		Renewed:   b.Identity.Changed,
		OnContact: m.OnContact,
	})
	return m, err
}
