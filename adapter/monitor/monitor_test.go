//go:build linux

package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"swarm/internal/metrics"
	"swarm/internal/metrics/metricstest"
	"swarm/overlay/fabric"
	"swarm/overlay/mesh"
	"swarm/overlay/plane"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
	"swarm/worker/tasks"
)

func TestMetricsKeepToConventions(t *testing.T) {
	problems, err := metricstest.Lint(newFamilies().all)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

// docs/metrics.md has one item for each metric, with its type, unit, labels and help text. The
// items are wrapped.
func TestMetricsAreDocumented(t *testing.T) {
	data, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	page := strings.Join(strings.Fields(string(data)), " ")
	kinds := map[metrics.Kind]string{metrics.Gauge: "gauge", metrics.Counter: "counter", metrics.Histogram: "histogram"}
	items := 0
	for _, f := range newFamilies().all {
		about := kinds[f.Kind]
		if u := unit(f.Name); u != "" {
			about += ", " + u
		}
		if len(f.Labels) > 0 {
			about += "; labels " + strings.Join(f.Labels, ", ")
		}
		item := fmt.Sprintf("- `%s` (%s): %s", f.Name, about, f.Help)
		if !strings.Contains(page, item) {
			t.Errorf("docs/metrics.md has no item\n%s", item)
		}
		items++
	}
	if has := strings.Count(page, "- `swarm_"); has != items+alerts {
		t.Errorf("docs/metrics.md has %d items, and there are %d metrics and %d alerts", has, items, alerts)
	}
}

// alerts is the number of alerts in docs/metrics.md that begin with the name of a metric.
const alerts = 3

// unit returns the unit that a metric's name contains.
func unit(name string) string {
	for _, u := range []string{"bytes", "seconds", "packets"} {
		if strings.Contains(name, "_"+u) {
			return u
		}
	}
	return ""
}

// member is a node with one of everything that is measured.
type member struct{}

func (member) Seen() (uint64, bool)         { return 7, true }
func (member) StatusCounts() map[string]int { return map[string]int{"alive": 3} }
func (member) Health() int                  { return 1 }
func (member) Sessions() int                { return 2 }
func (member) WrongTokens() uint64          { return 4 }
func (member) NetworkName(id string) string { return "name of " + id }

func (member) Summaries() []tasks.Summary {
	return []tasks.Summary{{TaskID: "t1", Service: "web", State: swarmv1.TaskState_RUNNING}}
}

func (member) Conflicts() []mesh.Conflict {
	return []mesh.Conflict{{Err: errors.New("taken")}, {Err: errors.New("elsewhere"), AddressMissing: true}}
}

func (member) Traffic(context.Context) []plane.Traffic {
	return []plane.Traffic{{TaskID: "t1", Open: 5, Networks: []plane.NetworkTraffic{{Network: "app", Received: plane.Count{Bytes: 11}, Known: true}}}}
}

func (member) Networks(context.Context) ([]fabric.Info, error) {
	return []fabric.Info{{Network: fabric.Network{ID: "n1"}, Sent: fabric.Traffic{Packets: 13}}}, nil
}

func (member) NameServer(context.Context) (*swarmv1.ResolverStats, error) {
	return &swarmv1.ResolverStats{Queries: 17, Asked: []*swarmv1.ResolverAsked{{
		ContainerId: "t1", Elsewhere: 19, Networks: []*swarmv1.ResolverAskedNetwork{{NetworkId: "n1", Queries: 23}},
	}}}, nil
}

// scrape returns the metrics of m as Prometheus reads them.
func scrape(t *testing.T, m *Monitor) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Serve(ctx, ln) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	answer, err := http.Get("http://" + ln.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every metric of the list is shown by some source, with its labels. This also finds a family that
// no source emits, and a source that emits a family with the wrong number of labels.
func TestEveryMetricIsShown(t *testing.T) {
	store := raftstoretest.New(t)
	if _, err := store.Commit(t.Context(), "test",
		table.Create(&swarmv1.Node{Id: "n1", Spec: &swarmv1.NodeSpec{}}),
		table.Create(&swarmv1.NodeState{NodeId: "n1", State: swarmv1.NodeState_READY}),
		table.Create(&swarmv1.Task{Id: "t1"}),
	); err != nil {
		t.Fatal(err)
	}
	m := New(slog.New(slog.NewTextHandler(t.Output(), nil)), "v1", "b1")
	m.CommitTook(time.Millisecond)
	m.RoundDone(plane.Round{Took: time.Millisecond, Networks: map[string]error{"app": nil, "broken": errors.New("no device")}})
	images := func(context.Context) (int, error) { return 29, nil }
	removeWorker := m.AddWorker(Node{Worker: member{}, Gossip: member{}, Plane: member{}, Images: images})
	removeManager := m.AddManager(member{}, store)
	text := scrape(t, m)
	for _, f := range newFamilies().all {
		if !strings.Contains(text, "\n"+f.Name) && !strings.HasPrefix(text, f.Name) {
			t.Errorf("no source shows %s", f.Name)
		}
	}
	for _, want := range []string{
		`swarm_build_info{build="b1",version="v1"} 1`,
		`swarm_node_tasks{state="running"} 1`,
		`swarm_published_port_conflicts 1`,
		`swarm_task_network_receive_bytes_total{network="app",service="web",task="t1"} 11`,
		`swarm_network_transmit_packets_total{network="name of n1"} 13`,
		`swarm_task_dns_queries_total{network="name of n1",service="web",task="t1"} 23`,
		`swarm_task_dns_queries_total{network="",service="web",task="t1"} 19`,
		`swarm_network_program_failures_total{network="broken"} 1`,
		`swarm_network_program_failures_total{network="app"} 0`,
		`swarm_cluster_nodes{state="ready"} 1`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("%s is not shown", want)
		}
	}
	removeWorker()
	removeManager()
	m.RoundDone(plane.Round{Gone: []string{"app", "broken"}})
	text = scrape(t, m)
	for _, gone := range []string{"swarm_node_tasks", "swarm_raft_leader", `{network="app"`} {
		if strings.Contains(text, gone) {
			t.Errorf("%s is shown after the member has gone", gone)
		}
	}
}

// A port that is taken ends a daemon only if the user has asked for it.
func TestListen(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	ln, err := Listen(t.Context(), "127.0.0.1:0", false, log)
	if err != nil || ln == nil {
		t.Fatalf("a free port: got %v, %v", ln, err)
	}
	defer ln.Close()
	for name, tc := range map[string]struct {
		address string
		asked   bool
		fails   bool
	}{"none": {"", true, false}, "taken": {ln.Addr().String(), false, false}, "taken, asked for": {ln.Addr().String(), true, true}} {
		got, err := Listen(t.Context(), tc.address, tc.asked, log)
		if got != nil || (err != nil) != tc.fails {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}
