package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pause"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/retry"
)

const (
	firstBackoff = 20 * time.Millisecond
	// stableAfter is how long a session must have lasted for the next one to be opened without a
	// pause. A shorter session counts as a failed attempt: the manager has welcomed the node and
	// then refused it.
	stableAfter = time.Second
)

// Run keeps one session open, with any manager that is reachable, until ctx ends. It returns nil.
func (c *Client) Run(ctx context.Context) error {
	round, last := 0, ""
	for ctx.Err() == nil {
		var served bool
		last, served = c.tryAll(ctx, round, last)
		if served {
			round = 0
			continue
		}
		if pause.For(ctx, c.backoff(round)) != nil {
			break
		}
		round++
	}
	return nil
}

// tryAll tries the managers one after the other, the manager last at the end, until one has served
// a session. round is for the log. It returns the manager that was tried last, and whether that
// manager has served a session. For a session that ended with a renewed certificate, it returns ""
// as the manager, because that manager was not lost.
func (c *Client) tryAll(ctx context.Context, round int, last string) (tried string, served bool) {
	for _, peer := range order(c.deps.Managers(), last) {
		last = peer.NodeId
		lasted, err := c.sessionUntilRenewal(ctx, peer.NodeId)
		switch {
		case ctx.Err() != nil:
			return last, false
		case errors.Is(err, errRenewed):
			c.deps.Log.Info("opening a new session with the renewed certificate", "node", peer.NodeId)
			return "", true
		case lasted >= stableAfter:
			c.deps.Log.Warn("session ended", "node", peer.NodeId, "err", err)
			return last, true
		}
		c.contact.setRefusal(err)
		c.logAttempt(round, peer.NodeId, err)
	}
	return last, false
}

// leaseAttempts is the least number of times that a node tries all managers in the rest of a lease.
const leaseAttempts = 4

// backoff returns the pause after a round over all managers. The pauses get shorter as the lease of
// single-writer tasks runs out, so that this node finds managers that return before its end.
func (c *Client) backoff(round int) time.Duration {
	limit := c.cfg.MaxBackoff
	if left := c.LeaseLeft(); left > 0 {
		limit = min(limit, max(left/leaseAttempts, firstBackoff))
	}
	return retry.Backoff(round, firstBackoff, limit)
}

// errRenewed ends a session because the node's certificate was renewed.
var errRenewed = errors.New("the certificate of this node was renewed")

// sessionUntilRenewal serves a session, and closes it when this node gets a new certificate. The
// next session uses the new key. Managers accept the former key until that session.
func (c *Client) sessionUntilRenewal(ctx context.Context, nodeID string) (lasted time.Duration, err error) {
	if c.deps.Renewed == nil {
		return c.serve(ctx, nodeID)
	}
	renewed := c.deps.Renewed() // Before the connection is made, so that no renewal is missed.
	stop, end := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-renewed:
			end(errRenewed)
		case <-stop.Done():
		}
	})
	lasted, err = c.serve(stop, nodeID)
	end(nil)
	watch.Wait()
	return lasted, err
}

// logAttempt logs the failures of the first round as warnings, and later ones for debugging.
func (c *Client) logAttempt(round int, node string, err error) {
	if round == 0 {
		c.deps.Log.Warn("manager does not serve this node", "node", node, "err", err)
		return
	}
	c.deps.Log.Debug("manager does not serve this node", "node", node, "attempt", round+1, "err", err)
}

// order shuffles the managers, so that the sessions of all workers spread. The manager that was
// just lost comes last.
func order(managers []*swarmv1.Peer, lost string) []*swarmv1.Peer {
	out := make([]*swarmv1.Peer, 0, len(managers))
	var tail []*swarmv1.Peer
	for _, i := range rand.Perm(len(managers)) {
		if managers[i].NodeId == lost {
			tail = append(tail, managers[i])
		} else {
			out = append(out, managers[i])
		}
	}
	return append(out, tail...)
}

// welcome opens the stream and exchanges the first messages. It fails if the manager belongs to an
// older epoch of the cluster.
func (c *Client) welcome(ctx context.Context, nodeID string) (swarmv1.Dispatcher_SessionClient, *swarmv1.Welcome, error) {
	conn, err := c.deps.Dial(nodeID)
	if err != nil {
		return nil, nil, fmt.Errorf("dial manager %s: %w", nodeID, err)
	}
	stream, err := swarmv1.NewDispatcherClient(conn).Session(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("open session with %s: %w", nodeID, err)
	}
	epoch, index := c.contact.seen()
	hello := &swarmv1.Hello{
		Description: c.describe(), MachineId: c.cfg.MachineID, Addr: c.cfg.Addr, DataPathAddr: c.cfg.DataPathAddr,
		Port: c.cfg.Port, SeenIndex: index, Epoch: epoch,
	}
	if err := stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Hello{Hello: hello}}); err != nil {
		if _, rerr := stream.Recv(); rerr != nil { // Recv says why; Send says only EOF.
			err = rerr
		}
		return nil, nil, fmt.Errorf("greet manager %s: %w", nodeID, err)
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, nil, fmt.Errorf("greet manager %s: %w", nodeID, err)
	}
	if node := first.GetNode(); node != nil { // The node was removed. An error that says so follows.
		if c.deps.OnNode != nil {
			c.deps.OnNode(node)
		}
		if _, err = stream.Recv(); err == nil {
			err = errdefs.ErrFailedPrecondition.WithMessage("it began with a message about the node and not with a welcome")
		}
		return nil, nil, fmt.Errorf("greet manager %s: %w", nodeID, err)
	}
	welcome := first.GetWelcome()
	if welcome == nil {
		return nil, nil, fmt.Errorf("manager %s began with %T and not with a welcome: %w", nodeID, first.Message, errdefs.ErrFailedPrecondition)
	}
	if welcome.Epoch < epoch {
		return nil, nil, fmt.Errorf("manager %s has epoch %d of the cluster, but this node has seen epoch %d: %w", nodeID, welcome.Epoch, epoch, errdefs.ErrFailedPrecondition)
	}
	if welcome.Epoch > epoch { // the node's first session, with epoch 0; later, managers refuse any epoch but theirs
		c.contact.see(welcome.Epoch, 0)
		c.deps.State.SetEpoch(welcome.Epoch)
		c.deps.State.SetIndex(0)
	}
	return stream, welcome, nil
}
