package session

import (
	"slices"
	"strings"
	"sync"

	"swarm/internal/bounds"
	swarmv1 "swarm/proto/swarm/v1"
)

// statusExtra is what a status takes in a report beside its own size, in bytes, with the epoch and the sequence.
const statusExtra = 64

// reports is the queue of statuses on their way to the managers: of each task only the last one counts. One report is on
// its way at a time; what comes up meanwhile makes the next, so batches grow with the load and nothing waits for a timer.
//
// Passing states (ACCEPTED, PREPARING, STARTING) nobody acts on: they travel with the next report that matters, or with
// the next heartbeat, so that a task that starts quickly costs the managers one write and waits for none.
type reports struct {
	mu       sync.Mutex                     // guards what follows
	pending  map[string]*swarmv1.TaskStatus // by task, not sent
	inflight map[string]*swarmv1.TaskStatus // by task, sent and not acknowledged
	urgent   bool                           // something in pending must not wait for a heartbeat
	sequence uint64
	wake     chan struct{} // one token: look again
	idle     chan struct{} // closed when the managers have all there is to say; nil while nobody waits for that
}

func newReports() *reports {
	return &reports{pending: map[string]*swarmv1.TaskStatus{}, wake: make(chan struct{}, 1)}
}

func (r *reports) add(s *swarmv1.TaskStatus, urgent bool) {
	r.mu.Lock()
	r.pending[s.TaskId] = s
	r.urgent = r.urgent || urgent
	nudge := r.urgent && r.inflight == nil
	r.mu.Unlock()
	if nudge {
		r.nudge()
	}
}

func (r *reports) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// begin is called with each new session: what the last one did not acknowledge is sent again.
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
	r.nudge()
}

// next takes the next report, or nil: nothing to say, or the last one is not acknowledged. Unless flush, passing states
// alone are nothing to say. A report is one that managers take, see bounds.Report: what does not fit makes further ones.
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
		// A report that managers refuse would be sent again in every session, and hold up all other tasks.
		taken, _ := bounds.Status(s)
		size += taken.SizeVT() + statusExtra
		if len(r.inflight) == bounds.MaxUpdates || len(r.inflight) > 0 && size > bounds.MaxReport {
			break
		}
		r.inflight[id] = s
		delete(r.pending, id)
		if taken != nil {
			taken.SessionEpoch, taken.Sequence = sessionEpoch, report.Sequence
			report.Updates = append(report.Updates, taken)
		}
	}
	r.urgent = r.urgent && len(r.pending) > 0
	r.sequence = report.Sequence
	slices.SortFunc(report.Updates, func(a, b *swarmv1.TaskStatus) int { return strings.Compare(a.GetTaskId(), b.GetTaskId()) })
	return report
}

// ack returns the statuses that the managers have now, and that are still their tasks' last.
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
		r.nudge()
	}
	return current
}

// drop forgets a task that the managers no longer know.
func (r *reports) drop(taskID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, taskID)
	r.closeIdleLocked()
}

// delivered returns what is closed once the managers have all there is to say.
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

func (r *reports) closeIdleLocked() {
	if r.idle != nil && r.inflight == nil && len(r.pending) == 0 {
		close(r.idle)
		r.idle = nil
	}
}

// unackedSequence is the report that waits for its acknowledgement; 0: none does.
func (r *reports) unackedSequence() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inflight == nil {
		return 0
	}
	return r.sequence
}
