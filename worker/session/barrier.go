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
	// barrierTimeout bounds the wait until every node has programmed a change. In a healthy cluster
	// this takes some milliseconds. A lost node delays the answer until the managers count it as
	// down, by default 10 s after its last heartbeat.
	barrierTimeout = 10 * time.Second
	// barrierFirst is the first pause after a manager could not answer. It is short, because a
	// session with another manager may be about to begin.
	barrierFirst = 50 * time.Millisecond
	barrierLimit = time.Second
)

// AwaitProgrammed waits until every ready node has programmed what the managers know now. After
// that no node sends new connections to a backend that is no longer ready. It waits for 10 s at
// most, and logs a warning if no manager answered in that time. Concurrent calls share one request
// to the manager. taskID is for the log only.
func (c *Client) AwaitProgrammed(ctx context.Context, taskID string) {
	ctx, cancel := context.WithTimeout(ctx, barrierTimeout)
	defer cancel()
	began := time.Now()
	ticket := c.barrier.drawn.Add(1)
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

// askProgrammed makes one request to the manager of the session. The manager answers once every
// ready node has programmed what it knows.
func (c *Client) askProgrammed(ctx context.Context) error {
	conn, err := c.Conn()
	if err != nil {
		return err
	}
	_, err = swarmv1.NewDispatcherClient(conn).AwaitProgrammed(ctx, &swarmv1.AwaitProgrammedRequest{})
	return err
}

// barrier merges requests: one request answers all callers that were waiting when it began. Each
// caller draws a ticket, which is a number, once before its first call of ask.
type barrier struct {
	turn     chan struct{} // capacity 1: a token while a caller makes the request; guards answered
	drawn    atomic.Uint64 // the newest ticket
	answered uint64        // the newest ticket that a successful request has answered
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
	if b.answered >= ticket {
		return nil
	}
	drawn := b.drawn.Load()
	err := do(ctx)
	if err == nil {
		b.answered = drawn
	}
	return err
}
