package session

import (
	"context"
	"sync/atomic"
	"time"

	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/retry"
)

const (
	// barrierTimeout bounds the wait for every node to have programmed a change. In a healthy
	// cluster some milliseconds are enough. A node that is lost holds up the answer until the
	// managers count it as down, which by default takes as long.
	barrierTimeout = 10 * time.Second
	// barrierFirst is the first pause after a manager could not answer: a session with another one
	// may be about to begin.
	barrierFirst = 50 * time.Millisecond
	barrierLimit = time.Second
)

// AwaitProgrammed waits until every ready node has programmed what the managers know now: no node
// sends new connections to a backend that is no longer ready. It waits for 10 s at most, and logs a
// warning if the managers could not say. Calls at the same time share one request to the manager.
func (c *Client) AwaitProgrammed(ctx context.Context, taskID string) {
	ctx, cancel := context.WithTimeout(ctx, barrierTimeout)
	defer cancel()
	began := time.Now()
	ticket := c.barrier.asked.Add(1)
	for try := 0; ; try++ {
		err := c.barrier.ask(ctx, ticket, c.askProgrammed)
		if err == nil {
			c.deps.Log.Debug("no node sends new connections any more", "task", taskID, "took", time.Since(began))
			return
		}
		if retry.IsPermanent(err) || pause.For(ctx, retry.Backoff(try, barrierFirst, barrierLimit)) != nil {
			c.deps.Log.Warn("it is not known whether other nodes still send new connections to a task that stops now", "task", taskID, "err", err)
			return
		}
	}
}

func (c *Client) askProgrammed(ctx context.Context) error {
	conn, err := c.Conn()
	if err != nil {
		return err
	}
	_, err = swarmv1.NewDispatcherClient(conn).AwaitProgrammed(ctx, &swarmv1.AwaitProgrammedRequest{})
	return err
}

// barrier merges requests: one request answers all callers that were waiting when it began.
type barrier struct {
	turn  chan struct{} // capacity 1: held by the caller that makes the request. It guards done
	asked atomic.Uint64 // the number of tickets drawn
	done  uint64        // the newest ticket that has its answer
}

func newBarrier() *barrier { return &barrier{turn: make(chan struct{}, 1)} }

// ask calls do, unless a successful call began after the ticket was drawn.
func (b *barrier) ask(ctx context.Context, ticket uint64, do func(context.Context) error) error {
	select {
	case b.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.turn }()
	if b.done >= ticket {
		return nil
	}
	asked := b.asked.Load()
	err := do(ctx)
	if err == nil {
		b.done = asked
	}
	return err
}
