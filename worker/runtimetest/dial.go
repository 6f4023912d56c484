package runtimetest

import (
	"testing"

	"github.com/containerd/errdefs"
)

func dialRefused(t *testing.T, s suite) {
	if s.Executor == nil {
		t.Skip("no executor")
	}
	ended, _ := s.started(Behaviour{Ends: true})
	s.wait(ended)
	id, _ := s.started(Behaviour{})
	for _, c := range []struct {
		what, id string
		is       func(error) bool
	}{
		{"a container that does not exist", s.Container(Behaviour{}).Task.Id, errdefs.IsNotFound},
		{"a container that has ended", ended, errdefs.IsFailedPrecondition},
		{"a port that no program listens on", id, errdefs.IsFailedPrecondition},
	} {
		conn, err := s.Executor.Dial(s.ctx, c.id, 1)
		if err == nil {
			conn.Close()
		}
		if !c.is(err) {
			t.Errorf("dial to %s: got %v", c.what, err)
		}
	}
	s.must(s.Runtime.Remove(s.ctx, ended))
	s.must(s.Runtime.Remove(s.ctx, id))
}
