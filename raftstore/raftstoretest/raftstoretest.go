// Package raftstoretest makes stores and views for the tests of other packages. They are in memory,
// use no network, and work in testing/synctest.
package raftstoretest

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"swarm/raftstore"
	"swarm/raftstore/table"
)

// New opens a store with one member, in memory, and returns once it leads. The store is closed at
// the end of the test.
func New(tb testing.TB) *raftstore.Store {
	tb.Helper()
	s, err := raftstore.Open(raftstore.Config{
		NodeID: "m1", Bootstrap: true,
		Timeouts: raftstore.Timeouts{Heartbeat: 20 * time.Millisecond, Election: 20 * time.Millisecond, LeaderLease: 20 * time.Millisecond},
	}, raftstore.Deps{})
	if err != nil {
		tb.Fatal(err)
	}
	Run(tb, s)
	led := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_ = s.Lead(ctx, func(context.Context) error {
			close(led)
			cancel()
			return nil
		})
	}()
	<-led
	return s
}

// Run runs a store until the test ends, and then closes it.
func Run(tb testing.TB, s *raftstore.Store) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("run store: %v", err)
		}
		if err := s.Close(); err != nil {
			tb.Errorf("close store: %v", err)
		}
	})
}

// View returns a view that holds objs, without Raft. Objects without a version get version 1.
func View(objs ...proto.Message) *table.View { return table.ViewOf(objs...) }
