//go:build linux

package monitor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"swarm/internal/metrics"
	"swarm/overlay/fabric"
	"swarm/overlay/mesh"
	"swarm/overlay/plane"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/tasks"
)

// Worker is the part of worker.Worker from which metrics are read.
type Worker interface {
	// Seen returns the index of the newest state that the worker has applied, and whether it has a
	// session with a manager.
	Seen() (index uint64, connected bool)
	// Summaries lists the tasks of this node.
	Summaries() []tasks.Summary
}

// Gossip is the part of dataplane.Gossip from which metrics are read.
type Gossip interface {
	// StatusCounts returns the number of members by gossip status.
	StatusCounts() map[string]int
	// Health is memberlist's health score of this node; 0 is healthy.
	Health() int
}

// Plane is the part of dataplane.Plane from which metrics are read.
type Plane interface {
	Conflicts() []mesh.Conflict
	Traffic(ctx context.Context) []plane.Traffic
	Networks(ctx context.Context) ([]fabric.Info, error)
	NetworkName(id string) string
	NameServer(ctx context.Context) (*swarmv1.ResolverStats, error)
}

// Node has the parts of a member from which AddWorker reads metrics.
type Node struct {
	Worker Worker
	Gossip Gossip
	// Plane is nil with simulated containers.
	Plane Plane
	// Images returns the number of images on this node.
	Images func(ctx context.Context) (int, error)
}

// AddWorker adds the metrics of a member's worker, gossip and networks, until the caller calls
// remove.
func (m *Monitor) AddWorker(n Node) (remove func()) {
	f := m.families
	return m.Add(func(ctx context.Context, emit metrics.Emit) error {
		index, connected := n.Worker.Seen()
		emit(f.index, float64(index))
		emit(f.connected, boolean(connected))
		service, states := map[string]string{}, map[swarmv1.TaskState]int{}
		for _, t := range n.Worker.Summaries() {
			service[t.TaskID] = t.Service
			states[t.State]++
		}
		for state, count := range states {
			emit(f.hostTasks, float64(count), strings.ToLower(state.String()))
		}
		for status, count := range n.Gossip.StatusCounts() {
			emit(f.members, float64(count), status)
		}
		emit(f.health, float64(n.Gossip.Health()))
		if n.Plane != nil {
			if err := f.plane(ctx, n.Plane, service, emit); err != nil {
				return err
			}
		}
		images, err := n.Images(ctx)
		if err != nil {
			return fmt.Errorf("images: %w", err)
		}
		emit(f.images, float64(images))
		return nil
	})
}

// plane emits the counters of the data plane. service maps the ID of each task to the name of its
// service.
func (f *families) plane(ctx context.Context, p Plane, service map[string]string, emit metrics.Emit) error {
	conflicts := slices.DeleteFunc(p.Conflicts(), func(c mesh.Conflict) bool { return c.AddressMissing })
	emit(f.conflicts, float64(len(conflicts)))
	for _, t := range p.Traffic(ctx) {
		f.task(t, service[t.TaskID], emit)
	}
	networks, err := p.Networks(ctx)
	if err != nil {
		return err
	}
	for _, n := range networks {
		name := p.NetworkName(n.ID)
		emit(f.networkTasks, float64(len(n.Local)), name)
		emit(f.networkPeers, float64(len(n.Peers)), name)
		f.networkIn.emit(emit, planeCount(n.Received), name)
		f.networkOut.emit(emit, planeCount(n.Sent), name)
	}
	return f.nameServer(ctx, p, service, emit)
}

// task emits the counters of one task.
func (f *families) task(t plane.Traffic, service string, emit metrics.Emit) {
	emit(f.accepted, float64(t.Accepted), service, t.TaskID)
	emit(f.made, float64(t.Made), service, t.TaskID)
	emit(f.open, float64(t.Open), service, t.TaskID)
	for _, l := range t.Networks {
		f.taskIn.emit(emit, l.Received, l.Network, service, t.TaskID)
		f.taskOut.emit(emit, l.Sent, l.Network, service, t.TaskID)
		if l.Known {
			emit(f.begunIn, float64(l.Connections.Accepted), l.Network, service, t.TaskID)
			emit(f.begunOut, float64(l.Connections.Made), l.Network, service, t.TaskID)
		}
	}
}

// nameServer emits the counters of the name server.
func (f *families) nameServer(ctx context.Context, p Plane, service map[string]string, emit metrics.Emit) error {
	stats, err := p.NameServer(ctx)
	if err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	emit(f.dnsQueries, float64(stats.GetQueries()))
	emit(f.dnsAnswers, float64(stats.GetLocal()), "cluster")
	emit(f.dnsAnswers, float64(stats.GetCached()), "cache")
	emit(f.dnsAnswers, float64(stats.GetForwarded()), "upstream")
	emit(f.dnsFailures, float64(stats.GetFailed()))
	emit(f.dnsContainers, float64(stats.GetContainers()))
	for _, a := range stats.GetAsked() {
		s, task := service[a.GetContainerId()], a.GetContainerId()
		for _, n := range a.GetNetworks() {
			emit(f.taskDNS, float64(n.GetQueries()), p.NetworkName(n.GetNetworkId()), s, task)
		}
		emit(f.taskDNS, float64(a.GetElsewhere()), "", s, task)
	}
	return nil
}

func planeCount(t fabric.Traffic) plane.Count {
	return plane.Count{Bytes: t.Bytes, Packets: t.Packets, Dropped: t.Dropped}
}

func (f trafficFamilies) emit(emit metrics.Emit, c plane.Count, labels ...string) {
	emit(f.bytes, float64(c.Bytes), labels...)
	emit(f.packets, float64(c.Packets), labels...)
	emit(f.dropped, float64(c.Dropped), labels...)
}
