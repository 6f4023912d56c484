// Package metrics shows numbers of this process to Prometheus.
//
// It is the one door to Prometheus' library. Nothing is gathered but when somebody asks: a Source is called for each
// scrape, and costs nothing between. What cannot be read afterwards, because it happens and is over, goes into a Duration or
// a Count. It refuses to know what the numbers mean. Caller: cmd, which says what there is. Goroutines: those of the HTTP
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

// Kind says how a number moves.
type Kind int

// The kinds.
const (
	// Gauge goes up and down.
	Gauge Kind = iota
	// Counter only goes up; its name ends with _total.
	Counter
	// Histogram counts what took how long; its name ends with _seconds.
	Histogram
)

// Family is the numbers of one name.
type Family struct {
	Name string
	Help string
	Kind Kind
	// Labels tell the family's numbers apart.
	Labels []string
}

// Emit takes one number of a family, with a value for each of its labels.
type Emit func(f *Family, value float64, labels ...string)

// Source says what it knows when asked, by ctx's end. An error costs the rest of this source for one scrape.
type Source func(ctx context.Context, emit Emit) error

// Registry is what is shown.
type Registry struct {
	log *slog.Logger
	of  *prometheus.Registry

	mu      sync.Mutex // guards sources
	sources map[*Source]Source
}

// New returns a registry that shows the process and its Go runtime.
func New(log *slog.Logger) *Registry {
	r := &Registry{log: log, of: prometheus.NewRegistry(), sources: make(map[*Source]Source)}
	r.of.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), sources{r})
	return r
}

// Add has a source asked until remove is called.
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

// scrapeTime is how long one scrape may take: Prometheus gives up after 10 s.
const scrapeTime = 5 * time.Second

// sources asks them. Which numbers there are is known only then, so it describes none.
type sources struct{ r *Registry }

func (sources) Describe(chan<- *prometheus.Desc) {}

func (s sources) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
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

// Duration counts what took how long, for each set of labels.
type Duration struct{ of *prometheus.HistogramVec }

// NewDuration shows durations, counted in these bounds.
func (r *Registry) NewDuration(f *Family, bounds ...time.Duration) *Duration {
	seconds := make([]float64, len(bounds))
	for i, b := range bounds {
		seconds[i] = b.Seconds()
	}
	d := &Duration{prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: f.Name, Help: f.Help, Buckets: seconds}, f.Labels)}
	r.of.MustRegister(d.of)
	if len(f.Labels) == 0 {
		d.of.WithLabelValues() // is shown before the first
	}
	return d
}

// Observe adds one.
func (d *Duration) Observe(took time.Duration, labels ...string) {
	d.of.WithLabelValues(labels...).Observe(took.Seconds())
}

// Forget shows those of the labels no more.
func (d *Duration) Forget(labels ...string) { d.of.DeleteLabelValues(labels...) }

// Count counts events, for each set of labels.
type Count struct{ of *prometheus.CounterVec }

// NewCount shows a number of events.
func (r *Registry) NewCount(f *Family) *Count {
	c := &Count{prometheus.NewCounterVec(prometheus.CounterOpts{Name: f.Name, Help: f.Help}, f.Labels)}
	r.of.MustRegister(c.of)
	if len(f.Labels) == 0 {
		c.of.WithLabelValues() // is shown before the first
	}
	return c
}

// Add adds n, which may be 0: what has not happened is shown too.
func (c *Count) Add(n int, labels ...string) { c.of.WithLabelValues(labels...).Add(float64(n)) }

// Forget shows those of the labels no more.
func (c *Count) Forget(labels ...string) { c.of.DeleteLabelValues(labels...) }

const (
	// readTime bounds how long a client may take to ask, and writeTime how long the answer may take.
	readTime, writeTime = 5 * time.Second, 30 * time.Second
	// maxConns bounds the clients that are connected at once. Those beyond wait.
	maxConns = 64
)

// Serve answers at /metrics until ctx ends, and closes the listener.
func (r *Registry) Serve(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r.of, promhttp.HandlerOpts{
		ErrorLog: errorLog{r.log}, ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 2, DisableCompression: true,
	}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "metrics of this node are at /metrics")
	})
	server := &http.Server{
		Handler: mux, ReadTimeout: readTime, WriteTimeout: writeTime, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
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
