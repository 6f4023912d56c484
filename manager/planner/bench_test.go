package planner

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"swarm/manager/planner/cluster"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

const (
	benchNodes    = 1_000
	benchServices = 100
)

// benchCluster has nodes of 64 CPUs and 256 GiB in four zones, so that 100k tasks of half a CPU and
// 1 GiB fit.
func benchCluster(b testing.TB, tasks int) *model {
	m := newModel(b)
	for i := range benchNodes {
		m.addNode(fmt.Sprintf("node%020d", i), func(n *swarmv1.Node, s *swarmv1.NodeState) {
			n.Spec.Labels["zone"] = fmt.Sprint(i % 4)
			s.Description.Resources = &swarmv1.Resources{NanoCpus: 64e9, MemoryBytes: 256 << 30}
		})
	}
	m.addNetwork("wide", "10.0.0.0/14")
	for i := range benchServices {
		m.addService(fmt.Sprintf("service%018d", i), replicas(uint64(tasks/benchServices)), reserve(5e8, 1<<30))
	}
	return m
}

// benchPlace measures from the rows of services to changes with tasks and statuses, ready to
// commit.
func benchPlace(b *testing.B, tasks int, edit ...func(*swarmv1.ServiceSpec)) {
	m := benchCluster(b, tasks)
	if len(edit) > 0 {
		for i := range benchServices {
			m.edit(fmt.Sprintf("service%018d", i), edit...)
		}
	}
	due := m.state.Due(m.now)
	b.ReportAllocs()
	for b.Loop() {
		res := m.planner.Plan(due, m.now)
		if got := countPlaced(res); got != tasks {
			b.Fatalf("placed %d of %d", got, tasks)
		}
	}
	b.ReportMetric(float64(tasks)*float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}

func countPlaced(res Result) int {
	n := 0
	for _, g := range res.Groups {
		for _, c := range g.Changes {
			if c.GetPut().GetTaskStatus().GetState() == swarmv1.TaskState_ASSIGNED {
				n++
			}
		}
	}
	return n
}

func BenchmarkPlacement(b *testing.B) {
	b.Run("10k_1k", func(b *testing.B) { benchPlace(b, 10_000) })
	b.Run("100k_1k", func(b *testing.B) { benchPlace(b, 100_000) })
	b.Run("100k_1k_network", func(b *testing.B) { benchPlace(b, 100_000, on("wide")) })
	b.Run("one_full_100k_1k", benchOne)
	b.Run("100k_1k_spread", func(b *testing.B) {
		benchPlace(b, 100_000, constraint("node.role==worker", "node.labels.zone!=9"), func(s *swarmv1.ServiceSpec) {
			placementOf(s).Preferences = []*swarmv1.PlacementPreference{{Preference: &swarmv1.PlacementPreference_Spread{Spread: &swarmv1.SpreadOver{SpreadDescriptor: "node.labels.zone"}}}}
		})
	})
}

// benchOne scales one of 100 services by one on a cluster that runs 100k tasks, and plans only
// that.
func benchOne(b *testing.B) {
	m := benchCluster(b, 100_000)
	for _, g := range m.planner.Plan(m.state.Due(m.now), m.now).Groups {
		if err := m.commit(g); err != nil {
			b.Fatal(err)
		}
	}
	for k, row := range m.rows {
		if k[0] == '6' {
			m.report(row.(*swarmv1.TaskStatus).TaskId, swarmv1.TaskState_RUNNING)
		}
	}
	if res := m.planner.Plan(m.state.Due(m.now), m.now); len(res.Groups) != 0 {
		b.Fatal("the cluster is not at rest")
	}
	m.edit("service000000000000000007", replicas(100_000/benchServices+1))
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		m.state.Retry("service000000000000000007")
		if got := countPlaced(m.planner.Plan(m.state.Due(m.now), m.now)); got != 1 {
			b.Fatalf("placed %d, want 1", got)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}

// BenchmarkNewState measures how fast a State of 100k tasks is made from rows. A new leader does
// this first.
func BenchmarkNewState(b *testing.B) {
	m := benchCluster(b, 100_000)
	for _, g := range m.planner.Plan(m.state.Due(m.now), m.now).Groups {
		if err := m.commit(g); err != nil {
			b.Fatal(err)
		}
	}
	changes := make([]table.RowChange, 0, len(m.rows))
	for _, k := range slices.Sorted(maps.Keys(m.rows)) {
		changes = append(changes, table.RowChange{New: m.rows[k]})
	}
	for b.Loop() {
		cluster.New(raftstoretest.View()).Apply(changes)
	}
	b.ReportMetric(100_000*float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}
