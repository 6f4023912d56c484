package session

import (
	"context"
	"time"
)

const (
	// departTimeout bounds the wait until the managers count this node as down. After that time the
	// tasks stop in any case, so that the host can go down, and the managers believe that the tasks
	// ended by themselves.
	departTimeout = 3 * time.Second
	// lastReportTimeout bounds the wait until the managers have the last statuses of the tasks. The
	// next process sends the statuses that no manager has acknowledged.
	lastReportTimeout = time.Second
)

// AnnounceDeparture tells the managers that the host goes down. They replace this node's tasks at
// once. AnnounceDeparture returns when a manager has acknowledged the departure, after 3 s, or when
// ctx ends.
func (c *Client) AnnounceDeparture(ctx context.Context) {
	c.setDeparting()
	ctx, cancel := context.WithTimeout(ctx, departTimeout)
	defer cancel()
	select {
	case <-c.departureAcked:
	case <-ctx.Done():
		c.deps.Log.Warn("no manager acknowledged that this host goes down: its tasks are replaced once the node counts as down")
	}
}

// IsDeparting reports whether AnnounceDeparture was called.
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
