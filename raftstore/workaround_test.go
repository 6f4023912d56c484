package raftstore_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"swarm/raftstore"
	"swarm/raftstore/table"
)

// visibleAfter commits tasks through a follower, with pauses, and returns for each the time until
// every member has applied it. It must run in a synctest bubble: there, time passes only while
// every goroutine waits.
func visibleAfter(t *testing.T, cfg raftstore.Config) (took []time.Duration) {
	t.Helper()
	l := newLAN()
	ms := l.trio(t, cfg)
	for i := range 20 {
		time.Sleep(time.Second)
		start := time.Now()
		index, err := ms[1].Commit(t.Context(), "test", table.Create(task(fmt.Sprint(i))))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			if _, err := m.WaitIndex(t.Context(), index); err != nil {
				t.Fatal(err)
			}
		}
		took = append(took, time.Since(start))
	}
	return took
}

func TestCluster_FollowersLearnOfCommitsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for i, took := range visibleAfter(t, raftstore.Config{}) {
			// The only timer may be that of an announcement that overtook its entry.
			if took > 5*time.Millisecond {
				t.Errorf("commit %d waited %s for a timer", i, took)
			}
		}
	})
}

// If this test fails, hashicorp/raft tells followers about commits by itself, and announce.go can
// be deleted.
func TestAnnounce_StillNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := visibleAfter(t, raftstore.Config{NoAnnouncements: true})
		slices.Sort(took)
		// Raft's CommitTimeout is 50 ms.
		if median := took[len(took)/2]; median < 40*time.Millisecond {
			t.Errorf("without announcements, commits are visible everywhere after %s, want at least 40ms: see announcer", median)
		}
	})
}

// ledAfter returns the time until the only member of a new cluster leads.
func ledAfter(t *testing.T, cfg raftstore.Config) time.Duration {
	t.Helper()
	cfg.NodeID, cfg.Bootstrap = "m1", true
	l := newLAN()
	start := time.Now()
	l.start(t, cfg).awaitLead(t)
	return time.Since(start)
}

func TestElectSoleVoter_LeadsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if took := ledAfter(t, raftstore.Config{}); took > 50*time.Millisecond {
			t.Errorf("a sole voter leads after %s, want at once", took)
		}
	})
}

// If this test fails, hashicorp/raft elects a sole voter by itself, and solevoter.go can be
// deleted.
func TestElectSoleVoter_StillNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := ledAfter(t, raftstore.Config{NoImmediateElection: true})
		if took < 500*time.Millisecond { // the heartbeat timeout
			t.Errorf("without the message, a sole voter leads after %s, want at least 500ms: see electSoleVoter", took)
		}
	})
}
