package session

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/broadcast"
)

// contact says whether there is a session, and which state of the managers the node has applied
// last.
type contact struct {
	mu      sync.Mutex       // guards what follows
	manager string           // of the session; empty: none
	heard   time.Time        // if there is no session: when a manager was last heard, at first when this process began
	changed broadcast.Signal // sent when manager changes
	epoch   uint64           // of the cluster
	index   uint64           // of the store
	refusal error            // why the managers do not serve this node; nil once one does
}

func newContact(epoch, index uint64) *contact {
	return &contact{epoch: epoch, index: index, heard: time.Now()}
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

// setRefusal records err as the reason why the managers do not serve this node, if another attempt
// would fail in the same way. It ignores other errors: they mean only that a manager could not be
// reached or was not ready.
func (c *contact) setRefusal(err error) {
	if !errdefs.IsAlreadyExists(err) && !errdefs.IsPermissionDenied(err) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusal = err
}

// set records that a session with a manager has begun, or with an empty manager that it has ended.
// heard is when a manager was last heard.
func (c *contact) set(manager string, heard time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.manager, c.heard = manager, heard
	if manager != "" {
		c.refusal = nil
	}
	c.changed.Broadcast()
}

// changes returns a channel that is closed when a session begins or ends.
func (c *contact) changes() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed.Changed()
}

// aloneAfter is for how long the node must have been without a session before the worker acts
// without managers. By default the managers count a node as down after the same time.
const aloneAfter = 10 * time.Second

// outOfContact implements Client.OutOfContact.
func (c *contact) outOfContact(ctx context.Context, delay time.Duration) bool {
	until := time.Now().Add(delay)
	for {
		c.mu.Lock()
		manager, heard, changed := c.manager, c.heard, c.changed.Changed()
		c.mu.Unlock()
		if manager != "" {
			return false
		}
		wait := max(time.Until(until), time.Until(heard.Add(aloneAfter)))
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
