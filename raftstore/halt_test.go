package raftstore

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	swarmv1 "swarm/proto/swarm/v1"
)

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
