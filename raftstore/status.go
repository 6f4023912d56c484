package raftstore

// Status describes this member's position in Raft.
type Status struct {
	Leads bool
	// HasLeader is true if this member knows a leader. Without a leader nothing can be written.
	HasLeader bool
	Term      uint64
	// Last is the index of the newest entry in this member's log. Committed is the newest index
	// that this member knows to be on a majority. Applied is the newest index that its view
	// includes.
	Last, Committed, Applied uint64
	// Voters is the number of voters in the cluster.
	Voters int
}

// Status returns the current status. It uses neither disk nor network.
func (s *Store) Status() Status {
	return Status{
		Leads: s.IsLeader(), HasLeader: s.Leader() != "", Term: s.raft.CurrentTerm(), Last: s.raft.LastIndex(),
		Committed: s.raft.CommitIndex(), Applied: s.View().Index(), Voters: s.voters(),
	}
}
