package raftstore_test

import (
	"testing"

	"swarm/raftstore/raftstoretest"
)

// A member that is added and does not answer leaves again. Whoever judges connections by the members is told both times.
func TestStore_MembersChange(t *testing.T) {
	s := raftstoretest.New(t)
	changed := s.MembersChanged()
	if err := s.AddVoter(t.Context(), "silent"); err == nil {
		t.Error("a member that does not answer has a vote")
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told that Raft has another member")
	}
	if got := s.Servers(); len(got) != 1 {
		t.Errorf("members: %v, want the first one alone", got)
	}
}
