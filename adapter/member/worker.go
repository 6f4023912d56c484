//go:build linux

// Package member gives package node a running worker and a running manager. It implements
// node.Worker and node.Manager with packages worker, manager and raftstore.
//
// The package decides what runs beside the worker and the manager, and in which order these parts
// end: it closes a store after the manager that uses the store, and a data plane after the worker.
// Its only caller is cmd/swarm, which constructs all parts. Goroutines: those in Worker.Run and
// Manager.Run, which wait for them.
package member

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"swarm/adapter/dataplane"
	"swarm/adapter/imagepeer"
	"swarm/adapter/monitor"
	"swarm/internal/disk"
	"swarm/node"
	"swarm/overlay/probe"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker"
	"swarm/worker/engine"
	"swarm/worker/usage"
)

// WorkerDeps are the live objects that run beside a worker.
type WorkerDeps struct {
	Gossip  *dataplane.Gossip
	Monitor *monitor.Monitor
	// Prober returns the Doctor service. self describes the networks on this node.
	Prober func(self func(context.Context) (*swarmv1.SurveyedSelf, error)) *probe.Prober
	Images engine.ImageStore
	// Runtime is a usage.Containers, or else its containers are simulated.
	Runtime engine.Runtime
	// Peers takes the nodes of Cluster as sources of images while the worker runs.
	Peers   *imagepeer.Peers
	Cluster imagepeer.Cluster
	// ServeImages serves images to the other nodes until ctx ends. It is nil with a simulated
	// runtime.
	ServeImages func(ctx context.Context) error
	// Builds returns the builds that run on this node.
	Builds func() []*swarmv1.RunningBuild
	// Disk is nil with a simulated runtime.
	Disk *disk.Watch
}

// Worker implements node.Worker. The caller sets the embedded worker, and Plane unless the runtime
// is simulated, before any other call.
type Worker struct {
	*worker.Worker
	Plane *dataplane.Plane

	deps      WorkerDeps
	prober    *probe.Prober
	once      sync.Once
	connected chan struct{} // closed at the first contact with a manager
}

// NewWorker returns a Worker whose embedded worker is nil. The caller makes the embedded worker
// with OnContact of the result as a dependency, and then sets it.
func NewWorker(deps WorkerDeps) *Worker {
	m := &Worker{deps: deps, connected: make(chan struct{})}
	m.prober = deps.Prober(m.self)
	return m
}

// OnContact implements worker.Deps.OnContact.
func (m *Worker) OnContact(_ string, up bool) {
	if up {
		m.once.Do(func() { close(m.connected) })
	}
}

// Connected implements node.Worker.
func (m *Worker) Connected(ctx context.Context) error {
	select {
	case <-m.connected:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Register implements node.Worker.
func (m *Worker) Register(r grpc.ServiceRegistrar) {
	swarmv1.RegisterWorkerServer(r, m.Worker)
	swarmv1.RegisterDiskServer(r, m.Disk())
	swarmv1.RegisterNodeVolumesServer(r, m.Volumes())
	swarmv1.RegisterNodeStatsServer(r, usage.New(m.usage()))
	swarmv1.RegisterDoctorServer(r, m.prober)
}

// Run implements node.Worker. It runs the tasks and the data plane, serves images to the other
// nodes, and reports changes of this node to the managers.
func (m *Worker) Run(ctx context.Context) error {
	defer m.deps.Monitor.AddWorker(m.measured())()
	defer m.deps.Peers.Join(m.deps.Cluster)()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer m.Close()
		return m.Worker.Run(ctx)
	})
	g.Go(func() error {
		node.WatchBuilds(ctx, m.deps.Builds, m.Redescribe)
		return nil
	})
	if m.Plane != nil {
		g.Go(func() error { return m.Plane.Run(ctx) })
	}
	if m.deps.Disk != nil {
		g.Go(func() error {
			m.deps.Disk.Follow(ctx, m.Redescribe)
			return nil
		})
	}
	if m.deps.ServeImages != nil {
		g.Go(func() error { return m.deps.ServeImages(ctx) })
	}
	err := g.Wait()
	if m.Plane != nil {
		err = errors.Join(err, m.Plane.Close())
	}
	return err
}

// measured returns the parts of this member that have metrics.
func (m *Worker) measured() monitor.Node {
	n := monitor.Node{Worker: m, Gossip: m.deps.Gossip, Images: func(ctx context.Context) (int, error) {
		images, err := m.deps.Images.List(ctx)
		return len(images), err
	}}
	if m.Plane != nil {
		n.Plane = m.Plane
	}
	return n
}

// usage returns what the service NodeStats needs.
func (m *Worker) usage() usage.Deps {
	containers, _ := m.deps.Runtime.(usage.Containers) // Simulated containers use nothing.
	deps := usage.Deps{Containers: containers}
	if m.Plane != nil {
		deps.Traffic = m.Plane.BytesOfTasks
	}
	return deps
}

// self describes the networks on this node for `swarm doctor`. With a simulated runtime it
// describes none.
func (m *Worker) self(ctx context.Context) (*swarmv1.SurveyedSelf, error) {
	if m.Plane == nil {
		return &swarmv1.SurveyedSelf{}, nil
	}
	return m.Plane.Self(ctx)
}

// PeerMessages translates nodes for the worker.
func PeerMessages(peers []node.Peer) []*swarmv1.Peer {
	var out []*swarmv1.Peer
	for _, p := range peers {
		out = append(out, &swarmv1.Peer{NodeId: p.NodeID, Addr: p.Addr, Port: uint32(p.Port)})
	}
	return out
}
