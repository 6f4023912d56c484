//go:build linux

// Package monitor defines the daemon's metrics and reads their values at each scrape.
//
// The package owns the names, labels and help texts of all metrics that begin with `swarm_`. It
// translates the counters of the worker, gossip, the data plane and the manager into metrics. A
// test checks that docs/metrics.md lists every metric. The package stores only the values that
// nobody else keeps: how long each commit and each round of changes to the kernel took. Package
// internal/metrics serves the metrics, and is the only package that knows Prometheus.
//
// Only cmd/swarm imports this package. It starts no goroutines.
package monitor

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"swarm/internal/metrics"
	"swarm/overlay/plane"
)

// Monitor has the metrics of a daemon. Its method Serve answers Prometheus. Several goroutines may
// call its methods.
type Monitor struct {
	*metrics.Registry
	families   *families
	programmed *metrics.Duration
	failures   *metrics.Count
	commits    *metrics.Duration
}

// New returns a monitor with metrics of this program: version, build, process and Go runtime.
// AddWorker and AddManager add more while the host is a member of a cluster.
func New(log *slog.Logger, version, build string) *Monitor {
	m := &Monitor{Registry: metrics.New(log), families: newFamilies()}
	m.programmed = m.NewDuration(m.families.programTime,
		time.Millisecond, 3*time.Millisecond, 10*time.Millisecond, 30*time.Millisecond, 100*time.Millisecond, 300*time.Millisecond, time.Second, 3*time.Second)
	m.failures = m.NewCount(m.families.programFailures)
	m.commits = m.NewDuration(m.families.commitTime,
		time.Millisecond, 2*time.Millisecond, 5*time.Millisecond, 10*time.Millisecond, 20*time.Millisecond, 50*time.Millisecond,
		100*time.Millisecond, 200*time.Millisecond, 500*time.Millisecond, time.Second, 5*time.Second)
	m.Add(func(_ context.Context, emit metrics.Emit) error {
		emit(m.families.build, 1, version, build)
		return nil
	})
	return m
}

// Listen listens at the address of the metrics, HOST:PORT. It returns nil if the address is empty.
// If the address cannot be opened, the result depends on given, which says that the user gave the
// address. Listen returns an error for such an address. For the default address it logs a warning
// and returns nil, and the daemon starts without metrics.
func Listen(ctx context.Context, address string, given bool, log *slog.Logger) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", address)
	switch {
	case err == nil:
		return ln, nil
	case given:
		return nil, fmt.Errorf("metrics: %w: stop the program that uses the address, or give another address with --metrics-addr", err)
	}
	log.Warn("metrics are not served: start the daemon with another --metrics-addr, or with --metrics-addr off", "err", err)
	return nil, nil
}

// CommitTook records how long one commit of this manager took, from the proposal until this manager
// had applied it.
func (m *Monitor) CommitTook(d time.Duration) { m.commits.Observe(d) }

// RoundDone records one round of changes to the kernel, for each network that the round changed.
func (m *Monitor) RoundDone(r plane.Round) {
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

// boolean is 1 for true and 0 for false.
func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
