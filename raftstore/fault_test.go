package raftstore_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/seal"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/logstore"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

func TestFault_FullDiskUnderTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		faults := &raftstoretest.Faults{}
		first := l.start(t, raftstore.Config{NodeID: "m1", Bootstrap: true}, func(d *raftstore.Deps) { d.WrapDisk = faults.Wrap })
		first.awaitLead(t)
		ms := []*member{first}
		for _, id := range []string{"m2", "m3"} {
			m := l.start(t, raftstore.Config{NodeID: id})
			if err := first.AddVoter(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			ms = append(ms, m)
		}
		faults.FailWrites(syscall.ENOSPC)
		var index uint64
		for i := range 20 {
			var err error
			if index, err = ms[1].Commit(t.Context(), "test", table.Create(task(fmt.Sprint(i)))); err != nil {
				t.Fatalf("commit %d while the leader's disk is full: %v", i, err)
			}
		}
		if ms[0].IsLeader() {
			t.Error("a member with a full disk still leads")
		}
		time.Sleep(5 * time.Second)
		if _, err := ms[0].Commit(t.Context(), "test", table.Create(task("x"))); !errdefs.IsUnavailable(err) {
			t.Errorf("commit through the member with a full disk: %v", err)
		}
		faults.FailWrites(nil)
		if v, err := ms[0].WaitIndex(t.Context(), index); err != nil || v.Tasks.Len() != 20 {
			t.Errorf("after space was made: %v", err)
		}
	})
}

func TestFault_FsyncErrorUnderAFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		faults := &raftstoretest.Faults{}
		leader := l.start(t, raftstore.Config{NodeID: "m1", Bootstrap: true})
		leader.awaitLead(t)
		broken := l.start(t, raftstore.Config{NodeID: "m2"}, func(d *raftstore.Deps) { d.WrapDisk = faults.Wrap })
		l.start(t, raftstore.Config{NodeID: "m3"})
		for _, id := range []string{"m2", "m3"} {
			if err := leader.AddVoter(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		faults.FailWrites(syscall.EIO)
		index, err := broken.Commit(t.Context(), "test", table.Create(task("x")))
		if err != nil {
			t.Fatalf("commit through a member whose disk fails: %v", err)
		}
		time.Sleep(5 * time.Second)
		faults.FailWrites(nil)
		if _, err := broken.WaitIndex(t.Context(), index); err != nil {
			t.Error(err)
		}
	})
}

// Damage on disk must be detected at Open, with and without a key.
func TestFault_DamagedEntriesAreNoticedAtOpen(t *testing.T) {
	for _, sealer := range []logstore.Sealer{nil, seal.NewRing(seal.NewKey())} {
		cfg := raftstore.Config{NodeID: "m1", Bootstrap: true, Dir: t.TempDir(), Sealer: sealer}
		l := newLAN()
		m := l.start(t, cfg)
		m.awaitLead(t)
		var index uint64
		for i := range 5 {
			index, _ = m.Commit(t.Context(), "test", table.Create(task(fmt.Sprint(i))))
		}
		_ = l.stop(m)
		for name, breakIt := range map[string]func(*raftstoretest.Faults, uint64){
			"flipped": (*raftstoretest.Faults).Flip, "torn": (*raftstoretest.Faults).Tear,
		} {
			faults := &raftstoretest.Faults{}
			breakIt(faults, index-1)
			_, err := raftstore.Open(cfg, raftstore.Deps{WrapDisk: faults.Wrap})
			if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), fmt.Sprint("entry ", index-1)) {
				t.Errorf("a %s entry (sealer %T): got %v, want data loss that names the entry", name, sealer, err)
			}
		}
		again := l.start(t, cfg)
		again.awaitLead(t)
		if got := again.View().Tasks.Len(); got != 5 {
			t.Errorf("%d tasks after a restart, want 5", got)
		}
		_ = l.stop(again)
	}
}

