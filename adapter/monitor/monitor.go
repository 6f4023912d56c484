//go:build linux

// Package monitor defines the daemon's metrics and reads their values at each scrape.
//
// The package owns the names, labels and help texts of all metrics that begin with `swarm_`, and
// the translation from the counters of the worker, gossip, the data plane and the manager. A metric
// that docs/metrics.md does not list fails a test. The package keeps no counters of its own except
// those of events that cannot be read afterwards: how long a commit and a round of changes to the
// kernel took. Package internal/metrics, which serves them, is the only one that knows Prometheus.
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

// Monitor is what a daemon shows to Prometheus. Run its Serve method. Several goroutines may call
// its methods.
type Monitor struct {
	*metrics.Registry
	families   *families
	programmed *metrics.Duration
	failures   *metrics.Count
	commits    *metrics.Duration
}

// New returns a monitor that shows the version and the build of this program, its process and its
// Go runtime. AddWorker and AddManager show more while the host is a member of a cluster.
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

// Listen opens the address of the metrics, HOST:PORT. It returns nil if the address is empty, or if
// it cannot be opened and was not asked for: a daemon with the default address starts without
// metrics then, and Listen logs a warning.
func Listen(ctx context.Context, address string, asked bool, log *slog.Logger) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", address)
	switch {
	case err == nil:
		return ln, nil
	case asked:
		return nil, fmt.Errorf("metrics: %w: stop what uses it, or give another with --metrics-addr", err)
	}
	log.Warn("metrics are not shown: give the daemon another --metrics-addr, or --metrics-addr off", "err", err)
	return nil, nil
}

// CommitTook counts one commit of this manager, from the proposal to its being applied.
func (m *Monitor) CommitTook(d time.Duration) { m.commits.Observe(d) }

// RoundDone counts one round of changes to the kernel, for each network that it concerned.
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
