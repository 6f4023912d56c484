package session

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// contact is what the worker knows of its managers: whether it has a session, and the newest state that it has acted on.
type contact struct {
	mu      sync.Mutex    // guards what follows
	manager string        // of the session; empty: none
	since   time.Time     // of manager
	changed chan struct{} // closed and replaced when manager changes
	epoch   uint64        // of the cluster
	index   uint64        // of the store
	refusal error         // why managers do not serve this node, as one said last; nil once one does
}

func newContact(epoch, index uint64) *contact {
	return &contact{epoch: epoch, index: index, since: time.Now(), changed: make(chan struct{})}
}

func (c *contact) seen() (epoch, index uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch, c.index
}

func (c *contact) see(epoch, index uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch, c.index = epoch, index
}

// refused notes that a manager does not serve this node, and will not by itself. Managers that cannot be reached, or are
// not ready, say nothing of the node.
func (c *contact) refused(err error) {
	if !errdefs.IsAlreadyExists(err) && !errdefs.IsPermissionDenied(err) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusal = err
}

// set notes a session's begin, or with "" its end; since is when the manager was heard last.
func (c *contact) set(manager string, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.manager, c.since = manager, since
	if manager != "" {
		c.refusal = nil
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// next returns what is closed when a session begins or ends.
func (c *contact) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// outOfContact is how long no manager must have been there before the worker acts alone: what the managers allow too
// before they call a node down.
const outOfContact = 10 * time.Second

// alone waits for delay, and on until the worker is out of contact for good. It returns false as soon as there is a
// session, and when ctx ends.
func (c *contact) alone(ctx context.Context, delay time.Duration) bool {
	until := time.Now().Add(delay)
	for {
		c.mu.Lock()
		manager, since, changed := c.manager, c.since, c.changed
		c.mu.Unlock()
		if manager != "" {
			return false
		}
		wait := max(time.Until(until), time.Until(since.Add(outOfContact)))
		if wait <= 0 {
			return true
		}
		select {
		case <-time.After(wait):
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
