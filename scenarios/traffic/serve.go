package traffic

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Handle serves the requests of a Client, until ctx ends.
func Handle(ctx context.Context, mux *http.ServeMux) {
	s := &server{ctx: ctx, watches: map[string]func() Report{}}
	mux.HandleFunc("POST /reach", s.reach)
	mux.HandleFunc("POST /watch", s.watch)
	mux.HandleFunc("GET /report", s.report)
	mux.HandleFunc("GET /bytes/{n}", s.bytes)
	mux.HandleFunc("GET /fetch", s.fetch)
}

// server has the state of a container's handlers.
type server struct {
	ctx context.Context // for watches

	mu      sync.Mutex // guards watches
	watches map[string]func() Report
}

// Dial opens connections from the network of this process.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Resolver: &net.Resolver{PreferGo: true}}).DialContext(ctx, network, address)
}

// atOnce is the number of targets that are tried at the same time.
const atOnce = 16

func (s *server) reach(w http.ResponseWriter, r *http.Request) {
	var targets []Target
	if err := json.NewDecoder(r.Body).Decode(&targets); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answers := make([]Answer, len(targets))
	var (
		all   sync.WaitGroup
		turns = make(chan struct{}, atOnce)
	)
	for i, t := range targets {
		all.Go(func() {
			turns <- struct{}{}
			answers[i] = Reach(r.Context(), Dial, t)
			<-turns
		})
	}
	all.Wait()
	_ = json.NewEncoder(w).Encode(answers)
}

func (s *server) watch(w http.ResponseWriter, r *http.Request) {
	var wanted Watch
	err := json.NewDecoder(r.Body).Decode(&wanted)
	if err == nil {
		var seen func() Report
		if seen, err = Begin(s.ctx, Dial, wanted); err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.watches[wanted.Name] = seen
			return
		}
	}
	http.Error(w, err.Error(), http.StatusBadRequest)
}

func (s *server) report(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]Report{}
	for name, seen := range s.watches {
		all[name] = seen()
	}
	_ = json.NewEncoder(w).Encode(all)
}

// chunk is the number of bytes that are sent at once.
const chunk = 1 << 20

// bytes sends n bytes, spread over the time ?in=DURATION.
func (s *server) bytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	spread, _ := time.ParseDuration(r.URL.Query().Get("in")) // Without it the transfer is as fast as possible.
	w.Header().Set("Content-Length", strconv.Itoa(n))
	data := make([]byte, chunk)
	began := time.Now()
	for sent := 0; sent < n; {
		due := time.Duration(float64(spread) * float64(sent) / float64(n))
		select {
		case <-time.After(due - time.Since(began)): // the pace of the transfer
		case <-r.Context().Done():
			return
		}
		m, err := w.Write(data[:min(chunk, n-sent)])
		if err != nil {
			return
		}
		sent += m
	}
}

// fetch reads ?url= to its end, and answers with the number of bytes.
func (s *server) fetch(w http.ResponseWriter, r *http.Request) {
	client := &http.Client{Transport: &http.Transport{DialContext: Dial, DisableKeepAlives: true}}
	resp, err := client.Get(r.URL.Query().Get("url"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil {
		http.Error(w, fmt.Sprintf("after %d bytes: %v", n, err), http.StatusBadGateway)
		return
	}
	fmt.Fprintln(w, n)
}
