package raftstore_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
)

// A member that is closed while it writes must end, although Raft does not answer entries that are
// committed but not yet applied at that moment.
func TestClose_WhileItWrites(t *testing.T) {
	for round := range 300 {
		l := newLAN()
		m := l.start(t, raftstore.Config{NodeID: "m1", Bootstrap: true})
		m.awaitLead(t)
		var writers sync.WaitGroup
		for w := range 8 {
			writers.Go(func() {
				for i := 0; ; i++ {
					if _, err := m.Commit(t.Context(), "test", table.Put(&swarmv1.Claim{Key: fmt.Sprintf("%d/%d", w, i)})); err != nil {
						return
					}
				}
			})
		}
		if _, err := m.WaitIndex(t.Context(), uint64(10+round%50)); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- l.stop(m) }()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the member does not end")
		}
		writers.Wait()
	}
}
