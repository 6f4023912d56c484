package rollout

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// Task holds the rows of one task.
type Task struct {
	Row    *swarmv1.Task
	Status *swarmv1.TaskStatus
	// Revision is the revision that Row names. It may be older than the service's current one.
	Revision *swarmv1.Revision
}

// Failure says whether the task failed or was rejected by its node.
func (t Task) Failure() bool {
	s := t.Status.GetState()
	return s == swarmv1.TaskState_FAILED || s == swarmv1.TaskState_REJECTED
}

// LacksImage says whether the task was rejected because its node could not get the image. The
// restart policy does not count this as a failure.
func (t Task) LacksImage() bool {
	return t.Status.GetState() == swarmv1.TaskState_REJECTED && spec.LacksImage(t.Status.GetErr())
}

// endedEarly reports whether the task ended by itself although it should not: it failed, or it
// ended with exit code 0 and its restart policy restarts tasks in that case too.
func (t Task) endedEarly() bool {
	condition := t.Revision.GetSpec().GetTaskTemplate().GetRestartPolicy().GetCondition()
	return t.Failure() || t.Status.GetState() == swarmv1.TaskState_COMPLETE && condition == swarmv1.RestartPolicy_ANY
}

// ranFor returns how long the task was RUNNING before its state changed for the last time. ran is
// false if the task never was RUNNING.
func (t Task) ranFor() (d time.Duration, ran bool) {
	if t.Status.GetRunningSince() == nil {
		return 0, false
	}
	return timeOf(t.Status.GetTimestamp()).Sub(t.Status.GetRunningSince().AsTime()), true
}

// timeOf returns the zero time for a timestamp that is not set.
func timeOf(ts *timestamppb.Timestamp) time.Time {
	if ts == nil {
		return time.Time{}
	}
	return ts.AsTime()
}
