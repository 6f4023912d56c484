// Package probe sends requests to HTTP servers continuously and counts failures, so that a scenario
// notices each interruption. It has one goroutine for each address, and Stop waits for them.
package probe

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

// Client sends requests to HTTP servers, over a new connection each time.
type Client struct{ client *http.Client }

// New returns a Client.
func New() *Client {
	return &Client{&http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
}

// Get returns the body of a page. A status other than 200 is an error.
func (p *Client) Get(url string) (string, error) {
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

// Close closes idle connections.
func (p *Client) Close() { p.client.CloseIdleConnections() }

// keptClient sends requests to one HTTP server over one connection. A client of package http would
// open another connection without an error if the first one breaks.
type keptClient struct {
	conn   net.Conn
	answer *bufio.Reader
}

func (p *keptClient) Get(url string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	if p.conn == nil {
		if p.conn, err = net.DialTimeout("tcp", req.URL.Host, 30*time.Second); err != nil {
			return "", err
		}
		p.answer = bufio.NewReader(p.conn)
	}
	text, err := p.ask(req)
	if err != nil {
		p.Close()
	}
	return text, err
}

func (p *keptClient) ask(req *http.Request) (string, error) {
	if err := p.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
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

func (p *keptClient) Close() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}

// Load sends requests to every endpoint until Stop.
type Load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	requests int
	failures []error
}

// Start requests the pages at base addresses, each at the given interval.
func Start(endpoints []string, every time.Duration) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Load{cancel: cancel}
	for i, e := range endpoints {
		// Every other prober keeps its connection, because established connections must not break
		// either.
		p.done.Go(func() {
			if i%2 == 0 {
				p.run(ctx, New(), e, every)
			} else {
				p.run(ctx, &keptClient{}, e, every)
			}
		})
	}
	return p
}

type getter interface {
	Get(url string) (string, error)
	Close()
}

func (p *Load) run(ctx context.Context, c getter, endpoint string, every time.Duration) {
	defer c.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		began := time.Now()
		_, err := c.Get(endpoint + "/")
		p.count(endpoint, began, err)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *Load) count(endpoint string, began time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	if err != nil {
		p.failures = append(p.failures, fmt.Errorf("%s at %s: %w", endpoint, began.Format("15:04:05.000"), err))
	}
}

// Stop ends the requests and returns their number and the failures. It may be called again, and
// then returns the same.
func (p *Load) Stop() (requests int, failures []error) {
	p.cancel()
	p.done.Wait()
	return p.requests, p.failures
}
