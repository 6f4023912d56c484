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

// session is one stream to one manager. serve starts its goroutines, which end together: the
// reader, the writer, the watchdog, the one that waits until assignments are programmed, and the
// one that ends the stream.
type session struct {
	c       *Client
	stream  swarmv1.Dispatcher_SessionClient
	welcome *swarmv1.Welcome
	period  time.Duration // of heartbeats
	lease   time.Duration // of single-writer tasks, counted from a confirmed heartbeat
	greeted time.Duration // when this node opened the session, since boot

	mu   sync.Mutex               // guards sent
	sent map[uint64]time.Duration // when heartbeats were sent that are not confirmed, since boot

	lastAssigned uint64        // sequence of the last assignments; the reader's
	beat         uint64        // sequence of the last heartbeat; the writer's
	answered     atomic.Uint64 // sequence of the last heartbeat answered
	heard        atomic.Int64  // Unix ns of the manager's last message
	applied      atomic.Uint64 // sequence of the last assignments that the worker has
	appliedGrew  chan struct{} // capacity 1: applied has grown
	programmed   chan uint64   // sequences to acknowledge
}

// serve opens a stream and serves it until it ends, or until the context stop ends. It returns how
// long the stream lasted after the manager's welcome.
func (c *Client) serve(stop context.Context, nodeID string) (lasted time.Duration, err error) {
	// Until the welcome, the stream is cancelled when stop ends or the timeout passes. After the
	// welcome, goodbye closes it in order when stop ends. So the stream has a context of its own.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(stop))
	defer cancel(nil)
	detach := context.AfterFunc(stop, func() { cancel(context.Cause(stop)) })
	timeout := time.AfterFunc(c.cfg.ConnectTimeout, func() {
		cancel(fmt.Errorf("no welcome within %s: %w", c.cfg.ConnectTimeout, errdefs.ErrUnavailable))
	})
	greeted := c.cfg.SinceBoot()
	stream, welcome, err := c.welcome(ctx, nodeID)
	inTime, detached := timeout.Stop(), detach() // false if the call came too late to prevent the cancellation
	if err == nil && !(inTime && detached) {
		err = context.Cause(ctx)
	}
	if err != nil {
		return 0, cause(ctx, err)
	}
	began := time.Now()
	c.deps.Log.Info("session begins", "node", nodeID, "epoch", welcome.SessionEpoch)
	c.reports.begin()
	s := &session{
		c: c, stream: stream, welcome: welcome, appliedGrew: make(chan struct{}, 1), programmed: make(chan uint64),
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
	g.Go(func() error { // ends the stream when stop or another goroutine has ended, so that the reader ends too
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
	g.Go(func() error { return s.acknowledgeProgrammed(gctx) })
	err = g.Wait()
	return time.Since(began), cause(ctx, err)
}

// goodbyeTimeout is how long a daemon that stops waits for the manager to end the stream.
const goodbyeTimeout = time.Second

// goodbye closes the stream once the writer has ended, and waits until the manager has ended it
// too. The manager then knows that this daemon stopped on purpose. A stream that breaks makes the
// manager suspect that the host has failed.
func (s *session) goodbye(read, wrote <-chan struct{}) {
	late := time.NewTimer(goodbyeTimeout)
	defer late.Stop()
	select {
	case <-wrote:
	case <-late.C:
		return
	}
	_ = s.stream.CloseSend() // It fails only if the stream has ended already.
	select {
	case <-read:
	case <-late.C:
	}
}

// cause returns why this node ended the stream, or the error of the stream if the node did not.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil && !errors.Is(c, context.Canceled) {
		return c
	}
	return err
}

// read acts on the messages of the manager. It never returns nil.
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
			s.c.setDepartureAcked()
		case *swarmv1.ToWorker_HeartbeatAck:
			s.answered.Store(m.HeartbeatAck.GetSequence())
			if err := s.renewLease(m.HeartbeatAck.GetConfirmed()); err != nil {
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
	case s.lastAssigned == 0 && !msg.Complete:
		return fmt.Errorf("the first assignments of the session are not a complete set: %w", errdefs.ErrAborted)
	case s.lastAssigned != 0 && msg.Sequence != s.lastAssigned+1:
		return fmt.Errorf("assignments %d came after %d, so some are missing: %w", msg.Sequence, s.lastAssigned, errdefs.ErrAborted)
	case msg.Index < index:
		return fmt.Errorf("manager is behind: it has index %d, but this node has applied index %d: %w", msg.Index, index, errdefs.ErrUnavailable)
	}
	first := s.lastAssigned == 0
	s.lastAssigned = msg.Sequence
	msg, dropped := bounds.Assignments(msg)
	for _, why := range dropped {
		s.c.sampled.Log(slog.LevelError, "assignments", "an assignment is not used: it is not well formed", "err", why)
	}
	s.c.apply(msg)
	if first {
		// The lease begins only now. The managers may have given tasks to other nodes while this
		// node had no lease, and these tasks have been told to stop.
		if err := s.c.deps.Lease.Begin(s.greeted + s.lease); err != nil {
			return err
		}
	}
	s.setApplied(msg.Sequence)
	if msg.Index > index {
		s.c.contact.see(epoch, msg.Index)
		s.c.deps.State.SetIndex(msg.Index)
	}
	return nil
}

