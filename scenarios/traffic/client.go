package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Client controls one container of a test.
type Client struct {
	// URL is the base address of the container's handlers.
	URL string
}

// Reach has the container try targets, and returns an answer for each.
func (c Client) Reach(ctx context.Context, targets ...Target) ([]Answer, error) {
	var answers []Answer
	err := c.call(ctx, http.MethodPost, "/reach", targets, &answers)
	return answers, err
}

// Watch has the container start a watch.
func (c Client) Watch(ctx context.Context, w Watch) error {
	return c.call(ctx, http.MethodPost, "/watch", w, nil)
}

// Reports returns what the container's watches have recorded so far, by name.
func (c Client) Reports(ctx context.Context) (map[string]Report, error) {
	var all map[string]Report
	err := c.call(ctx, http.MethodGet, "/report", nil, &all)
	return all, err
}

// Fetch has the container read a page to its end, and returns the page's length.
func (c Client) Fetch(ctx context.Context, page string) (int, error) {
	text, err := c.text(ctx, http.MethodGet, "/fetch?url="+url.QueryEscape(page), nil)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func (c Client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	text, err := c.text(ctx, method, path, body)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(text, out)
}

func (c Client) text(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", c.URL+path, resp.Status, strings.TrimSpace(string(text)))
	}
	return text, err
}