func TestRecover_OneOfThreeGoesOn(t *testing.T) {
	l := newLAN()
	dir := t.TempDir()
	ring := seal.NewRing(seal.NewKey())
	ms := l.trio(t, raftstore.Config{ClusterID: "c", Dir: dir, Sealer: ring})
	index, err := ms[0].Commit(t.Context(), "test", table.Create(&swarmv1.Cluster{Id: "c", Epoch: 1}), table.Create(task("a")))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range ms {
		if _, err := m.WaitIndex(t.Context(), index); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range ms {
		_ = l.stop(m)
	}
	cfg := raftstore.Config{NodeID: "m2", ClusterID: "c", Dir: filepath.Join(dir, "m2"), Sealer: ring}
	if err := raftstore.Recover(cfg, raftstore.Deps{}); err != nil {
		t.Fatal(err)
	}
	m2 := l.start(t, cfg)
	m2.awaitLead(t)
	if v := m2.View(); v.Tasks.Len() != 1 || v.Cluster().GetEpoch() != 2 {
		t.Errorf("got %d tasks, epoch %d; want 1, epoch 2", v.Tasks.Len(), v.Cluster().GetEpoch())
	}
	// A member with the old epoch must not reach the recovered member.
	stale := l.start(t, raftstore.Config{NodeID: "m1", ClusterID: "c", Dir: filepath.Join(dir, "m1"), Sealer: ring})
	if _, err := m2.Commit(t.Context(), "test", table.Create(task("b"))); err != nil {
		t.Errorf("commit beside a member of the old epoch: %v", err)
	}
	if stale.IsLeader() {
		t.Error("the member left behind leads")
	}

	var saved bytes.Buffer
	if err := m2.SaveSnapshot(&saved); err != nil {
		t.Fatal(err)
	}
	fresh := raftstore.Config{NodeID: "n1", Dir: t.TempDir(), Sealer: seal.NewRing(seal.NewKey())}
	if err := raftstore.Restore(fresh, raftstore.Deps{}, bytes.NewReader(saved.Bytes()[:saved.Len()-3])); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a cut snapshot: got %v", err)
	}
	if err := raftstore.Restore(fresh, raftstore.Deps{}, &saved); err != nil {
		t.Fatal(err)
	}
	n1 := l.start(t, fresh)
	n1.awaitLead(t)
	if v := n1.View(); v.Tasks.Len() != 2 || v.Cluster().GetEpoch() != 3 {
		t.Errorf("restored: %d tasks, epoch %d; want 2, epoch 3", v.Tasks.Len(), v.Cluster().GetEpoch())
	}
}

// A new member gets a snapshot if the log no longer reaches back far enough. Each member has its
// own key.
func TestSnapshot_ReachesANewMember(t *testing.T) {
	l := newLAN()
	cfg := raftstore.Config{NodeID: "m1", Bootstrap: true, Dir: t.TempDir(), Sealer: seal.NewRing(seal.NewKey()), SnapshotBytes: 200 << 10, TrailingBytes: 4 << 10}
	leader := l.start(t, cfg)
	leader.awaitLead(t)
	big := strings.Repeat("x", 10<<10)
	for i := range 100 {
		tk := task(fmt.Sprintf("t%03d", i))
		tk.Replaces = big
		if _, err := leader.Commit(t.Context(), "test", table.Create(tk)); err != nil {
			t.Fatal(err)
		}
	}
	if err := leader.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := l.start(t, raftstore.Config{NodeID: "m2", Dir: t.TempDir(), Sealer: seal.NewRing(seal.NewKey())})
	_, w := second.Watch()
	if err := leader.AddVoter(t.Context(), "m2"); err != nil {
		t.Fatal(err)
	}
	if got := second.View().Tasks.Len(); got != 100 {
		t.Errorf("the new member has %d tasks, want 100", got)
	}
	if _, err := w.Next(t.Context()); err != watch.ErrResync {
		t.Errorf("a watcher across a restored snapshot: got %v, want resync", err)
	}
}

// A leader keeps the lead while its followers answer heartbeats but store nothing. A write must
// still end, at the leader and at a follower, with the names of the managers that do not store it.
func TestFault_FullDisksUnderTheFollowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		faults := &raftstoretest.Faults{}
		ms := []*member{l.start(t, raftstore.Config{NodeID: "m1", Bootstrap: true})}
		ms[0].awaitLead(t)
		for _, id := range []string{"m2", "m3"} {
			ms = append(ms, l.start(t, raftstore.Config{NodeID: id}, func(d *raftstore.Deps) { d.WrapDisk = faults.Wrap }))
			if err := ms[0].AddVoter(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		full := "its disk is full: make room"
		if _, err := ms[0].Commit(t.Context(), "test", table.Create(&swarmv1.Node{Id: "m2", Hostname: "host2"}),
			table.Create(&swarmv1.NodeState{NodeId: "m2", Description: &swarmv1.NodeDescription{Unavailable: full}})); err != nil {
			t.Fatal(err)
		}
		faults.FailWrites(syscall.ENOSPC)
		for i, m := range []*member{ms[0], ms[0], ms[2]} {
			began := time.Now()
			_, err := m.Commit(t.Context(), "test", table.Create(task(fmt.Sprint(i))))
			if took := time.Since(began); !errdefs.IsUnavailable(err) || took > 5*time.Second {
				t.Errorf("commit %d through %s: %v after %s, want ErrUnavailable after 5 s", i, m.id, err, took)
				continue
			}
			for _, want := range []string{"2 of the 3 managers do not store changes", "host2 (" + full + ")", "m3 (", "it is not known whether the change was made"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("commit %d through %s: error %q does not contain %q", i, m.id, err, want)
				}
			}
		}
		if !ms[0].IsLeader() {
			t.Error("the leader has stepped down, so this test shows nothing")
		}
		faults.FailWrites(nil)
		time.Sleep(time.Minute)
		index, err := ms[2].Commit(t.Context(), "test", table.Create(task("x")))
		if err != nil {
			t.Fatalf("commit after space was made: %v", err)
		}
		if v, err := ms[1].WaitIndex(t.Context(), index); err != nil || v.Tasks.Len() < 2 {
			t.Errorf("after space was made: %d tasks, %v; want the entries that the leader has kept", v.Tasks.Len(), err)
		}
	})
}
