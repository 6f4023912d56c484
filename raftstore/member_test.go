package raftstore_test

import (
	"testing"

	"swarm/raftstore/raftstoretest"
)

// A member that is added and does not answer is removed again. MembersChanged must report it,
// because connections are checked against the members.
func TestStore_MembersChange(t *testing.T) {
	s := raftstoretest.New(t)
	changed := s.MembersChanged()
	if err := s.AddVoter(t.Context(), "silent"); err == nil {
		t.Error("a member that does not answer has a vote")
	}
	select {
	case <-changed:
	default:
		t.Error("MembersChanged did not report the new member")
	}
	if got := s.Servers(); len(got) != 1 {
		t.Errorf("members: %v, want the first one alone", got)
	}
}
