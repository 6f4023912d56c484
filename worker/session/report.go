package session

import (
	"slices"
	"strings"
	"sync"

	"swarm/internal/bounds"
	swarmv1 "swarm/proto/swarm/v1"
)

// statusExtra is how many bytes a status takes in a report in addition to its size: its framing,
// the epoch and the sequence.
const statusExtra = 64

// reports is the queue of statuses on their way to the managers. It keeps only the last status of
// each task. One report is on its way at a time, and the statuses that are added in the meantime go
// into the next one. So batches grow with the load, and no status waits for a timer.
//
// The planner and the load balancers treat the states ACCEPTED, PREPARING and STARTING like
// ASSIGNED. So these states wait for the next urgent status or heartbeat, and a task that starts
// quickly costs the managers one write.
type reports struct {
	mu       sync.Mutex                     // guards what follows
	pending  map[string]*swarmv1.TaskStatus // by task, not sent
	inflight map[string]*swarmv1.TaskStatus // by task, sent and not acknowledged
	urgent   bool                           // something in pending must not wait for a heartbeat
	sequence uint64
	wake     chan struct{} // one token: the writer should call next
	idle     chan struct{} // closed when both maps are empty; nil while no caller waits in Flush
}

func newReports() *reports {
	return &reports{pending: map[string]*swarmv1.TaskStatus{}, wake: make(chan struct{}, 1)}
}

func (r *reports) add(s *swarmv1.TaskStatus, urgent bool) {
	r.mu.Lock()
	r.pending[s.TaskId] = s
	r.urgent = r.urgent || urgent
	send := r.urgent && r.inflight == nil
	r.mu.Unlock()
	if send {
		r.wakeWriter()
	}
}

func (r *reports) wakeWriter() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// begin prepares the queue for a new session: the statuses that the last one did not acknowledge
// are sent again.
func (r *reports) begin() {
	r.mu.Lock()
	for id, s := range r.inflight {
		if _, newer := r.pending[id]; !newer {
			r.pending[id] = s
		}
	}
	r.inflight, r.sequence = nil, 0
	r.urgent = len(r.pending) > 0
	r.mu.Unlock()
	r.wakeWriter()
}

// next returns the next report, or nil if no status waits to be sent or the last report is not
// acknowledged. Without flush it returns a report only if a status that waits is urgent. A report
// is within the limits of bounds.Report. Statuses that do not fit go into later reports.
func (r *reports) next(sessionEpoch uint64, flush bool) *swarmv1.StatusReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inflight != nil || len(r.pending) == 0 || !r.urgent && !flush {
		return nil
	}
	r.inflight = map[string]*swarmv1.TaskStatus{}
	report := &swarmv1.StatusReport{Sequence: r.sequence + 1}
	size := 0
	for id, s := range r.pending {
		// Managers refuse a whole report if it is too large, and the node would send it again in
		// every session. So bounds.Status cuts the status here. It returns nil for a status that
		// managers never store.
		short, _ := bounds.Status(s)
		size += short.SizeVT() + statusExtra
		if len(r.inflight) == bounds.MaxUpdates || len(r.inflight) > 0 && size > bounds.MaxReport {
			break
		}
		r.inflight[id] = s
		delete(r.pending, id)
		if short != nil {
			short.SessionEpoch, short.Sequence = sessionEpoch, report.Sequence
			report.Updates = append(report.Updates, short)
		}
	}
	r.urgent = r.urgent && len(r.pending) > 0
	r.sequence = report.Sequence
	slices.SortFunc(report.Updates, func(a, b *swarmv1.TaskStatus) int { return strings.Compare(a.GetTaskId(), b.GetTaskId()) })
	return report
}

// ack records that the managers have the report with the sequence. It returns the statuses of the
// report, except for those of tasks that have reported a newer status meanwhile.
func (r *reports) ack(sequence uint64) []*swarmv1.TaskStatus {
	r.mu.Lock()
	if r.inflight == nil || sequence < r.sequence {
		r.mu.Unlock()
		return nil
	}
	var current []*swarmv1.TaskStatus
	for id, s := range r.inflight {
		if _, newer := r.pending[id]; !newer {
			current = append(current, s)
		}
	}
	r.inflight = nil
	r.closeIdleLocked()
	more := r.urgent
	r.mu.Unlock()
	if more {
		r.wakeWriter()
	}
	return current
}

// drop removes the status of a task that is not assigned any more.
func (r *reports) drop(taskID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, taskID)
	r.closeIdleLocked()
}

// delivered returns a channel that is closed once the managers have acknowledged every status.
func (r *reports) delivered() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.idle == nil {
		r.idle = make(chan struct{})
	}
	idle := r.idle
	r.closeIdleLocked()
	return idle
}

// closeIdleLocked tells the callers that wait in Flush that both maps are empty, if they are.
func (r *reports) closeIdleLocked() {
	if r.idle != nil && r.inflight == nil && len(r.pending) == 0 {
		close(r.idle)
		r.idle = nil
	}
}

// unackedSequence returns the sequence of the report that is not acknowledged yet; 0: there is
// none.
func (r *reports) unackedSequence() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inflight == nil {
		return 0
	}
	return r.sequence
}
