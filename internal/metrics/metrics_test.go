package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

var (
	tasks  = &Family{Name: "swarm_node_tasks", Help: "Tasks.", Labels: []string{"state"}}
	served = &Family{Name: "swarm_dns_queries_total", Help: "Questions.", Kind: Counter}
	took   = &Family{Name: "swarm_commit_duration_seconds", Help: "How long a commit took.", Kind: Histogram}
	wrote  = &Family{Name: "swarm_write_duration_seconds", Help: "How long a write took.", Kind: Histogram, Labels: []string{"network"}}
	failed = &Family{Name: "swarm_failures_total", Help: "What failed.", Kind: Counter, Labels: []string{"network"}}
)

func filled(t *testing.T) *Registry {
	t.Helper()
	r := New(slog.New(slog.DiscardHandler))
	r.Add(func(_ context.Context, emit Emit) error {
		emit(tasks, 3, "running")
		emit(served, 7)
		return nil
	})
	r.Add(func(context.Context, Emit) error { return errors.New("does not answer") })
	r.NewDuration(took, time.Millisecond, time.Second).Observe(20 * time.Millisecond)
	writes, failures := r.NewDuration(wrote, time.Second), r.NewCount(failed)
	for _, network := range []string{"app", "gone"} {
		writes.Observe(time.Millisecond, network)
		failures.Add(0, network)
	}
	writes.Forget("gone")
	failures.Forget("gone")
	return r
}

func TestServe(t *testing.T) {
	r := filled(t)
	gone := r.Add(func(_ context.Context, emit Emit) error {
		emit(tasks, 9, "gone")
		return nil
	})
	gone()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx, ln) }()
	resp, err := http.Get("http://" + ln.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`swarm_node_tasks{state="running"} 3`, "swarm_dns_queries_total 7", `swarm_failures_total{network="app"} 0`,
		`swarm_commit_duration_seconds_bucket{le="1"} 1`, `swarm_write_duration_seconds_count{network="app"} 1`,
		"# TYPE swarm_commit_duration_seconds histogram", "go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(string(body), line) {
			t.Errorf("no line %q in\n%s", line, body)
		}
	}
	if strings.Contains(string(body), "gone") {
		t.Error("what was removed is still shown")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("end of serving: %v", err)
	}
}
