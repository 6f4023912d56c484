package dispatch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"

	"swarm/internal/bounds"
	"swarm/internal/transport"
	"swarm/manager/ca"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// farewellPatience bounds how long a session that is over waits for the worker to take the message that is on its way.
const farewellPatience = 2 * time.Second

// session is one worker's stream. One goroutine sends, another receives; the handler's own waits for the first.
type session struct {
	node  string
	epoch uint64
	addr  string // the worker's host, as seen from here
	// lease of single-writer tasks that the worker is granted: no longer than the one in its node's row.
	lease  time.Duration
	stream swarmv1.Dispatcher_SessionServer
	server *Server
	latest func() *raftstore.View // the store's newest view
	wake   chan struct{}          // capacity 1: there is something to send
	over   chan struct{}          // closed by close
	stuck  chan struct{}          // closed when the worker has not taken a message for as long as patience
	// patience is the session timeout of the cluster.
	patience time.Duration

	mu      sync.Mutex // guards the rest
	err     error      // why it is over
	isOver  bool
	whole   bool // send a complete set
	dirty   []ref
	view    *raftstore.View // what to send, whole or dirty, is read from it; nil when there is nothing
	given   uint64          // index of the newest view that take has returned
	acks    []uint64
	beat    time.Time
	beatSeq uint64 // newest heartbeat
	// answered is the newest heartbeat that was answered, confirmed the newest that the leader has heard of.
	answered, confirmed, toldConfirmed uint64
	departs                            bool   // the worker's host is going down
	said                               uint64 // sequence of the newest status report
	stored                             uint64 // of the newest one that is acknowledged
	sending                            uint64 // of the newest assignments that are on their way, or there
	leased                             bool   // the worker has no lease of an earlier session any more

	progress progress
}

// newSession makes the session that a node's row says has begun.
func newSession(s *Server, row *swarmv1.NodeState, stream swarmv1.Dispatcher_SessionServer) *session {
	x := &session{
		node: row.GetNodeId(), epoch: row.GetSessionEpoch(), addr: row.GetAddr(), lease: row.GetLease().AsDuration(), stream: stream, server: s, beat: time.Now(), whole: true,
		wake: make(chan struct{}, 1), over: make(chan struct{}), stuck: make(chan struct{}),
	}
	if s != nil {
		x.latest = s.deps.Store.View
	}
	return x
}

// close ends the session with what the worker is told. The first reason stays.
func (x *session) close(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.isOver {
		x.isOver, x.err = true, err
		close(x.over)
	}
}

// ended reports whether the session is over, for whatever reason.
func (x *session) ended() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.isOver
}

func (x *session) reason() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

func (x *session) nudge() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// mark asks the sender to look again at what the refs name, in this view or a newer one.
func (x *session) mark(view *raftstore.View, refs ...ref) {
	x.mu.Lock()
	x.dirty = append(x.dirty, refs...)
	x.progress.mark(time.Now())
	x.newer(view)
	x.mu.Unlock()
	x.nudge()
}

// markAll asks for a complete set.
func (x *session) markAll(view *raftstore.View) {
	x.mu.Lock()
	x.whole = true
	x.progress.mark(time.Now())
	x.newer(view)
	x.mu.Unlock()
	x.nudge()
}

func (x *session) newer(view *raftstore.View) {
	if x.view == nil || view.Index() > x.view.Index() {
		x.view = view
	}
}

// ack tells the worker that a report is committed.
func (x *session) ack(sequence uint64) {
	x.mu.Lock()
	x.acks, x.stored = append(x.acks, sequence), max(x.stored, sequence)
	x.mu.Unlock()
	x.nudge()
}

// lastBeat is when the worker was last heard.
func (x *session) lastBeat() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.beat
}

// depart notes that the worker's host is going down. The leader concludes from it that the node is down.
func (x *session) depart() {
	x.mu.Lock()
	x.departs = true
	x.mu.Unlock()
	x.nudge()
	x.server.tellNow()
}

// departing says whether the worker's host is going down.
func (x *session) departing() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.departs
}

// work is what the sender finds to do.
type work struct {
	whole bool
	dirty []ref
	view  *raftstore.View
	acks  []uint64
	beat  *swarmv1.HeartbeatAck // nil: there is nothing to answer
	marks uint64                // that this is the work of
	// departs: the worker wants to know when its node is down for everybody.
	departs bool
}

func (x *session) take() work {
	x.mu.Lock()
	defer x.mu.Unlock()
	w := work{whole: x.whole, dirty: x.dirty, view: x.view, acks: x.acks, marks: x.progress.marks, departs: x.departs}
	if w.view != nil {
		// A session that begins is marked with a newer view than the one that the follower of the
		// store is about to mark it with. A worker must never be told of an older state.
		if w.view.Index() < x.given {
			w.view = x.latest()
		}
		x.given = w.view.Index()
	}
	// A view that is kept while nothing changes keeps rows that were removed since.
	x.whole, x.dirty, x.view, x.acks = false, nil, nil, nil
	if x.beatSeq > x.answered || x.confirmed > x.toldConfirmed {
		w.beat = &swarmv1.HeartbeatAck{Sequence: x.beatSeq, Confirmed: x.confirmed}
		x.answered, x.toldConfirmed = x.beatSeq, x.confirmed
	}
	return w
}

