package tasktable

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

func TestTaskRow_RestartThatIsWaitedFor(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	x := &swarmv1.TaskInfo{
		Task: &swarmv1.Task{
			Id: "t1", ServiceId: "s", Slot: 1, DesiredState: swarmv1.TaskState_RUNNING,
			Restarts: &swarmv1.RestartHistory{Attempts: 4}, StartAfter: timestamppb.New(start.Add(20 * time.Second)),
		},
		Status: &swarmv1.TaskStatus{State: swarmv1.TaskState_PENDING}, ServiceName: "web",
	}
	row := taskRow(x, Options{}, false, start)
	if row["Error"] != `"restart 4 in 20s"` || row["Restarts"] != "4" || row["StartAfter"] != start.Add(20*time.Second).UTC().Format(time.RFC3339Nano) {
		t.Errorf("row of a task that waits: got %v", row)
	}
	if got := taskRow(x, Options{}, false, start.Add(time.Minute))["Error"]; got != "" {
		t.Errorf("error after the time: got %q", got)
	}
}
