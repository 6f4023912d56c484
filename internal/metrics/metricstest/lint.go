// Package metricstest checks metrics against the naming conventions of Prometheus. It is for tests,
// and has no goroutines.
package metricstest

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"swarm/internal/metrics"
)

// Lint returns one line for each problem with a name, a help text or a label.
func Lint(families []*metrics.Family) ([]string, error) {
	r := prometheus.NewRegistry()
	for _, f := range families {
		var c prometheus.Collector
		switch f.Kind {
		case metrics.Counter:
			v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: f.Name, Help: f.Help}, f.Labels)
			v.WithLabelValues(make([]string, len(f.Labels))...)
			c = v
		case metrics.Histogram:
			v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: f.Name, Help: f.Help}, f.Labels)
			v.WithLabelValues(make([]string, len(f.Labels))...)
			c = v
		default:
			v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: f.Name, Help: f.Help}, f.Labels)
			v.WithLabelValues(make([]string, len(f.Labels))...)
			c = v
		}
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	gathered, err := r.Gather()
	if err != nil {
		return nil, err
	}
	problems, err := promlint.NewWithMetricFamilies(gathered).Lint()
	var out []string
	for _, p := range problems {
		out = append(out, p.Metric+": "+p.Text)
	}
	return out, err
}