// receive takes the worker's messages until the stream ends, or one does not keep to the protocol.
func (x *session) receive() {
	for {
		msg, err := x.stream.Recv()
		if errors.Is(err, io.EOF) {
			x.close(nil) // a goodbye
			return
		}
		if err != nil {
			x.close(errBroken)
			return
		}
		x.heard()
		if err := x.hear(msg); err != nil {
			x.server.sampled.Log(slog.LevelWarn, "protocol "+x.node, "session of a worker that does not keep to the protocol is closed", "node", x.node, "err", err)
			x.close(err)
			return
		}
	}
}

// hear acts on a message, as far as it is within bounds. An error ends the session.
func (x *session) hear(msg *swarmv1.FromWorker) error {
	row, _ := x.server.deps.Store.View().Nodes.Get(x.node)
	msg, left, err := bounds.FromWorker(msg, row.GetHostname())
	if err != nil {
		return err
	}
	x.server.leftOut(x.node, left)
	switch m := msg.GetMessage().(type) {
	case *swarmv1.FromWorker_Hello:
		return errdefs.ErrInvalidArgument.WithMessage("a session has one hello, and this is the second")
	case *swarmv1.FromWorker_Heartbeat:
		x.mu.Lock()
		x.beatSeq = m.Heartbeat.GetSequence()
		x.mu.Unlock()
		x.nudge()
	case *swarmv1.FromWorker_InForce:
		return x.acted(m.InForce.GetSequence())
	case *swarmv1.FromWorker_Departure:
		x.depart()
	case *swarmv1.FromWorker_Status:
		if err := x.says(m.Status.GetSequence()); err != nil {
			return err
		}
		x.server.reports.add(&entry{session: x, status: m.Status})
	case *swarmv1.FromWorker_Description:
		x.server.reports.add(&entry{session: x, description: m.Description})
	case *swarmv1.FromWorker_Images:
		x.server.reports.add(&entry{session: x, images: m.Images})
	}
	return nil
}

// says notes that a status report came. A worker sends one at a time: the next when the last is acknowledged.
func (x *session) says(sequence uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.said != x.stored:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("status report %d came before report %d was acknowledged", sequence, x.said))
	case sequence != x.said+1:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("status report %d came after %d", sequence, x.said))
	}
	x.said = sequence
	return nil
}

// sent notes that the worker has been told all that was marked up to marks, the last of it in the assignments of sequence.
func (x *session) sent(marks, sequence uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.progress.sent(marks, sequence, time.Now())
}

// acted notes that the worker has acted on assignments, which it must have been sent.
func (x *session) acted(sequence uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if sequence > x.sending {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("assignments %d are acknowledged, and %d were the last", sequence, x.sending))
	}
	x.progress.acted(sequence)
	x.leased = true
	return nil
}

// newest is the newest heartbeat.
func (x *session) newest() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.beatSeq
}

// confirm tells the worker that the leader has heard of a heartbeat.
func (x *session) confirm(sequence uint64) {
	x.mu.Lock()
	news := sequence > x.confirmed
	x.confirmed = max(x.confirmed, sequence)
	x.mu.Unlock()
	if news {
		x.nudge()
	}
}

// leaseInForce is the lease that the worker holds, 0 while it may still hold one of an earlier session.
func (x *session) leaseInForce() time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.leased {
		return 0
	}
	return x.lease
}

// heard: whatever comes from a worker shows that it lives.
func (x *session) heard() {
	x.mu.Lock()
	x.beat = time.Now()
	x.mu.Unlock()
}

// errBroken is the end of a session whose connection broke: the worker will not read it.
var errBroken = errdefs.ErrUnavailable.WithMessage("the connection to the worker broke")

// serve sends until the session is over. A worker that reads nothing blocks a message for as long as its stream is open,
// and what is marked meanwhile is kept. So serve waits for such a message no longer than the patience, and shortly once the
// session is over. Then it hangs up on the worker, because gRPC keeps a message that is not taken for as long as the
// connection lives, though the call has ended.
func (x *session) serve(ctx context.Context, first *swarmv1.ToWorker) error {
	done := make(chan error, 1)
	go func() {
		if err := x.tell(first); err != nil {
			done <- errBroken
			return
		}
		done <- x.send(ctx, x.patience)
	}()
	err := errdefs.ErrUnavailable.WithMessage("the worker has taken no message for " + x.patience.String() + ": the session is over")
	select {
	case err := <-done:
		return err
	case <-x.stuck:
		x.server.sampled.Log(slog.LevelWarn, "stuck "+x.node, "session of a worker that does not read is closed", "node", x.node, "err", err)
	case <-x.over:
		late := time.NewTimer(farewellPatience)
		defer late.Stop()
		select {
		case err := <-done:
			return err
		case <-late.C:
			err = x.reason()
		}
	}
	if who, known := transport.FromContext(ctx); known == nil {
		who.HangUp()
	}
	return err
}

