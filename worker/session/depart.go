package session

import (
	"context"
	"time"
)

const (
	// departTimeout bounds the wait until the managers count this node as down. If tasks stop
	// before that, the managers believe that they ended by themselves.
	departTimeout = 3 * time.Second
	// lastReportTimeout bounds the wait until the managers have how the tasks ended. Statuses that
	// they do not take now are sent by the next process.
	lastReportTimeout = time.Second
)

// Depart tells the managers that the host goes down. They replace this node's tasks at once. Depart
// returns when a manager has acknowledged it, after 3 s, or when ctx ends.
func (c *Client) Depart(ctx context.Context) {
	c.departOnce.Do(func() { close(c.departing) })
	ctx, cancel := context.WithTimeout(ctx, departTimeout)
	defer cancel()
	select {
	case <-c.parted:
	case <-ctx.Done():
		c.deps.Log.Warn("no manager acknowledged that this host goes down: its tasks are replaced once the node counts as down")
	}
}

// IsDeparting reports whether Depart was called.
func (c *Client) IsDeparting() bool {
	select {
	case <-c.departing:
		return true
	default:
		return false
	}
}

// departed notes that the managers count this node as down.
func (c *Client) setDeparted() { c.partOnce.Do(func() { close(c.parted) }) }

// Flush waits until the managers have every status that was reported, for 1 s at most.
func (c *Client) Flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastReportTimeout)
	defer cancel()
	select {
	case <-c.reports.delivered():
	case <-ctx.Done():
	}
}
