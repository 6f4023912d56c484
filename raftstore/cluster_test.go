package raftstore_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

func task(id string) *swarmv1.Task { return &swarmv1.Task{Id: id, ServiceId: "s", Slot: 1} }

func TestCluster_LosesItsLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		dir := t.TempDir()
		ms := l.trio(t, raftstore.Config{ClusterID: "c", Dir: dir})
		ctx := t.Context()
		if _, err := ms[1].Commit(ctx, "test", table.Create(task("a"))); err != nil {
			t.Fatalf("forwarded commit: %v", err)
		}
		time.Sleep(5 * time.Minute) // idle
		start := time.Now()
		l.crash(ms[0])
		index, err := ms[1].Commit(ctx, "test", table.Create(task("b")))
		if err != nil {
			t.Fatalf("commit without the old leader: %v", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the first write took %s after the leader was lost", took)
		}
		for _, m := range ms[1:] {
			v, err := m.WaitIndex(ctx, index)
			if err != nil || v.Tasks.Len() != 2 {
				t.Errorf("%s: got %d tasks, %v", m.id, v.Tasks.Len(), err)
			}
		}
		// The old leader comes back and catches up.
		back := l.start(t, raftstore.Config{NodeID: "m1", ClusterID: "c", Dir: filepath.Join(dir, "m1")})
		if v, err := back.WaitIndex(ctx, index); err != nil || v.Tasks.Len() != 2 {
			t.Errorf("the member that came back: %v", err)
		}
	})
}

// Calls to a leader that never answers must be repeated at the next leader as soon as there is one.
func TestCluster_FrozenLeaderHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		ms := l.trio(t, raftstore.Config{})
		l.freeze("m1")
		for name, call := range map[string]func() error{
			"commit": func() error {
				_, err := ms[1].Commit(t.Context(), "test", table.Create(task("t1")))
				return err
			},
			"read": func() error {
				_, err := ms[2].Latest(t.Context())
				return err
			},
		} {
			began := time.Now()
			if err := call(); err != nil || time.Since(began) > 3*time.Second {
				t.Errorf("%s: got %v after %v, want nil within 3s", name, err, time.Since(began))
			}
		}
		if _, ok := leaderOf(t, ms[1:]...).View().Tasks.Get("t1"); !ok {
			t.Error("an acknowledged write is missing")
		}
	})
}

func TestCluster_NoMajorityNoCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		ms := l.trio(t, raftstore.Config{})
		l.setCut("m1", true)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := ms[0].Commit(ctx, "test", table.Create(task("lost"))); err == nil {
			t.Error("a cut-off member committed")
		}
		rest := leaderOf(t, ms[1:]...)
		if _, err := rest.Commit(ctx, "test", table.Create(task("kept"))); err != nil {
			t.Errorf("the majority does not commit: %v", err)
		}
		if _, err := ms[0].ReadIndex(ctx); err == nil {
			t.Error("a cut-off member confirms its leadership")
		}
		l.setCut("m1", false)
		index, err := rest.ReadIndex(ctx)
		if err != nil {
			t.Fatal(err)
		}
		v, err := ms[0].WaitIndex(ctx, index)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := v.Tasks.Get("lost"); ok {
			t.Error("an abandoned commit was carried out")
		}
		if _, ok := v.Tasks.Get("kept"); !ok {
			t.Error("the majority's commit is missing after the cut was healed")
		}
	})
}

func TestCluster_RemovesAndTransfers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		ms := l.trio(t, raftstore.Config{})
		ctx := t.Context()
		if err := ms[1].TransferLeadership(ctx); err != nil {
			t.Fatal(err)
		}
		leader := leaderOf(t, ms[1:]...)
		if err := leader.RemoveServer(ctx, "m1"); err != nil {
			t.Fatal(err)
		}
		_ = l.stop(ms[0])
		if got := len(leader.Servers()); got != 2 {
			t.Errorf("%d members, want 2", got)
		}
		other := ms[1]
		if leader == other {
			other = ms[2]
		}
		l.setCut(other.id, true)
		time.Sleep(200 * time.Millisecond)
		if err := leader.RemoveServer(ctx, leader.id); err == nil {
			t.Error("the last reachable member was removed")
		}
	})
}

// A request whose answer was lost with a leader is proposed again and must be applied once, so a
// create never finds its own row.
func TestCluster_OnceAcrossLeaderChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		l.lose = 4
		ms := l.trio(t, raftstore.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		var clients sync.WaitGroup
		const each = 150
		for c := range 6 {
			clients.Go(func() {
				for i := range each {
					for {
						_, err := ms[c%3].Commit(ctx, "test", table.Create(task(fmt.Sprint(c, "-", i))))
						if err == nil {
							break
						}
						if !errdefs.IsUnavailable(err) || ctx.Err() != nil {
							t.Errorf("client %d, task %d: %v", c, i, err)
							return
						}
						// The outcome is unknown only if Commit has given up after Timeouts.Leader.
						if _, there := ms[c%3].View().Tasks.Get(fmt.Sprint(c, "-", i)); there {
							break
						}
					}
					time.Sleep(time.Duration(1+i%7) * 10 * time.Millisecond)
				}
			})
		}
		done := make(chan struct{})
		go func() { clients.Wait(); close(done) }()
		for round, over := 0, false; !over; round++ {
			leader := leaderOf(t, ms...)
			if round%2 == 0 {
				_ = leader.TransferLeadership(ctx)
			} else {
				l.setCut(leader.id, true)
				time.Sleep(1500 * time.Millisecond)
				l.setCut(leader.id, false)
			}
			select {
			case <-done:
				over = true
			case <-time.After(700 * time.Millisecond):
			}
		}
		leaderOf(t, ms...)
		v, err := ms[0].Latest(ctx)
		if err != nil || v.Tasks.Len() != 6*each {
			t.Errorf("got %d tasks, %v; want %d", v.Tasks.Len(), err, 6*each)
		}
	})
}

func TestCluster_MembersTellTheirFormat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		ms := l.trio(t, raftstore.Config{Build: "v1"})
		if _, err := ms[2].Commit(t.Context(), "test", table.Create(&swarmv1.Cluster{Id: "c", Epoch: 1})); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		v := ms[1].View()
		for _, m := range ms {
			row, _ := v.RaftMembers.Get(m.id)
			if row.GetFormat() != table.Format || row.GetBuild() != "v1" {
				t.Errorf("%s told %v", m.id, row)
			}
		}
		if err := ms[1].RemoveServer(t.Context(), "m3"); err != nil {
			t.Fatal(err)
		}
		_ = l.stop(ms[2])
		time.Sleep(2 * time.Second)
		if n := ms[1].View().RaftMembers.Len(); n != 2 {
			t.Errorf("%d members are remembered, want 2", n)
		}
	})
}