// tell sends a message. It is called by one goroutine, until it fails.
func (x *session) tell(m *swarmv1.ToWorker) error {
	late := time.AfterFunc(x.patience, func() { close(x.stuck) })
	err := x.stream.Send(m)
	if !late.Stop() { // It is over: nothing may be sent after what was late.
		return errBroken
	}
	return err
}

// send tells the worker all that concerns it until the session is over. What changes while a message is on its way makes
// the next one, so that batches grow with the load.
func (x *session) send(ctx context.Context, timeout time.Duration) error {
	out, sequence, parted := newOutbox(x.node), uint64(0), false
	silence := time.NewTimer(timeout)
	defer silence.Stop()
	for {
		w := x.take()
		if err := x.talk(out, &sequence, w); err != nil {
			return errBroken
		}
		x.sent(w.marks, sequence)
		if w.departs && !parted && isDown(x.server.deps.Store.View(), x.node) {
			if err := x.tell(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_DepartureAck{DepartureAck: &swarmv1.DepartureAck{}}}); err != nil {
				return errBroken
			}
			parted = true
		}
		select {
		case <-x.wake:
		case <-x.over:
			return x.farewell()
		case <-ctx.Done():
			return errBroken
		case <-silence.C:
			left := timeout - time.Since(x.lastBeat())
			if left <= 0 {
				x.close(errdefs.ErrUnavailable.WithMessage("no heartbeat for " + timeout.String() + ": the session is over"))
				return x.farewell()
			}
			silence.Reset(left)
		}
	}
}

// talk sends what one look found.
func (x *session) talk(out *outbox, sequence *uint64, w work) error {
	if w.beat != nil {
		if err := x.tell(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_HeartbeatAck{HeartbeatAck: w.beat}}); err != nil {
			return err
		}
	}
	for _, seq := range w.acks {
		if err := x.tell(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_StatusAck{StatusAck: &swarmv1.StatusAck{Sequence: seq}}}); err != nil {
			return err
		}
	}
	if w.whole || slices.Contains(w.dirty, ref{kind: kindNode}) {
		if err := x.tell(nodeUpdate(w.view, x.node)); err != nil {
			return err
		}
	}
	var changes []*swarmv1.AssignmentChange
	if w.whole {
		changes = out.complete(w.view, x.server.atlas, x.server.keep.Load().of(x.node))
	} else if len(w.dirty) > 0 {
		changes = out.update(w.view, x.server.atlas, w.dirty, x.server.keep.Load().of(x.node))
	}
	if len(changes) == 0 && !w.whole {
		return nil
	}
	*sequence++
	x.mu.Lock()
	x.sending = *sequence
	x.mu.Unlock()
	return x.tell(&swarmv1.ToWorker{Message: &swarmv1.ToWorker_Assignments{Assignments: &swarmv1.Assignments{
		Sequence: *sequence, Complete: w.whole, Index: w.view.Index(), Changes: changes,
	}}})
}

func isDown(view *raftstore.View, node string) bool {
	st, ok := view.NodeStates.Get(node)
	return ok && st.GetState() == swarmv1.NodeState_DOWN
}

// farewell is how a session ends that either side has closed. A node that was removed is told so. Others get an empty
// message, which they do not act on: gRPC takes it when the worker has read all before it but 64 KiB.
func (x *session) farewell() error {
	err := x.reason()
	last := &swarmv1.ToWorker{}
	if errors.Is(err, errRemoved) {
		last.Message = &swarmv1.ToWorker_Node{Node: &swarmv1.NodeUpdate{Removed: true}}
	}
	_ = x.tell(last)
	return err
}

// nodeUpdate is what a node must know that is not its tasks.
func nodeUpdate(view *raftstore.View, node string) *swarmv1.ToWorker {
	row, _ := view.Nodes.Get(node)
	return &swarmv1.ToWorker{Message: &swarmv1.ToWorker_Node{Node: &swarmv1.NodeUpdate{
		Node: row, Managers: ca.Managers(view), Bundle: view.Cluster().GetRootCa().GetBundle(),
	}}}
}

func welcome(manager string, x *session, c *swarmv1.Cluster) *swarmv1.ToWorker {
	beat, _ := Pace(c)
	return &swarmv1.ToWorker{Message: &swarmv1.ToWorker_Welcome{Welcome: &swarmv1.Welcome{
		ManagerId: manager, SessionEpoch: x.epoch, HeartbeatPeriod: durationpb.New(beat), Epoch: c.GetEpoch(),
		Lease: durationpb.New(x.lease),
	}}}
}
