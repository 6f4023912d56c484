package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"swarm/internal/bounds"
	swarmv1 "swarm/proto/swarm/v1"
)

// session is one stream to one manager. Its reader, its writer, its watchdog and who waits for what came to be in
// force end together.
type session struct {
	c       *Client
	stream  swarmv1.Dispatcher_SessionClient
	welcome *swarmv1.Welcome
	period  time.Duration // of heartbeats
	lease   time.Duration // of single-writer tasks, after a heartbeat that was confirmed
	greeted time.Duration // before the session was recorded, since boot

	mu   sync.Mutex               // guards sent
	sent map[uint64]time.Duration // when heartbeats were sent that are not confirmed, since boot

	assigned   uint64        // sequence of the last assignments; the reader's
	beat       uint64        // sequence of the last heartbeat; the writer's
	answered   atomic.Uint64 // sequence of the last heartbeat answered
	heard      atomic.Int64  // Unix ns of the manager's last message
	applied    atomic.Uint64 // sequence of the last assignments that the worker has
	fresh      chan struct{} // capacity 1: applied has grown
	programmed chan uint64   // sequences to acknowledge
}

// session serves one stream until it ends, and says how long it lasted after the manager's welcome.
func (c *Client) session(stop context.Context, nodeID string) (lasted time.Duration, err error) {
	// The stream outlives stop, for a goodbye.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(stop))
	defer cancel(nil)
	abandon := context.AfterFunc(stop, func() { cancel(context.Cause(stop)) })
	defer abandon()
	late := time.AfterFunc(c.cfg.ConnectTimeout, func() {
		cancel(fmt.Errorf("no welcome within %s: %w", c.cfg.ConnectTimeout, errdefs.ErrUnavailable))
	})
	defer late.Stop()
	greeted := c.cfg.SinceBoot()
	stream, welcome, err := c.welcome(ctx, nodeID)
	if err == nil && (!late.Stop() || !abandon()) {
		err = context.Cause(ctx)
	}
	if err != nil {
		return 0, cause(ctx, err)
	}
	began := time.Now()
	c.deps.Log.Info("session", "node", nodeID, "session", welcome.SessionEpoch)
	c.reports.begin()
	s := &session{
		c: c, stream: stream, welcome: welcome, fresh: make(chan struct{}, 1), programmed: make(chan uint64),
		lease: bounds.Lease(welcome.GetLease().AsDuration(), defaultLease), greeted: greeted, sent: make(map[uint64]time.Duration),
	}
	s.period = bounds.Heartbeat(welcome.GetHeartbeatPeriod().AsDuration(), defaultHeartbeat)
	s.heard.Store(began.UnixNano())
	c.leaseLength.Store(int64(s.lease))
	c.contact.set(nodeID, began)
	defer func() { c.contact.set("", time.Unix(0, s.heard.Load())) }()
	if c.deps.OnContact != nil {
		c.deps.OnContact(nodeID, true)
		defer c.deps.OnContact(nodeID, false)
	}
	g, gctx := errgroup.WithContext(stop)
	read, wrote := make(chan struct{}), make(chan struct{})
	g.Go(func() error { // ends the stream, and so all that wait for it, when one has failed
		<-gctx.Done()
		if stop.Err() != nil {
			s.goodbye(read, wrote)
		}
		cancel(context.Cause(gctx))
		return nil
	})
	g.Go(func() error { defer close(read); return s.read() })
	g.Go(func() error { defer close(wrote); return s.write(gctx) })
	g.Go(func() error { return s.watch(gctx) })
	g.Go(func() error { return s.act(gctx) })
	err = g.Wait()
	return time.Since(began), cause(ctx, err)
}

// goodbyePatience bounds how long a manager's answer to a goodbye may hold up a daemon that stops.
const goodbyePatience = time.Second

// goodbye ends the stream in order, so that a daemon that is restarted is not taken for a host that is gone.
func (s *session) goodbye(read, wrote <-chan struct{}) {
	late := time.NewTimer(goodbyePatience)
	defer late.Stop()
	select {
	case <-wrote:
	case <-late.C:
		return
	}
	_ = s.stream.CloseSend() // A stream that has ended needs none.
	select {
	case <-read:
	case <-late.C:
	}
}

// cause prefers why we ended the stream over what the stream says about it.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && !errors.Is(c, context.Canceled) {
		return c
	}
	return err
}

// read acts on what the manager sends. It never returns nil.
func (s *session) read() error {
	for {
		msg, err := s.stream.Recv()
		if err != nil {
			return fmt.Errorf("session ended: %w", err)
		}
		s.heard.Store(time.Now().UnixNano())
		switch m := msg.Message.(type) {
		case *swarmv1.ToWorker_Assignments:
			if err := s.assignments(m.Assignments); err != nil {
				return err
			}
		case *swarmv1.ToWorker_StatusAck:
			s.c.acked(m.StatusAck.GetSequence())
		case *swarmv1.ToWorker_DepartureAck:
			s.c.departed()
		case *swarmv1.ToWorker_HeartbeatAck:
			s.answered.Store(m.HeartbeatAck.GetSequence())
			if err := s.confirmed(m.HeartbeatAck.GetConfirmed()); err != nil {
				return err
			}
		case *swarmv1.ToWorker_Node:
			if s.c.deps.OnNode != nil {
				s.c.deps.OnNode(m.Node)
			}
		}
	}
}

