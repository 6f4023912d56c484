package tasks

import (
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// urgent reports whether a status must be sent without delay, because managers act on it or a user
// waits for it. rests says that the task's loop has nothing more to do.
func urgent(s *swarmv1.TaskStatus, rests bool) bool {
	return s.State >= swarmv1.TaskState_RUNNING || s.Err != "" || rests
}

// message returns Docker's word for the last thing that the worker did for a task in this state. A
// task that failed after its start has the same word as one that runs: "started".
func message(s swarmv1.TaskState) string {
	switch s {
	case swarmv1.TaskState_ACCEPTED:
		return "accepted"
	case swarmv1.TaskState_PREPARING, swarmv1.TaskState_REJECTED:
		return "preparing"
	case swarmv1.TaskState_READY:
		return "prepared"
	case swarmv1.TaskState_STARTING:
		return "starting"
	case swarmv1.TaskState_RUNNING, swarmv1.TaskState_FAILED:
		return "started"
	case swarmv1.TaskState_COMPLETE:
		return "finished"
	case swarmv1.TaskState_SHUTDOWN:
		return "shutdown"
	default:
		return ""
	}
}

// compose returns the status after an outcome, or nil if the status does not change. The caller
// must hold mu.
func (t *taskLoop) compose(state swarmv1.TaskState, out outcome) *swarmv1.TaskStatus {
	sick := out.event == task.Sick
	if state == t.status.State && out.pid == 0 && !sick {
		return nil
	}
	now := timestamppb.Now()
	s := t.status.CloneVT()
	s.State, s.Timestamp, s.Message = state, now, message(state)
	s.Ready = state == swarmv1.TaskState_RUNNING && !sick
	s.PortStatus, s.Addresses = t.attached.Ports, localAddresses(t.attached)
	if out.pid != 0 || out.exit != nil {
		c := s.ContainerStatus.CloneVT()
		if c == nil {
			c = &swarmv1.ContainerStatus{ContainerId: t.id}
		}
		if out.pid != 0 {
			c.Pid = out.pid
		}
		if e := out.exit; e != nil {
			c.ExitCode, c.OomKilled, c.ExitCodeUnknown = int32(e.Code), e.OOM, e.CodeUnknown
			if !e.At.IsZero() {
				s.Timestamp = timestamppb.New(e.At)
			}
		}
		s.ContainerStatus = c
	}
	if state == swarmv1.TaskState_RUNNING && t.status.State != state {
		s.RunningSince = now
	}
	if sick {
		t.reason = out.err.Error()
	}
	s.Err = failure(state, t.reason, out)
	return s
}

// setErr reports why the task does not leave its state. An empty text means that the reason is
// gone.
func (t *taskLoop) setErr(text string) {
	t.editStatus(func(s *swarmv1.TaskStatus) bool {
		s.Err = text
		return true
	})
}

// editStatus reports the status with the changes that edit makes, unless edit returns false.
func (t *taskLoop) editStatus(edit func(*swarmv1.TaskStatus) bool) {
	t.mu.Lock()
	s := t.status.CloneVT()
	changed := edit(s)
	if changed {
		t.status = s
	}
	t.mu.Unlock()
	if changed {
		t.r.deps.Managers.Report(s, true)
	}
}

// failure returns what a status tells the user about a failure; empty: the task did not fail.
func failure(state swarmv1.TaskState, reason string, out outcome) string {
	switch {
	case state == swarmv1.TaskState_SHUTDOWN || state == swarmv1.TaskState_COMPLETE:
		return ""
	case reason != "":
		return reason
	case out.err != nil:
		return out.err.Error()
	case state != swarmv1.TaskState_FAILED:
		return ""
	case out.exit != nil:
		return describeExit(*out.exit)
	default:
		return "stopped"
	}
}

// localAddresses returns the addresses of the task on the local network of this node.
func localAddresses(a engine.Attached) []string {
	if a.Local == nil {
		return a.Addresses
	}
	return a.Local
}

// describeExit returns Docker's text for a container that failed, and adds what the exit says
// beyond the code. It is empty for a container that succeeded.
func describeExit(e engine.Exit) string {
	switch {
	case e.CodeUnknown:
		return "task: the container ended, and its exit code is not known"
	case e.Fenced:
		return "fenced: killed, because no manager has confirmed that its node is in contact, and another node may take over"
	case e.OOM:
		return fmt.Sprintf("task: non-zero exit (%d): out of memory", e.Code)
	case e.Code != 0:
		return fmt.Sprintf("task: non-zero exit (%d)", e.Code)
	default:
		return ""
	}
}
