package raftstore

import (
	"fmt"
	"io"
	"runtime"

	"github.com/hashicorp/raft"

	"swarm/internal/broadcast"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// fsm applies the log to the state and publishes views. Raft calls it from one goroutine.
type fsm struct {
	state          *table.State
	feed           *watch.Broker
	membersChanged broadcast.Signal // wakes its waiters when Raft's configuration changes

	halted chan error // receives the one reason why the member cannot follow the log; Run reads it
}

func newFSM() *fsm {
	st := table.NewState()
	return &fsm{state: st, feed: watch.NewBroker(st.View()), halted: make(chan error, 1)}
}

// result is what Apply returns to the proposer.
type result struct {
	term    uint64
	answers []*swarmv1.Answer // one for each request in the entry
}

// view returns the newest view.
func (f *fsm) view() *table.View { return f.feed.View() }

// ApplyBatch applies consecutive committed entries and publishes one view for all of them.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	var changes []table.RowChange
	configured := false
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			answers, changed, err := f.state.Apply(l.Index, l.Data, changes)
			if err != nil {
				f.halt(fmt.Errorf("apply log entry %d: %w", l.Index, err))
				// Raft runs this function on the goroutine that applies the log and takes
				// snapshots. End that goroutine: no later entry is applied, no snapshot includes
				// this entry, and the entry fails again at the next start.
				runtime.Goexit()
			}
			out[i], changes = &result{term: l.Term, answers: answers}, changed
		} else {
			f.state.Advance(l.Index)
		}
		configured = configured || l.Type == raft.LogConfiguration
	}
	f.feed.Publish(f.state.View(), changes)
	if configured {
		f.membersChanged.Broadcast()
	}
	return out
}

// Apply applies one entry.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// halt gives Run the reason why this member must stop: its state would diverge from the state of
// the other members. Run returns the first reason. Readers keep the last view.
func (f *fsm) halt(err error) {
	select {
	case f.halted <- err:
	default: // halted already holds a reason
	}
}

// Snapshot returns the current state. It copies no rows, because a view is immutable.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return snapshot{f.state.Snapshot()}, nil }

// snapshot is a raft.FSMSnapshot.
type snapshot struct{ table.Snapshot }

// Persist writes the snapshot to sink.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.Write(sink); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s snapshot) Release() {}

// Restore replaces the state with a snapshot.
func (f *fsm) Restore(r io.ReadCloser) error {
	st, err := table.ReadSnapshot(r)
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	f.state = st
	f.feed.Reset(st.View())
	return nil
}