// assignments checks the order and age of a message before the worker acts on it.
func (s *session) assignments(msg *swarmv1.Assignments) error {
	epoch, index := s.c.contact.seen()
	switch {
	case s.assigned == 0 && !msg.Complete:
		return fmt.Errorf("assignments begin with a change and not with a complete set: %w", errdefs.ErrAborted)
	case s.assigned != 0 && msg.Sequence != s.assigned+1:
		return fmt.Errorf("assignments %d came after %d: one is missing: %w", msg.Sequence, s.assigned, errdefs.ErrAborted)
	case msg.Index < index:
		return fmt.Errorf("manager is behind: its state is of index %d, this node has acted on %d: %w", msg.Index, index, errdefs.ErrUnavailable)
	}
	begins := s.assigned == 0
	s.assigned = msg.Sequence
	msg, left := bounds.Assignments(msg)
	for _, why := range left {
		s.c.sampled.Log(slog.LevelError, "assignments", "an assignment is not used: it is not well formed", "err", why)
	}
	s.c.apply(msg)
	if begins {
		// Only now: whatever the managers decided while this node was fenced is known, and tasks that went elsewhere stop.
		if err := s.c.deps.Lease.Begin(s.greeted + s.lease); err != nil {
			return err
		}
	}
	s.assigns(msg.Sequence)
	if msg.Index > index {
		s.c.contact.see(epoch, msg.Index)
		s.c.deps.State.SetIndex(msg.Index)
	}
	return nil
}

// write sends heartbeats, and whatever there is to say as soon as it may be said. It never returns nil.
func (s *session) write(ctx context.Context) error {
	ticker := time.NewTicker(s.period)
	defer ticker.Stop()
	var unacked int // heartbeats for which the same report waits
	var waiting uint64
	held, departing := closedChan(), (<-chan struct{})(s.c.departing)
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			if err = s.heartbeat(); err == nil {
				err = s.report(true)
			}
			if sequence := s.c.reports.unackedSequence(); sequence != waiting || sequence == 0 {
				waiting, unacked = sequence, 0
			} else if unacked++; err == nil && unacked > ackPatience {
				err = fmt.Errorf("status report %d was not acknowledged for %d heartbeats: %w", sequence, unacked, errdefs.ErrUnavailable)
			}
		case <-s.c.reports.wake:
			err = s.report(false)
		case sequence := <-s.programmed:
			err = s.stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_InForce{InForce: &swarmv1.AssignmentsAck{Sequence: sequence}}})
		case <-departing:
			departing = nil
			err = s.stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Departure{Departure: &swarmv1.Departure{}}})
		case <-s.c.redescribe:
			err = s.stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Description{Description: s.c.describe()}})
		case <-held:
			held, err = s.holdings(ctx)
		}
		if err != nil {
			return err
		}
	}
}

const (
	// defaultLease is the managers' default session timeout.
	defaultLease     = 10 * time.Second
	defaultHeartbeat = time.Second
	// missedHeartbeats unanswered in a row end a session: the managers count the same way.
	missedHeartbeats = 3
)

// ackPatience is how many heartbeats a report may wait: a manager that cannot commit for so long is cut off from the
// leader, and should have ended the session itself.
const ackPatience = 10

// watch fails when the last heartbeats were not answered. It is no part of the writer, which a manager that reads nothing
// any more keeps from looking. Periods are counted, not time: a node that was suspended must not blame the manager.
func (s *session) watch(ctx context.Context) error {
	ticker := time.NewTicker(s.period)
	defer ticker.Stop()
	var answered uint64
	for missed := 0; missed <= missedHeartbeats; missed++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		if now := s.answered.Load(); now != answered {
			answered, missed = now, 0
		}
	}
	return fmt.Errorf("manager has not answered %d heartbeats: %w", missedHeartbeats, errdefs.ErrUnavailable)
}

// confirmed renews the lease from when a heartbeat was sent that the leader has heard of. A lease that has run out begins
// again only with a session, and its complete assignments: an error ends this one.
func (s *session) confirmed(sequence uint64) error {
	s.mu.Lock()
	at, ok := s.sent[sequence]
	maps.DeleteFunc(s.sent, func(n uint64, _ time.Duration) bool { return n <= sequence })
	s.mu.Unlock()
	switch {
	case !ok || s.assigned == 0:
		return nil
	case s.c.deps.Lease.Left() <= 0:
		return fmt.Errorf("no heartbeat was confirmed for %s, the lease of this node: %w", s.lease, errdefs.ErrAborted)
	}
	s.c.renew(at + s.lease)
	return nil
}

func (s *session) heartbeat() error {
	s.beat++
	s.mu.Lock()
	s.sent[s.beat] = s.c.cfg.SinceBoot()
	s.mu.Unlock()
	return s.stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Heartbeat{Heartbeat: &swarmv1.Heartbeat{Sequence: s.beat}}})
}

// report sends the next report if there is one; with flush also of passing states.
func (s *session) report(flush bool) error {
	r := s.c.reports.next(s.welcome.SessionEpoch, flush)
	if r == nil {
		return nil
	}
	return s.stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Status{Status: r}})
}

// holdings tells which images the node has, and returns the channel of the next change.
func (s *session) holdings(ctx context.Context) (<-chan struct{}, error) {
	changed := s.c.deps.Images.Changed()
	held, err := s.c.deps.Images.List(ctx)
	if err != nil { // the runtime is not up yet, or starts again: it will report a change
		s.c.deps.Log.Warn("list images", "err", err)
		return changed, nil
	}
	report := &swarmv1.ImageReport{}
	for _, i := range held {
		report.Held = append(report.Held, i.Digest)
	}
	report, _ = bounds.Images(report) // Managers would leave out the rest.
	return changed, s.stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Images{Images: report}})
}

func closedChan() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
