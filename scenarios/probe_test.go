package scenarios

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// probe asks HTTP servers, over a new connection each time.
type probe struct{ client *http.Client }

func newProbe() *probe {
	return &probe{&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
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

// keptProbe asks one HTTP server over one connection. A client of package http would open another one without a word.
type keptProbe struct {
	conn   net.Conn
	answer *bufio.Reader
}

func (p *keptProbe) get(url string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	if p.conn == nil {
		if p.conn, err = net.DialTimeout("tcp", req.URL.Host, 10*time.Second); err != nil {
			return "", err
		}
		p.answer = bufio.NewReader(p.conn)
	}
	text, err := p.ask(req)
	if err != nil {
		p.close()
	}
	return text, err
}

func (p *keptProbe) ask(req *http.Request) (string, error) {
	if err := p.conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if err := req.Write(p.conn); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(p.answer, req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

func (p *keptProbe) close() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}

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
		p.done.Go(func() {
			if i%2 == 0 {
				p.run(ctx, newProbe(), e)
			} else {
				p.run(ctx, &keptProbe{}, e)
			}
		})
	}
	return p
}

type getter interface {
	get(url string) (string, error)
	close()
}

func (p *probers) run(ctx context.Context, c getter, endpoint string) {
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
