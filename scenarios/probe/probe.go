// Package probe asks HTTP servers without pause and counts what fails: how a scenario sees that nothing was interrupted.
// One goroutine an address, until Stop has waited for it.
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

// Client asks HTTP servers, over a new connection each time.
type Client struct{ client *http.Client }

// New makes one.
func New() *Client {
	return &Client{&http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
}

// Get returns the text of an answer that says that all is well.
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

// Close lets go of what was kept.
func (p *Client) Close() { p.client.CloseIdleConnections() }

// kept asks one HTTP server over one connection. A client of package http would open another one without a word.
type kept struct {
	conn   net.Conn
	answer *bufio.Reader
}

func (p *kept) Get(url string) (string, error) {
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

func (p *kept) ask(req *http.Request) (string, error) {
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

func (p *kept) Close() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}

// Load asks every endpoint without pause for breath, until Stop.
type Load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	requests int
	failures []error
}

// Start begins to ask for the pages at base addresses, each this often.
func Start(endpoints []string, every time.Duration) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Load{cancel: cancel}
	for i, e := range endpoints {
		// Every other one keeps its connection: those that stand must not break either.
		p.done.Go(func() {
			if i%2 == 0 {
				p.run(ctx, New(), e, every)
			} else {
				p.run(ctx, &kept{}, e, every)
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

// Stop returns what was counted. Again, it returns the same.
func (p *Load) Stop() (requests int, failures []error) {
	p.cancel()
	p.done.Wait()
	return p.requests, p.failures
}