// write sends heartbeats, and statuses, acknowledgements and descriptions when there are any. It
// never returns nil.
func (s *session) write(ctx context.Context) error {
	ticker := time.NewTicker(s.period)
	defer ticker.Stop()
	var waiting uint64            // the report that was not acknowledged at the last heartbeat; 0: none
	var waited int                // for how many heartbeats this report has waited
	imagesChanged := closedChan() // closed already, because the first report of the images is due at once
	var volumesChanged <-chan struct{}
	if s.c.deps.Volumes != nil {
		volumesChanged = closedChan()
	}
	departing := (<-chan struct{})(s.c.departing)
	for {
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			if err = s.heartbeat(); err == nil {
				err = s.report(true)
			}
			sequence := s.c.reports.unackedSequence()
			if sequence == 0 || sequence != waiting {
				waited = 0
			} else {
				waited++
			}
			waiting = sequence
			if err == nil && waited > maxUnacked {
				err = fmt.Errorf("status report %d was not acknowledged for %d heartbeats: %w", sequence, waited, errdefs.ErrUnavailable)
			}
		case <-s.c.reports.wake:
			err = s.report(false)
		case sequence := <-s.programmed:
			err = s.stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Programmed{Programmed: &swarmv1.Programmed{Sequence: sequence}}})
		case <-departing:
			departing = nil // send it once
			err = s.stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Departure{Departure: &swarmv1.Departure{}}})
		case <-s.c.redescribe:
			err = s.stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Description{Description: s.c.describe()}})
		case <-imagesChanged:
			imagesChanged, err = s.reportImages(ctx)
		case <-volumesChanged:
			volumesChanged, err = s.reportVolumes(ctx)
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
	// missedHeartbeats is how many heartbeats in a row without an answer end a session. The
	// managers count the same way.
	missedHeartbeats = 3
)

// maxUnacked is for how many heartbeats a report may wait for its acknowledgement. A manager that
// cannot commit for a longer time has no contact with the leader, and should have ended the session
// itself.
const maxUnacked = 10

// watch returns an error when missedHeartbeats heartbeats in a row have no answer. It is not part
// of the writer, because a manager that reads nothing any more blocks the writer. It counts
// heartbeat periods, not time: after a suspension of this node much time has passed, but the
// manager could not answer in it.
func (s *session) watch(ctx context.Context) error {
	ticker := time.NewTicker(s.period)
	defer ticker.Stop()
	var answered uint64
	missed := -1 // The first tick misses no answer: the writer sends the first heartbeat at that tick.
	for missed < missedHeartbeats {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		missed++
		if now := s.answered.Load(); now != answered {
			answered, missed = now, 0
		}
	}
	return fmt.Errorf("manager has not answered %d heartbeats: %w", missedHeartbeats, errdefs.ErrUnavailable)
}

// renewLease renews the lease of single-writer tasks. It counts from the time at which the
// confirmed heartbeat was sent. If the lease has run out it returns an error, which ends the
// session: a lease begins again only with a new session and its complete set of assignments.
func (s *session) renewLease(sequence uint64) error {
	s.mu.Lock()
	at, ok := s.sent[sequence]
	maps.DeleteFunc(s.sent, func(n uint64, _ time.Duration) bool { return n <= sequence })
	s.mu.Unlock()
	switch {
	case !ok || s.lastAssigned == 0:
		return nil
	case s.c.deps.Lease.Left() <= 0:
		return fmt.Errorf("the lease of this node has run out: no heartbeat was confirmed for %s: %w", s.lease, errdefs.ErrAborted)
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

// report sends the next report if there is one. With flush it also sends statuses that are not
// urgent.
func (s *session) report(flush bool) error {
	r := s.c.reports.next(s.welcome.SessionEpoch, flush)
	if r == nil {
		return nil
	}
	return s.stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Status{Status: r}})
}

// reportImages sends which images the node holds. It returns a channel that the next change closes.
func (s *session) reportImages(ctx context.Context) (<-chan struct{}, error) {
	changed := s.c.deps.Images.Changed()
	held, err := s.c.deps.Images.List(ctx)
	if err != nil { // The runtime does not answer. It closes changed once it does.
		s.c.deps.Log.Warn("list images", "err", err)
		return changed, nil
	}
	report := &swarmv1.ImageReport{}
	for _, i := range held {
		report.Held = append(report.Held, i.Digest)
	}
	report, _ = bounds.Images(report) // It cuts the list to the length that managers accept.
	return changed, s.stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Images{Images: report}})
}

// reportVolumes sends which volumes the node has. It returns a channel that the next change closes.
func (s *session) reportVolumes(ctx context.Context) (<-chan struct{}, error) {
	changed := s.c.deps.Volumes.Changed()
	held, err := s.c.deps.Volumes.List(ctx)
	if err != nil {
		s.c.deps.Log.Warn("list volumes", "err", err)
		return changed, nil
	}
	report, dropped := bounds.Volumes(&swarmv1.VolumeReport{Held: held}) // what managers accept
	if dropped != "" {
		s.c.sampled.Log(slog.LevelWarn, "volumes", "the managers do not learn of all volumes of this node", "left out", dropped)
	}
	return changed, s.stream.Send(&swarmv1.FromWorker{Message: &swarmv1.FromWorker_Volumes{Volumes: report}})
}

func closedChan() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
