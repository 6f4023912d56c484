package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/internal/transport"
	"swarm/manager/ca"
	"swarm/manager/dispatch/assignment"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// farewellTimeout bounds how long a session that is over waits for the worker to accept the message
// that is being sent.
const farewellTimeout = 2 * time.Second

// serve sends until the session is over. If the worker reads nothing, the stream's Send blocks
// until the call ends, and gRPC keeps the messages in memory until the connection ends, which may
// be much later. So serve waits for one message no longer than the session timeout, and no longer
// than farewellTimeout once the session is over. Then it closes the worker's connection.
func (x *session) serve(ctx context.Context, first *swarmv1.ToWorker) error {
	sender := make(chan error, 1)
	go func() {
		if err := x.sendMessage(first); err != nil {
			sender <- errBroken
			return
		}
		sender <- x.send(ctx)
	}()
	var err error
	select {
	case err = <-sender:
		return err
	case <-x.stuck:
		err = errdefs.ErrUnavailable.WithMessage("the worker has taken no message for " + x.timeout.String() + ": the session is over")
		x.server.sampled.Log(slog.LevelWarn, "stuck "+x.node,
			"session of a worker that does not read is closed", "node", x.node, "err", err)
	case <-x.done:
		late := time.NewTimer(farewellTimeout)
		defer late.Stop()
		select {
		case err = <-sender:
			return err
		case <-late.C:
			err = x.reason()
		}
	}
	if who, callerErr := transport.FromContext(ctx); callerErr == nil {
		who.CloseConn()
	}
	return err
}

// sendMessage sends one message. Only one goroutine calls it, and does not call it again after an
// error. Therefore stuck is closed at most once.
func (x *session) sendMessage(m *swarmv1.ToWorker) error {
	late := time.AfterFunc(x.timeout, func() { close(x.stuck) })
	err := x.stream.Send(m)
	if !late.Stop() { // serve has given the session up, so no message may follow
		return errBroken
	}
	return err
}

// send sends everything that concerns the worker until the session is over. Changes that come while
// a message is being sent go into the next message, so messages get larger and fewer under load.
func (x *session) send(ctx context.Context) error {
	out := &sender{session: x, sent: assignment.NewSentSet(x.node, x.server.assignments)}
	silence := time.NewTimer(x.timeout)
	defer silence.Stop()
	for {
		if err := out.sendAll(x.take()); err != nil {
			return errBroken
		}
		select {
		case <-x.wake:
		case <-x.done:
			return x.farewell()
		case <-ctx.Done():
			return errBroken
		case <-silence.C:
			left := x.timeout - time.Since(x.lastHeard())
			if left <= 0 {
				x.close(errdefs.ErrUnavailable.WithMessage("no heartbeat for " + x.timeout.String() + ": the session is over"))
				return x.farewell()
			}
			silence.Reset(left)
		}
	}
}

// work is what the sender has to send.
type work struct {
	complete  bool
	dirty     []assignment.Ref
	view      *table.View // nil: there are no assignments and no node update to send
	acks      []uint64
	heartbeat *swarmv1.HeartbeatAck // nil: there is no heartbeat to answer or to confirm
	departing bool                  // the worker waits until the row of its node says DOWN
	// generation counts the marks of the session that this work covers.
	generation uint64
}

// take returns what has come up since the last call.
func (x *session) take() work {
	x.mu.Lock()
	defer x.mu.Unlock()
	w := work{
		complete: x.complete, dirty: x.dirty, view: x.view, acks: x.acks,
		generation: x.progress.generation, departing: x.departing,
	}
	if w.view != nil {
		// The first view of a session may be newer than the view of its next mark. A worker must
		// never get an older state after a newer one.
		if w.view.Index() < x.viewIndex {
			w.view = x.newest()
		}
		x.viewIndex = w.view.Index()
	}
	// The view is set to nil too, because an old view keeps removed rows in memory.
	x.complete, x.dirty, x.view, x.acks = false, nil, nil, nil
	if x.heartbeat > x.heartbeatAnswered || x.confirmed > x.confirmedSent {
		w.heartbeat = &swarmv1.HeartbeatAck{Sequence: x.heartbeat, Confirmed: x.confirmed}
		x.heartbeatAnswered, x.confirmedSent = x.heartbeat, x.confirmed
	}
	return w
}

