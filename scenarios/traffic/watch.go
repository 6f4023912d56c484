package traffic

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Watch is a query that is repeated.
type Watch struct {
	// Name is the watch's name in the reports.
	Name string
	// Kind is the kind of query. "resolve" resolves the name in Address. "reach" sends a line to
	// Target over a new connection each time. "hold" does so over Count connections that stay open.
	// "get" requests a page of the HTTP server at Address over a new connection each time. "keep"
	// does so with a client that keeps its connections, and that repeats a request if the server
	// has closed an idle connection meanwhile.
	Kind string
	Target
	Every time.Duration
	Count int
	// For is the duration of the watch. 0: until the container ends.
	For time.Duration
}

// Report is what a watch has recorded.
type Report struct {
	Asked    int
	Failures []Event
	// Changes has an event for each answer that differs from the one before it.
	Changes []Event
	// Last has the time of the last query for each answer.
	Last map[string]time.Time
	// Open is the number of held connections that are open.
	Open int
}

// Event is an answer or a failure, with the time at which the query began.
type Event struct {
	At   time.Time
	What string
}

func (e Event) String() string { return e.At.Format("15:04:05.000") + " " + e.What }

// watcher runs a Watch.
type watcher struct {
	Watch
	dial     Dialer
	resolver *net.Resolver

	mu     sync.Mutex // guards report
	report Report
}

// Begin runs a watch until ctx or the watch's own time ends. It returns a function that returns the
// report so far.
func Begin(ctx context.Context, dial Dialer, w Watch) (func() Report, error) {
	if w.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.For)
		context.AfterFunc(ctx, cancel)
	}
	v := &watcher{Watch: w, dial: dial, resolver: &net.Resolver{PreferGo: true}, report: Report{Last: map[string]time.Time{}}}
	switch w.Kind {
	case "resolve":
		go v.run(ctx, v.resolve)
	case "reach":
		go v.run(ctx, v.reach)
	case "get", "keep":
		client := w.client(v.dial)
		go v.run(ctx, func(ctx context.Context) (string, error) { return v.get(ctx, client) })
	case "hold":
		for range w.Count {
			go v.hold(ctx)
		}
	default:
		return nil, fmt.Errorf("no kind of watch %q", w.Kind)
	}
	return v.seen, nil
}

func (w *watcher) seen() Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.report
	r.Failures, r.Changes, r.Last = slices.Clone(r.Failures), slices.Clone(r.Changes), map[string]time.Time{}
	for answer, at := range w.report.Last {
		r.Last[answer] = at
	}
	return r
}

// run repeats the query until ctx ends.
func (w *watcher) run(ctx context.Context, ask func(context.Context) (string, error)) {
	tick := time.NewTicker(w.Every)
	defer tick.Stop()
	for {
		at := time.Now()
		answer, err := ask(ctx)
		if ctx.Err() != nil {
			return
		}
		w.note(at, answer, err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (w *watcher) note(at time.Time, answer string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.Asked++
	if err != nil {
		w.report.Failures = append(w.report.Failures, Event{at, fmt.Sprintf("%v (after %v)", err, time.Since(at).Round(time.Millisecond))})
		return
	}
	if n := len(w.report.Changes); n == 0 || w.report.Changes[n-1].What != answer {
		w.report.Changes = append(w.report.Changes, Event{at, answer})
	}
	w.report.Last[answer] = at
}

func (w *watcher) resolve(ctx context.Context) (string, error) {
	addresses, err := w.resolver.LookupHost(ctx, w.Address)
	slices.Sort(addresses)
	return strings.Join(addresses, " "), err
}

func (w *watcher) reach(ctx context.Context) (string, error) {
	a := Reach(ctx, w.dial, w.Target)
	if a.Err != "" {
		return "", fmt.Errorf("%s", a.Err)
	}
	return a.Host, nil
}

// client returns the HTTP client of the kinds "get" and "keep".
func (w Watch) client(dial Dialer) *http.Client {
	return &http.Client{Timeout: answerTimeout, Transport: &http.Transport{
		DisableKeepAlives: w.Kind == "get",
		// Only the first address of a name is tried, because a second try would hide that the first
		// address is wrong.
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			addresses, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, host)
			if err != nil {
				return nil, err
			}
			return dial(ctx, network, net.JoinHostPort(addresses[0], port))
		},
	}}
}

func (w *watcher) get(ctx context.Context, client *http.Client) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.Address+"/", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", w.Address, resp.Status)
	}
	return strings.TrimSpace(string(text)), err
}

// hold keeps one connection open. It counts a failure if the connection breaks or if another
// container answers on it, and then opens a new one.
func (w *watcher) hold(ctx context.Context) {
	for ctx.Err() == nil {
		at := time.Now()
		c, err := open(ctx, w.dial, w.Target)
		if err != nil {
			w.note(at, "", fmt.Errorf("open: %w", err))
			select {
			case <-time.After(w.Every): // the pace of the watch
			case <-ctx.Done():
			}
			continue
		}
		w.opened(1)
		first := ""
		w.runUntil(ctx, func() (string, error) {
			host, _, err := c.ask("hold")
			if first == "" {
				first = host
			}
			if err == nil && host != first {
				err = fmt.Errorf("%s answers on a connection to %s", host, first)
			}
			return host, err
		})
		c.close()
		w.opened(-1)
	}
}

func (w *watcher) opened(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.Open += n
}

// runUntil repeats the query until it fails.
func (w *watcher) runUntil(ctx context.Context, ask func() (string, error)) {
	tick := time.NewTicker(w.Every)
	defer tick.Stop()
	for {
		at := time.Now()
		answer, err := ask()
		if err != nil {
			w.note(at, "", err)
			return
		}
		w.noteHeld(at, answer)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// noteHeld records an answer on a held connection. It records no change, because several held
// connections answer in turn.
func (w *watcher) noteHeld(at time.Time, answer string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.Asked++
	w.report.Last[answer] = at
}
