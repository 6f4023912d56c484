package dispatch

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/bounds"
	swarmv1 "swarm/proto/swarm/v1"
)

// receive takes the worker's messages until the stream ends or a message breaks the protocol.
func (x *session) receive() {
	for {
		msg, err := x.stream.Recv()
		if errors.Is(err, io.EOF) {
			x.close(nil) // the worker has closed the stream: its goodbye
			return
		}
		if err != nil {
			x.close(errBroken)
			return
		}
		if err := x.handle(msg); err != nil {
			x.server.sampled.Log(slog.LevelWarn, "protocol "+x.node,
				"session of a worker that does not keep to the protocol is closed", "node", x.node, "err", err)
			x.close(err)
			return
		}
	}
}

// handle processes a message, without the parts that are out of bounds. An error ends the session.
func (x *session) handle(msg *swarmv1.FromWorker) error {
	x.mu.Lock()
	x.heard = time.Now() // any message shows that the worker lives
	x.mu.Unlock()
	row, _ := x.server.deps.Store.View().Nodes.Get(x.node)
	msg, leftOut, err := bounds.FromWorker(msg, row.GetHostname())
	if err != nil {
		return err
	}
	x.server.logLeftOut(x.node, leftOut)
	switch m := msg.GetMessage().(type) {
	case *swarmv1.FromWorker_Hello:
		return errdefs.ErrInvalidArgument.WithMessage("a session has one hello, and this is the second")
	case *swarmv1.FromWorker_Heartbeat:
		x.mu.Lock()
		x.heartbeat = m.Heartbeat.GetSequence()
		x.mu.Unlock()
		x.nudge()
	case *swarmv1.FromWorker_Programmed:
		return x.assignmentsProgrammed(m.Programmed.GetSequence())
	case *swarmv1.FromWorker_Departure:
		x.depart()
	case *swarmv1.FromWorker_Status:
		if err := x.statusReported(m.Status.GetSequence()); err != nil {
			return err
		}
		x.server.committer.add(&entry{session: x, status: m.Status})
	case *swarmv1.FromWorker_Description:
		x.server.committer.add(&entry{session: x, description: m.Description})
	case *swarmv1.FromWorker_Volumes:
		x.server.committer.add(&entry{session: x, volumes: m.Volumes})
	case *swarmv1.FromWorker_Images:
		x.server.committer.add(&entry{session: x, images: m.Images})
	}
	return nil
}

// statusReported notes that a status report has come. A worker may send the next report only after
// the last one was acknowledged.
func (x *session) statusReported(sequence uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.reported != x.reportAcked:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("status report %d came before report %d was acknowledged", sequence, x.reported))
	case sequence != x.reported+1:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("status report %d came after %d", sequence, x.reported))
	}
	x.reported = sequence
	return nil
}

// assignmentsProgrammed notes that the worker has programmed all assignments up to a sequence. It
// returns an error if no assignments with that sequence have been sent.
func (x *session) assignmentsProgrammed(sequence uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if sequence > x.assignmentsSent {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("assignments %d are acknowledged, and %d were the last", sequence, x.assignmentsSent))
	}
	x.progress.acknowledged(sequence)
	x.hasProgrammed = true
	return nil
}

// depart notes that the worker's host is going down, and tells the leader, which then sets the node
// to DOWN.
func (x *session) depart() {
	x.mu.Lock()
	x.departing = true
	x.mu.Unlock()
	x.nudge()
	x.server.reportSoon()
}
