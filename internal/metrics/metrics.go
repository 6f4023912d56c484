// Package metrics serves metrics of this process to Prometheus.
//
// The package is the only one that imports Prometheus' library. It reads values only when
// Prometheus asks: it calls every Source for each scrape, and a Source costs nothing in between.
// Events, which cannot be read afterwards, go into a Duration or a Count. The package does not know
// which metrics there are; adapter/monitor, its caller, defines them. Goroutines: those of the HTTP
// server, while Serve runs.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

// Kind is the type of a metric.
type Kind int

// The kinds.
const (
	// Gauge is a value that goes up and down.
	Gauge Kind = iota
	// Counter is a value that only goes up. Its name ends with _total.
	Counter
	// Histogram counts durations. Its name ends with _seconds.
	Histogram
)

// Family is a metric with all its label values.
type Family struct {
	Name string
	Help string
	Kind Kind
	// Labels are the names of the labels.
	Labels []string
}

// Emit takes one value of a family, with one label value for each of its labels.
type Emit func(f *Family, value float64, labels ...string)

// Source emits its current values. It must return when ctx ends. If it returns an error, the values
// that it has not emitted are missing from this scrape, and the error is logged.
type Source func(ctx context.Context, emit Emit) error

// Registry holds the metrics of this process. Several goroutines may call its methods.
type Registry struct {
	log  *slog.Logger
	prom *prometheus.Registry

	mu      sync.Mutex // guards sources
	sources map[*Source]Source
}

// New returns a registry with the metrics of the process and of its Go runtime.
func New(log *slog.Logger) *Registry {
	r := &Registry{log: log, prom: prometheus.NewRegistry(), sources: make(map[*Source]Source)}
	r.prom.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), sources{r})
	return r
}

// Add asks a source at each scrape until remove is called.
func (r *Registry) Add(s Source) (remove func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sources[&s] = s
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.sources, &s)
	}
}

// scrapeTimeout bounds one scrape. Prometheus gives up after 10 seconds.
const scrapeTimeout = 5 * time.Second

// sources collects from all sources. It describes no metric, because the label values are known
// only when it collects.
type sources struct{ r *Registry }

func (sources) Describe(chan<- *prometheus.Desc) {}

func (s sources) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	s.r.mu.Lock()
	all := make([]Source, 0, len(s.r.sources))
	for _, source := range s.r.sources {
		all = append(all, source)
	}
	s.r.mu.Unlock()
	for _, source := range all {
		err := source(ctx, func(f *Family, value float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(f.desc(), f.Kind.value(), value, labels...)
		})
		if err != nil {
			s.r.log.Warn("some metrics are missing from a scrape", "err", err)
		}
	}
}

func (f *Family) desc() *prometheus.Desc { return prometheus.NewDesc(f.Name, f.Help, f.Labels, nil) }

func (k Kind) value() prometheus.ValueType {
	if k == Counter {
		return prometheus.CounterValue
	}
	return prometheus.GaugeValue
}

// Duration is a histogram of durations for each set of label values.
type Duration struct{ vec *prometheus.HistogramVec }

// NewDuration adds a histogram to the registry, with the upper bounds of its buckets in ascending
// order.
func (r *Registry) NewDuration(f *Family, bounds ...time.Duration) *Duration {
	seconds := make([]float64, len(bounds))
	for i, b := range bounds {
		seconds[i] = b.Seconds()
	}
	d := &Duration{prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: f.Name, Help: f.Help, Buckets: seconds}, f.Labels)}
	r.prom.MustRegister(d.vec)
	if len(f.Labels) == 0 {
		d.vec.WithLabelValues() // shows it before the first observation
	}
	return d
}

// Observe counts one duration.
func (d *Duration) Observe(took time.Duration, labels ...string) {
	d.vec.WithLabelValues(labels...).Observe(took.Seconds())
}

// Forget removes the histogram with these label values.
func (d *Duration) Forget(labels ...string) { d.vec.DeleteLabelValues(labels...) }

// Count is a number of events for each set of label values.
type Count struct{ vec *prometheus.CounterVec }

// NewCount adds a number of events to the registry.
func (r *Registry) NewCount(f *Family) *Count {
	c := &Count{prometheus.NewCounterVec(prometheus.CounterOpts{Name: f.Name, Help: f.Help}, f.Labels)}
	r.prom.MustRegister(c.vec)
	if len(f.Labels) == 0 {
		c.vec.WithLabelValues() // shows it before the first event
	}
	return c
}

// Add adds n events. With 0, the number is shown before the first event.
func (c *Count) Add(n int, labels ...string) { c.vec.WithLabelValues(labels...).Add(float64(n)) }

// Forget removes the number with these label values.
func (c *Count) Forget(labels ...string) { c.vec.DeleteLabelValues(labels...) }

const (
	// readTimeout bounds reading a request, and writeTimeout writing the answer.
	readTimeout, writeTimeout = 5 * time.Second, 30 * time.Second
	// maxConns bounds the connected clients. Others wait.
	maxConns = 64
)

// Serve serves the metrics at /metrics until ctx ends, and closes the listener.
func (r *Registry) Serve(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r.prom, promhttp.HandlerOpts{
		ErrorLog: errorLog{r.log}, ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 2, DisableCompression: true,
	}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "metrics of this node are at /metrics")
	})
	server := &http.Server{
		Handler: mux, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(netutil.LimitListener(ln, maxConns)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

type errorLog struct{ log *slog.Logger }

// Println implements promhttp.Logger.
func (l errorLog) Println(v ...any) { l.log.Warn("metrics", "err", fmt.Sprint(v...)) }
