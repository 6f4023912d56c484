package scenarios

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// probe asks one HTTP server, over one connection that it keeps or a new one each time.
type probe struct {
	keep   bool
	dials  atomic.Int64
	client *http.Client
}

func newProbe(keep bool) *probe {
	p := &probe{keep: keep}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	p.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: !keep, MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			p.dials.Add(1)
			return dialer.DialContext(ctx, network, addr)
		},
	}}
	return p
}

func (p *probe) get(url string) (string, error) {
	resp, err := p.client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return string(text), err
}

func (p *probe) close() { p.client.CloseIdleConnections() }

// probers ask every endpoint without pause for breath, until stop.
type probers struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	requests int
	failures []error
}

// probeEvery leaves the machine to those that are probed.
const probeEvery = 50 * time.Millisecond

func startProbers(endpoints []string) *probers {
	ctx, cancel := context.WithCancel(context.Background())
	p := &probers{cancel: cancel}
	for i, e := range endpoints {
		// Every other one keeps its connection: those that stand must not break either.
		p.done.Go(func() { p.run(ctx, newProbe(i%2 == 1), e) })
	}
	return p
}

func (p *probers) run(ctx context.Context, c *probe, endpoint string) {
	defer c.close()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		began := time.Now()
		_, err := c.get(endpoint + "/")
		p.count(endpoint, began, err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			if dials := c.dials.Load(); c.keep && dials > 1 {
				p.count(endpoint, began, errors.New("the connection that was kept broke"))
			}
			return
		}
	}
}

func (p *probers) count(endpoint string, began time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	if err != nil {
		p.failures = append(p.failures, fmt.Errorf("%s at %s: %w", endpoint, began.Format("15:04:05.000"), err))
	}
}

// stop returns what was counted. Again, it returns the same.
func (p *probers) stop() (requests int, failures []error) {
	p.cancel()
	p.done.Wait()
	return p.requests, p.failures
}
