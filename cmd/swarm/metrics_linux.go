package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"swarm/cli"
	"swarm/internal/metrics"
	"swarm/overlay/fabric"
	"swarm/overlay/mesh"
	"swarm/overlay/plane"
	swarmv1 "swarm/proto/swarm/v1"
)

// monitor is what this daemon shows to Prometheus.
type monitor struct {
	*metrics.Registry
	of         *families
	programmed *metrics.Duration
	failures   *metrics.Count
	commits    *metrics.Duration
}

func newMonitor(log *slog.Logger) *monitor {
	m := &monitor{Registry: metrics.New(log), of: newFamilies()}
	m.programmed = m.NewDuration(m.of.programTime,
		time.Millisecond, 3*time.Millisecond, 10*time.Millisecond, 30*time.Millisecond, 100*time.Millisecond, 300*time.Millisecond, time.Second, 3*time.Second)
	m.failures = m.NewCount(m.of.programFailures)
	m.commits = m.NewDuration(m.of.commitTime,
		time.Millisecond, 2*time.Millisecond, 5*time.Millisecond, 10*time.Millisecond, 20*time.Millisecond, 50*time.Millisecond,
		100*time.Millisecond, 200*time.Millisecond, 500*time.Millisecond, time.Second, 5*time.Second)
	m.Add(func(_ context.Context, emit metrics.Emit) error {
		emit(m.of.build, 1, version, versionInfo().Build)
		return nil
	})
	return m
}

// listenMetrics opens the port. One that is taken ends a daemon only when the user has named it.
func listenMetrics(ctx context.Context, o cli.DaemonOptions, log *slog.Logger) (net.Listener, error) {
	if o.MetricsAddr == "" {
		return nil, nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", o.MetricsAddr)
	switch {
	case err == nil:
		return ln, nil
	case o.MetricsAsked:
		return nil, fmt.Errorf("metrics: %w: stop what uses it, or give another with --metrics-addr", err)
	}
	log.Warn("metrics are not shown: give the daemon another --metrics-addr, or --metrics-addr off", "err", err)
	return nil, nil
}

// sinceProgrammed takes in how programming the overlay went.
func (m *monitor) sinceProgrammed(r plane.Round) {
	for _, network := range r.Gone {
		m.programmed.Forget(network)
		m.failures.Forget(network)
	}
	for network, err := range r.Networks {
		m.programmed.Observe(r.Took, network)
		failed := 0
		if err != nil {
			failed = 1
		}
		m.failures.Add(failed, network)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// metrics shows a node's worker, gossip and networks.
func (m *workerMember) metrics(f *families) metrics.Source {
	return func(ctx context.Context, emit metrics.Emit) error {
		index, connected := m.Seen()
		emit(f.index, float64(index))
		emit(f.connected, truth(connected))
		service, states := map[string]string{}, map[swarmv1.TaskState]int{}
		for _, t := range m.Summaries() {
			service[t.TaskID] = t.Service
			states[t.State]++
		}
		for state, n := range states {
			emit(f.hostTasks, float64(n), strings.ToLower(state.String()))
		}
		m.gossip.show(f, emit)
		if m.overlay != nil {
			if err := m.overlay.show(ctx, f, service, emit); err != nil {
				return err
			}
		}
		images, err := m.host.images.List(ctx)
		if err != nil {
			return fmt.Errorf("images: %w", err)
		}
		emit(f.images, float64(len(images)))
		return nil
	}
}

func (g *gossipMember) show(f *families, emit metrics.Emit) {
	members, _ := g.Gossip.Members()
	count := map[string]int{}
	for _, m := range members {
		count[string(m.Status)]++
	}
	for status, n := range count {
		emit(f.members, float64(n), status)
	}
	emit(f.health, float64(g.Health()))
}

// show tells what the overlay counts. service names that of each task.
func (o *overlay) show(ctx context.Context, f *families, service map[string]string, emit metrics.Emit) error {
	conflicts := slices.DeleteFunc(o.Conflicts(), func(c mesh.Conflict) bool { return c.AddressMissing })
	emit(f.conflicts, float64(len(conflicts)))
	for _, t := range o.Traffic(ctx) {
		s := service[t.TaskID]
		emit(f.accepted, float64(t.Accepted), s, t.TaskID)
		emit(f.made, float64(t.Made), s, t.TaskID)
		emit(f.open, float64(t.Open), s, t.TaskID)
		for _, l := range t.Networks {
			f.taskIn.show(emit, l.Received, l.Network, s, t.TaskID)
			f.taskOut.show(emit, l.Sent, l.Network, s, t.TaskID)
			if l.Known {
				emit(f.begunIn, float64(l.Connections.Accepted), l.Network, s, t.TaskID)
				emit(f.begunOut, float64(l.Connections.Made), l.Network, s, t.TaskID)
			}
		}
	}
	networks, err := o.networks(ctx)
	if err != nil {
		return err
	}
	for _, n := range networks {
		name := o.called(n.ID)
		emit(f.networkTasks, float64(len(n.Local)), name)
		emit(f.networkPeers, float64(len(n.Peers)), name)
		f.networkIn.show(emit, counted(n.Received), name)
		f.networkOut.show(emit, counted(n.Sent), name)
	}
	stats, err := o.dns.Stats(ctx, &swarmv1.ResolverStatsRequest{})
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
			emit(f.taskDNS, float64(n.GetQueries()), o.called(n.GetNetworkId()), s, task)
		}
		emit(f.taskDNS, float64(a.GetElsewhere()), "", s, task)
	}
	return nil
}

// called is a network's name; its id while the managers have not told of it.
func (o *overlay) called(id string) string {
	n, _ := o.directory.Network(id)
	return cmp.Or(n.GetSpec().GetName(), id)
}

func counted(t fabric.Traffic) plane.Count {
	return plane.Count{Bytes: t.Bytes, Packets: t.Packets, Dropped: t.Dropped}
}

func (f trafficFamilies) show(emit metrics.Emit, c plane.Count, labels ...string) {
	emit(f.bytes, float64(c.Bytes), labels...)
	emit(f.packets, float64(c.Packets), labels...)
	emit(f.dropped, float64(c.Dropped), labels...)
}

// metrics shows a manager's Raft and sessions, and on the leader the cluster.
func (m *managerMember) metrics(f *families) metrics.Source {
	return func(_ context.Context, emit metrics.Emit) error {
		s := m.store.Status()
		emit(f.leads, truth(s.Leads))
		emit(f.hasLeader, truth(s.HasLeader))
		emit(f.term, float64(s.Term))
		emit(f.last, float64(s.Last))
		emit(f.committed, float64(s.Committed))
		emit(f.applied, float64(s.Applied))
		emit(f.voters, float64(s.Voters))
		emit(f.sessions, float64(m.Sessions()))
		emit(f.badTokens, float64(m.WrongTokens()))
		if !s.Leads {
			return nil
		}
		v := m.store.View()
		nodes, tasks := map[swarmv1.NodeState_State]int{}, map[swarmv1.TaskState]int{}
		for n := range v.Nodes.All() {
			state, _ := v.NodeStates.Get(n.GetId())
			nodes[state.GetState()]++
		}
		for t := range v.Tasks.All() {
			tasks[v.Status(t.GetId()).GetState()]++
		}
		for state, n := range nodes {
			emit(f.nodes, float64(n), strings.ToLower(state.String()))
		}
		for state, n := range tasks {
			emit(f.tasks, float64(n), strings.ToLower(state.String()))
		}
		emit(f.services, float64(v.Services.Len()))
		return nil
	}
}
