package raftstore

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/logstore"
)

// fullDisk refuses writes once full is set.
type fullDisk struct {
	logstore.Disk
	full *atomic.Bool
}

func (d fullDisk) StoreLogs(logs []*raft.Log) error {
	if d.full.Load() {
		return syscall.ENOSPC
	}
	return d.Disk.StoreLogs(logs)
}

func (d fullDisk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

func (d fullDisk) SetUint64(key []byte, v uint64) error {
	if d.full.Load() {
		return syscall.ENOSPC
	}
	return d.Disk.SetUint64(key, v)
}

// A leader that cannot apply an entry must stop, although its own proposal of that entry is never
// answered.
func TestRun_LeaderThatCannotFollowStops(t *testing.T) {
	unreachable := func(context.Context, string) (net.Conn, error) { return nil, net.ErrClosed }
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{NodeID: "m1", Bootstrap: true}, Deps{
		Listener: listener, Dial: unreachable,
		Conn: func(string) (grpc.ClientConnInterface, error) { return nil, net.ErrClosed },
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	for !s.IsLeader() {
		select {
		case <-s.LeaderChanged():
		case <-time.After(10 * time.Millisecond): // poll interval
		}
	}
	s.enqueue(t.Context(), &swarmv1.Request{Groups: []*swarmv1.Group{{Changes: []*swarmv1.Change{{}}}}})
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "apply log entry") {
			t.Errorf("the member ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the member does not end")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A Raft that cannot save its term takes no entry. A proposal must still be answered, and Close
// must end.
func TestPropose_EndsWhileRaftCannotSaveItsTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var full atomic.Bool
		s, err := Open(Config{NodeID: "m1", Bootstrap: true}, Deps{WrapDisk: func(d logstore.Disk) logstore.Disk { return fullDisk{d, &full} }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(time.Minute)
		full.Store(true)
		req := &swarmv1.Request{Groups: []*swarmv1.Group{{}}}
		if o := <-s.enqueue(ctx, req)[0].done; o.err == nil {
			t.Error("an entry was stored on a full disk")
		}
		time.Sleep(time.Minute)
		if s.stable.WriteErr() == nil {
			t.Fatal("Raft does not wait for its disk, so this test shows nothing")
		}
		if _, err := s.await(t.Context(), s.enqueue(ctx, req)[0]); !isRetryable(err) {
			t.Errorf("got %v, want an error that is retryable", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
