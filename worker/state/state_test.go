package state_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
	"swarm/worker/state"
)

// open opens the state of a cluster. It also returns a function that commits the writes and closes
// it.
func open(t *testing.T, dir, cluster string) (*state.DB, *state.Saved, func()) {
	t.Helper()
	db, saved, err := state.Open(dir, cluster, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return db, saved, func() {
		t.Helper()
		ended, end := context.WithCancel(t.Context())
		end()
		if err := errors.Join(db.Run(ended), db.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDB_KeepsWhatWasSet(t *testing.T) {
	dir := t.TempDir()
	task := &swarmv1.Assignment{Object: &swarmv1.Assignment_Task{Task: &swarmv1.Task{Id: "t1"}}}
	at := time.Unix(1_700_000_000, 0)
	attached := engine.Attached{Netns: "/run/netns/t1", Addresses: []string{"10.0.0.2/24"}}
	db, _, done := open(t, dir, "c1")
	db.SetEpoch(2)
	db.SetIndex(7)
	db.SetBegan(at)
	db.SetObject("1/t1", task)
	db.SetObject("1/t2", task)
	db.SetObject("1/t2", nil)
	for _, id := range []string{"t1", "t2", "t3"} {
		db.SetStatus(&swarmv1.TaskStatus{TaskId: id, State: swarmv1.TaskState_RUNNING})
	}
	db.SetAcknowledged("t2")
	db.SetCleaned("t2")
	db.SetCleaned("t3")
	db.ForgetTask("t3")
	for _, id := range []string{"t1", "t2"} {
		if err := db.SetAttached(id, attached); err != nil {
			t.Fatal(err)
		}
	}
	db.ForgetAttached("t2")
	db.SetImageUse("sha256:1", at)
	db.SetImageUse("sha256:2", at)
	db.ForgetImage("sha256:2")
	done()

	_, got, done := open(t, dir, "c1")
	done()
	want := &state.Saved{
		Epoch: 2, Index: 7, Began: at,
		Objects: []*swarmv1.Assignment{task},
		Statuses: map[string]*swarmv1.TaskStatus{
			"t1": {TaskId: "t1", State: swarmv1.TaskState_RUNNING},
			"t2": {TaskId: "t2", State: swarmv1.TaskState_RUNNING},
		},
		Unsent:   map[string]bool{"t1": true},
		Attached: map[string]engine.Attached{"t1": attached},
		Cleaned:  map[string]bool{"t2": true},
		Used:     map[string]time.Time{"sha256:1": at},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("saved (-want +got):\n%s", diff)
	}
}

func TestOpen_DropsTheStateOfAnotherCluster(t *testing.T) {
	dir := t.TempDir()
	db, _, done := open(t, dir, "c1")
	db.SetIndex(7)
	db.SetStatus(&swarmv1.TaskStatus{TaskId: "t1"})
	done()
	_, got, done := open(t, dir, "c2")
	done()
	if got.Index != 0 || len(got.Statuses) != 0 || len(got.Unsent) != 0 {
		t.Errorf("the state of another cluster is used: %+v", got)
	}
}
