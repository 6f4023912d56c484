package session

import (
	"context"
	"time"
)

const (
	// departTimeout bounds the wait until the managers count this node as down. If a task stops
	// before that, the managers believe that it ended by itself.
	departTimeout = 3 * time.Second
	// lastReportTimeout bounds the wait until the managers have the last statuses of the tasks. The
	// next process sends the statuses that no manager has acknowledged.
	lastReportTimeout = time.Second
)

// Depart tells the managers that the host goes down. They replace this node's tasks at once. Depart
// returns when a manager has acknowledged the departure, after 3 s, or when ctx ends.
func (c *Client) Depart(ctx context.Context) {
	c.setDeparting()
	ctx, cancel := context.WithTimeout(ctx, departTimeout)
	defer cancel()
	select {
	case <-c.departureAcked:
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

// Flush waits until the managers have every status that was reported, for 1 s at most.
func (c *Client) Flush(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastReportTimeout)
	defer cancel()
	select {
	case <-c.reports.delivered():
	case <-ctx.Done():
	}
}
