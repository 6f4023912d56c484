package dispatch

import (
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"swarm/manager/dispatch/assignment"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

var (
	// errRemoved tells a host that its node was removed. The last message of the stream says so
	// too.
	errRemoved = errdefs.ErrPermissionDenied.WithMessage("this node was removed from the cluster: run `swarm join` to join again")
	// errSuperseded ends a session of a node that has begun a newer one.
	errSuperseded = errdefs.ErrAborted.WithMessage("a newer session of this node has begun")
	// errStopping ends all sessions of a manager that stops.
	errStopping = errdefs.ErrUnavailable.WithMessage("this manager is stopping: another one takes over")
	// errBroken ends a session whose connection broke. The worker never receives this error.
	errBroken = errdefs.ErrUnavailable.WithMessage("the connection to the worker broke")
)

// session is one worker's stream. It has three goroutines: one receives (receive.go), one sends
// (send.go), and the goroutine of the gRPC handler waits for the sender (serve).
type session struct {
	node  string
	epoch uint64
	addr  string // the worker's host, as seen from here
	// lease is how long the worker's single-writer tasks may run after a confirmed heartbeat. It is
	// never longer than the lease in the node's row.
	lease time.Duration
	// timeout is the session timeout of the cluster when the session began. It also bounds how long
	// the worker may take to accept one message.
	timeout time.Duration

	stream swarmv1.Dispatcher_SessionServer
	server *Server
	newest func() *table.View // the store's newest view
	wake   chan struct{}      // capacity 1: there may be something to send
	done   chan struct{}      // closed by close
	stuck  chan struct{}      // closed by sendMessage when the worker does not accept a message within the timeout

	mu       sync.Mutex // guards the rest
	err      error      // why the session is over
	isClosed bool

	// What to send next. view is nil when there is nothing.
	complete  bool // send a complete set
	dirty     []assignment.Ref
	view      *table.View
	viewIndex uint64   // of the newest view that take has returned
	acks      []uint64 // of status reports

	heard             time.Time // when the worker was last heard
	heartbeat         uint64    // newest one that came
	heartbeatAnswered uint64    // newest one that was answered
	confirmed         uint64    // newest one that the leader has heard of
	confirmedSent     uint64    // newest confirmation that was sent
	departing         bool      // the worker's host is going down

	reported        uint64 // sequence of the newest status report
	reportAcked     uint64 // sequence of the newest status report that was acknowledged
	assignmentsSent uint64 // sequence of the newest assignments, whose sending has begun
	// hasProgrammed says that the worker has programmed assignments of this session. From then on
	// it holds the lease of this session and not the lease of an earlier one.
	hasProgrammed bool

	progress progress
}

// newSession returns the session that a node's row says has begun. The server is nil in tests.
func newSession(s *Server, row *swarmv1.NodeState, stream swarmv1.Dispatcher_SessionServer) *session {
	x := &session{
		node: row.GetNodeId(), epoch: row.GetSessionEpoch(), addr: row.GetAddr(), lease: row.GetLease().AsDuration(),
		stream: stream, server: s, heard: time.Now(), complete: true,
		wake: make(chan struct{}, 1), done: make(chan struct{}), stuck: make(chan struct{}),
	}
	if s != nil {
		x.newest = s.deps.Store.View
	}
	return x
}

// close ends the session. err is what the worker is told; of several calls, the first one counts.
func (x *session) close(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.isClosed {
		x.isClosed, x.err = true, err
		close(x.done)
	}
}

// closed reports whether the session is over, with or without an error.
func (x *session) closed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.isClosed
}

// reason returns the error that ended the session. It is nil while the session goes on, and after a
// goodbye.
func (x *session) reason() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

// nudge wakes the sender.
func (x *session) nudge() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// mark makes the sender compare the objects that the references name with what it has sent, in this
// view or a newer one.
func (x *session) mark(view *table.View, refs ...assignment.Ref) {
	x.mu.Lock()
	x.dirty = append(x.dirty, refs...)
	x.progress.mark(time.Now())
	x.setView(view)
	x.mu.Unlock()
	x.nudge()
}

// markAll makes the sender send a complete set.
func (x *session) markAll(view *table.View) {
	x.mu.Lock()
	x.complete = true
	x.progress.mark(time.Now())
	x.setView(view)
	x.mu.Unlock()
	x.nudge()
}

// setView keeps the newer of two views. The caller holds mu.
func (x *session) setView(view *table.View) {
	if x.view == nil || view.Index() > x.view.Index() {
		x.view = view
	}
}

// ack makes the sender acknowledge a status report.
func (x *session) ack(sequence uint64) {
	x.mu.Lock()
	x.acks, x.reportAcked = append(x.acks, sequence), max(x.reportAcked, sequence)
	x.mu.Unlock()
	x.nudge()
}

// confirm makes the sender tell the worker that the leader has heard of a heartbeat.
func (x *session) confirm(sequence uint64) {
	x.mu.Lock()
	isNew := sequence > x.confirmed
	x.confirmed = max(x.confirmed, sequence)
	x.mu.Unlock()
	if isNew {
		x.nudge()
	}
}

// lastHeard returns when the worker was last heard.
func (x *session) lastHeard() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.heard
}

// newestHeartbeat returns the sequence of the newest heartbeat that came.
func (x *session) newestHeartbeat() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.heartbeat
}

// isDeparting reports whether the worker has announced that its host goes down.
func (x *session) isDeparting() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.departing
}

// heldLease returns the lease that the worker holds. It returns 0 while the worker may still hold
// the lease of an earlier session.
func (x *session) heldLease() time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.hasProgrammed {
		return 0
	}
	return x.lease
}
