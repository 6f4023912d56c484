package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/raftstoretest"
	"swarm/raftstore/table"
)

// A node's new address is written when the node answers there. The node gets no session otherwise.
func TestTakeOverAddress(t *testing.T) {
	var asked []string
	answer := errors.New("connection refused")
	s := New(Config{NodeID: "m1"}, Deps{Log: slog.New(slog.DiscardHandler), Store: raftstoretest.New(t), Answers: func(_ context.Context, id, at string) error {
		asked = append(asked, id+" at "+at)
		return answer
	}})
	for _, row := range []table.Row{
		&swarmv1.Node{Id: "m1", Addr: "10.0.0.1", Port: 2377, Spec: &swarmv1.NodeSpec{Role: swarmv1.NodeSpec_MANAGER}},
		&swarmv1.Node{Id: "n1", Addr: "10.0.0.2", DataPathAddr: "10.0.0.2", Port: 2377},
	} {
		if _, err := s.deps.Store.Commit(t.Context(), "join", table.Create(row)); err != nil {
			t.Fatal(err)
		}
	}
	addr := func() string {
		n, _ := s.deps.Store.View().Nodes.Get("n1")
		return n.GetAddr() + " " + n.GetDataPathAddr()
	}
	same, other := &swarmv1.Hello{Addr: "10.0.0.2", Port: 2377}, &swarmv1.Hello{Addr: "10.0.0.9", Port: 2377}
	if err := s.takeOverAddress(t.Context(), "n1", same); err != nil || len(asked) != 0 {
		t.Errorf("the address that it has: %v, asked %q", err, asked)
	}
	if err := s.takeOverAddress(t.Context(), "n1", other); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "10.0.0.9:2377, and does not answer there: connection refused") || addr() != "10.0.0.2 10.0.0.2" {
		t.Errorf("an address at which it does not answer: %v, and has %s", err, addr())
	}
	answer = nil
	if err := s.takeOverAddress(t.Context(), "n1", other); err != nil || addr() != "10.0.0.9 10.0.0.9" {
		t.Errorf("another address: %v, and has %s", err, addr())
	}
	if len(asked) != 2 || asked[1] != "n1 at 10.0.0.9:2377" {
		t.Errorf("asked %q", asked)
	}
}
