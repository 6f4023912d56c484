package raftstore_test

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"swarm/raftstore"
	"swarm/raftstore/logstore"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// afterAppend calls do once, after the first entries were stored.
type afterAppend struct {
	logstore.Disk
	once sync.Once
	do   func()
}

func (d *afterAppend) StoreLogs(logs []*raft.Log) error {
	err := d.Disk.StoreLogs(logs)
	if err == nil {
		d.once.Do(d.do)
	}
	return err
}

func (d *afterAppend) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

// A former sole voter rejoins without state and is cut off while it catches up. It must not become
// the leader of the cluster of which it was the only voter.
func TestCluster_FormerSoleVoterJoinsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		first := l.start(t, raftstore.Config{NodeID: "m1", Bootstrap: true})
		first.awaitLead(t)
		for i := range 2000 {
			if _, err := first.Commit(t.Context(), "test", table.Create(task(fmt.Sprintf("t%d", i)))); err != nil {
				t.Fatal(err)
			}
		}
		others := []*member{first}
		for _, id := range []string{"m2", "m3"} {
			others = append(others, l.start(t, raftstore.Config{NodeID: id}))
			if err := first.AddVoter(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if err := first.TransferLeadership(t.Context()); err != nil {
			t.Fatal(err)
		}
		leader := leaderOf(t, others[1:]...)
		if err := leader.RemoveServer(t.Context(), "m1"); err != nil {
			t.Fatal(err)
		}
		_ = l.stop(first)

		appended := make(chan struct{})
		again := l.start(t, raftstore.Config{NodeID: "m1"}, func(d *raftstore.Deps) {
			d.WrapDisk = func(disk logstore.Disk) logstore.Disk {
				return &afterAppend{Disk: disk, do: func() { l.setCut("m1", true); close(appended) }}
			}
		})
		added := make(chan error, 1)
		go func() { added <- leader.AddVoter(t.Context(), "m1") }()
		<-appended
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			if again.IsLeader() {
				t.Fatalf("a member that was cut off with %d of 2000 tasks leads", again.View().Tasks.Len())
			}
		}
		l.setCut("m1", false)
		if err := <-added; err != nil {
			t.Fatal(err)
		}
		again.awaitVoters(t, 3)
		if !leader.IsLeader() {
			t.Error("the leader lost its office to a member that was catching up")
		}
		if got := again.View().Tasks.Len(); got != 2000 {
			t.Errorf("the member has %d tasks, want 2000", got)
		}
	})
}

// A leader that has not taken a snapshot for a new member cannot make that member replay the log.
func TestCluster_NewMemberTakesNoLogFromItsBeginning(t *testing.T) {
	l := newLAN()
	m := l.start(t, raftstore.Config{NodeID: "m1"})
	leader := raftstoretest.NewIntruder("m2", "", func() (net.Conn, error) { return l.dial(t.Context(), "m2", "m1") })
	defer leader.Close()
	if err := leader.Append(0, table.Create(task("t1"))); err == nil {
		t.Error("a member without state took entry 1 from another one")
	}
	if got := m.View().Index(); got != 0 {
		t.Errorf("index: got %d, want 0", got)
	}
}

// A member must not continue with a state that the cluster does not have. That takes two faults at
// once: another member comes back with an old disk while a third member is cut off.
func TestCluster_StopsWhenAppliedEntriesAreCut(t *testing.T) {
	for name, dir := range map[string]string{"memory": "", "disk": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			l := newLAN()
			m := l.start(t, raftstore.Config{NodeID: "m1", Bootstrap: true, Dir: dir})
			m.awaitLead(t)
			if _, err := m.Commit(t.Context(), "test", table.Create(task("t1"))); err != nil {
				t.Fatal(err)
			}
			leader := raftstoretest.NewIntruder("m2", "", func() (net.Conn, error) { return l.dial(t.Context(), "m2", "m1") })
			defer leader.Close()
			if err := leader.Rewrite(2); err == nil {
				t.Error("the member gave up entry 2, which it had applied")
			}
			select {
			case err := <-m.runErr:
				if err == nil || !strings.Contains(err.Error(), "contradicts") {
					t.Errorf("run: got %v, want that the log contradicts the state", err)
				}
				m.runErr <- err // for stop
			case <-time.After(time.Minute):
				t.Error("the member goes on")
			}
			if _, ok := m.View().Tasks.Get("t1"); !ok {
				t.Error("the state was changed")
			}
		})
	}
}

// A member that caught up by a snapshot has a log without a gap and can restart.
func TestCluster_StartsAgainAfterASnapshotOfTheLeader(t *testing.T) {
	l := newLAN()
	dir := t.TempDir()
	ms := l.trio(t, raftstore.Config{Dir: dir, TrailingBytes: 1})
	l.setCut("m3", true)
	var last uint64
	for i := range 20 {
		index, err := ms[0].Commit(t.Context(), "test", table.Create(task(fmt.Sprintf("t%d", i))))
		if err != nil {
			t.Fatal(err)
		}
		last = index
	}
	if err := ms[0].Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.setCut("m3", false)
	if _, err := ms[2].WaitIndex(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if _, err := ms[0].Commit(t.Context(), "test", table.Create(task("after"))); err != nil {
		t.Fatal(err)
	}
	if _, err := ms[2].Latest(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = l.stop(ms[2])
	again := l.start(t, raftstore.Config{NodeID: "m3", Dir: filepath.Join(dir, "m3")})
	if _, err := again.Latest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := again.View().Tasks.Len(); got != 21 {
		t.Errorf("tasks after the start: got %d, want 21", got)
	}
}
