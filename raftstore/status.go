package raftstore

// Standing is how far this member has come.
type Status struct {
	Leads bool
	// Leader is known; without one nothing can be written.
	HasLeader bool
	Term      uint64
	// Last is the index of the newest entry in the log here, Committed of the newest that a majority has, as far as this
	// member knows, Applied of the newest that its view shows.
	Last, Committed, Applied uint64
	// Voters of the cluster.
	Voters int
}

// Standing asks Raft; it costs no disk or network.
func (s *Store) Status() Status {
	return Status{
		Leads: s.IsLeader(), HasLeader: s.Leader() != "", Term: s.raft.CurrentTerm(), Last: s.raft.LastIndex(),
		Committed: s.raft.CommitIndex(), Applied: s.fsm.applied.Load(), Voters: s.voters(),
	}
}