// sender is the state of a session's sending goroutine.
type sender struct {
	*session
	sent           *assignment.SentSet
	sequence       uint64 // of the newest assignments
	departureAcked bool
}

// sendAll sends one piece of work.
func (s *sender) sendAll(w work) error {
	if err := s.sendAcks(w); err != nil {
		return err
	}
	if w.complete || slices.Contains(w.dirty, assignment.Ref{Kind: assignment.KindNode}) {
		if err := s.sendMessage(nodeUpdate(w.view, s.node)); err != nil {
			return err
		}
	}
	if err := s.sendAssignments(w); err != nil {
		return err
	}
	s.mu.Lock()
	s.progress.covered(w.generation, s.sequence, time.Now())
	s.mu.Unlock()
	if w.departing && !s.departureAcked && isDown(s.server.deps.Store.View(), s.node) {
		s.departureAcked = true
		return s.sendMessage(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_DepartureAck{DepartureAck: &swarmv1.DepartureAck{}}})
	}
	return nil
}

func (s *sender) sendAcks(w work) error {
	if w.heartbeat != nil {
		if err := s.sendMessage(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_HeartbeatAck{HeartbeatAck: w.heartbeat}}); err != nil {
			return err
		}
	}
	for _, seq := range w.acks {
		if err := s.sendMessage(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_StatusAck{StatusAck: &swarmv1.StatusAck{Sequence: seq}}}); err != nil {
			return err
		}
	}
	return nil
}

// sendAssignments sends what has changed for the node. A complete set is sent even when it is
// empty.
func (s *sender) sendAssignments(w work) error {
	var changes []*swarmv1.AssignmentChange
	if w.complete {
		changes = s.sent.Complete(w.view)
	} else if len(w.dirty) > 0 {
		changes = s.sent.Update(w.view, w.dirty)
	}
	if len(changes) == 0 && !w.complete {
		return nil
	}
	s.sequence++
	s.mu.Lock()
	s.assignmentsSent = s.sequence
	s.mu.Unlock()
	return s.sendMessage(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_Assignments{Assignments: &swarmv1.Assignments{
		Sequence: s.sequence, Complete: w.complete, Index: w.view.Index(), Changes: changes,
	}}})
}

// farewell sends the last message of a session that either side has closed. It tells a node that
// was removed that it was. The other nodes get an empty message and ignore it. That message makes
// farewell wait until the worker has read nearly everything before it: gRPC blocks Send while more
// than 64 KiB are unread. If the stream ended earlier, these messages would be lost.
func (x *session) farewell() error {
	err := x.reason()
	last := &swarmv1.ToWorker{}
	if errors.Is(err, errRemoved) {
		last.Message = &swarmv1.ToWorker_Node{Node: &swarmv1.NodeUpdate{Removed: true}}
	}
	_ = x.sendMessage(last)
	return err
}

func isDown(view *table.View, node string) bool {
	st, ok := view.NodeStates.Get(node)
	return ok && st.GetState() == swarmv1.NodeState_DOWN
}

// nodeUpdate returns what a node must know that is not an assignment.
func nodeUpdate(view *table.View, node string) *swarmv1.ToWorker {
	row, _ := view.Nodes.Get(node)
	return &swarmv1.ToWorker{Message: &swarmv1.ToWorker_Node{Node: &swarmv1.NodeUpdate{
		Node: row, Managers: ca.Managers(view), Bundle: view.Cluster().GetRootCa().GetBundle(),
	}}}
}

// welcome returns the first message of a session.
func welcome(manager string, x *session, c *swarmv1.Cluster) *swarmv1.ToWorker {
	beat, _ := paceOf(c)
	return &swarmv1.ToWorker{Message: &swarmv1.ToWorker_Welcome{Welcome: &swarmv1.Welcome{
		ManagerId: manager, SessionEpoch: x.epoch, HeartbeatPeriod: durationpb.New(beat), Epoch: c.GetEpoch(),
		Lease: durationpb.New(x.lease),
	}}}
}
