package raftstore

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"github.com/hashicorp/raft"

	swarmv1 "swarm/proto/swarm/v1"
)

// Format is the newest format of log entries and rows that this build knows. Raise it with every
// change of Apply or of the rows that an older build would handle differently. Write data of a new
// format only if View.Format allows it.
const Format = 1

// fsm applies the log to the state and publishes views. Raft calls it from one goroutine.
type fsm struct {
	state  *state
	broker *broker

	published      atomic.Pointer[View]
	membersChanged *broadcast // sent when Raft's configuration changes

	halted chan error // receives the one reason why the member cannot follow the log
}

func newFSM() *fsm {
	f := &fsm{state: newState(), broker: newBroker(), membersChanged: newBroadcast(), halted: make(chan error, 1)}
	f.publish(nil)
	return f
}

// result is what Apply returns to the proposer.
type result struct {
	term    uint64
	answers []*swarmv1.Answer // one for each request in the entry
}

// view returns the newest view.
func (f *fsm) view() *View { return f.published.Load() }

// publish publishes the new view and then wakes the watchers.
func (f *fsm) publish(changes []RowChange) {
	f.published.Store(f.state.view())
	f.broker.append(f.state.index, changes)
}

// ApplyBatch applies consecutive committed entries and publishes one view for all of them.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	var changes []RowChange
	configured := false
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			r, err := f.applyEntry(l, &changes)
			if err != nil {
				f.halt(fmt.Errorf("apply log entry %d: %w", l.Index, err))
			}
			out[i] = r
		}
		configured = configured || l.Type == raft.LogConfiguration
		f.state.index = l.Index
	}
	f.publish(changes)
	if configured {
		f.membersChanged.send()
	}
	return out
}

// Apply applies one entry.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// halt stops the member because its state would diverge from the other members'. It ends the
// goroutine that applies the log, so no later entry is applied and no snapshot is taken, and the
// same entry fails again at the next start. Readers keep the last view.
func (f *fsm) halt(err error) {
	select {
	case f.halted <- err:
	default:
	}
	runtime.Goexit()
}

// applyEntry applies one log entry. It fails if this build cannot know what other members do with
// the entry.
func (f *fsm) applyEntry(l *raft.Log, changes *[]RowChange) (*result, error) {
	env, err := decode(l.Data)
	if err != nil {
		return nil, err
	}
	st := f.state
	e := &entry{index: l.Index, time: env.GetTime(), changes: *changes}
	res := &result{term: l.Term, answers: make([]*swarmv1.Answer, len(env.GetRequests()))}
	for i, r := range env.GetRequests() {
		a := st.sessions.lookup(r)
		if a == nil {
			a = st.applyRequest(e, env, r)
			st.sessions.remember(l.Index, r, a)
		}
		res.answers[i] = a
	}
	*changes = e.changes
	return res, nil
}

// applyRequest applies the groups of a request, each independently.
func (s *state) applyRequest(e *entry, env *swarmv1.Envelope, r *swarmv1.Request) *swarmv1.Answer {
	if epoch := s.cluster().GetEpoch(); epoch != env.GetEpoch() && epoch != 0 && env.GetEpoch() != 0 {
		a := refuseAll(r, codeWrongEpoch, fmt.Sprintf("the request is of cluster epoch %d; this is epoch %d", env.GetEpoch(), epoch))
		a.Index = e.index
		return a
	}
	a := &swarmv1.Answer{Sequence: r.GetSequence(), Index: e.index, Groups: uint32(len(r.GetGroups()))}
	for i, g := range r.GetGroups() {
		if refused := s.applyGroup(e, g); refused != nil {
			a.Refused = append(a.Refused, &swarmv1.Refused{Group: uint32(i), Result: refused})
		}
	}
	return a
}

// ErrUnknownFormat means that the log or a snapshot was written by a newer build.
var ErrUnknownFormat = errors.New("written by a newer build: upgrade this manager")

// decode parses a log entry. It fails on unknown fields, because skipping them could make the
// members diverge.
func decode(data []byte) (*swarmv1.Envelope, error) {
	env := &swarmv1.Envelope{}
	if err := env.UnmarshalVT(data); err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	if env.GetFormat() > Format {
		return nil, fmt.Errorf("format %d: %w", env.GetFormat(), ErrUnknownFormat)
	}
	if env.GetFormat() == 0 {
		return nil, errors.New("damaged: no format")
	}
	unknown := len(env.ProtoReflect().GetUnknown()) > 0
	for _, r := range env.GetRequests() {
		unknown = unknown || len(r.ProtoReflect().GetUnknown()) > 0
		for _, g := range r.GetGroups() {
			unknown = unknown || len(g.ProtoReflect().GetUnknown()) > 0
			for _, c := range g.GetChanges() {
				unknown = unknown || len(c.ProtoReflect().GetUnknown()) > 0
				if err := valid(c); err != nil {
					return nil, err
				}
			}
		}
	}
	if unknown {
		return nil, fmt.Errorf("unknown fields: %w", ErrUnknownFormat)
	}
	return env, nil
}

// Snapshot returns the current state. It copies no rows, because a view is immutable.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return &snapshot{view: f.view(), sessions: f.state.sessions.save()}, nil
}

// Restore replaces the state with a snapshot.
func (f *fsm) Restore(r io.ReadCloser) error {
	st, err := readSnapshot(r)
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	f.state = st
	f.published.Store(st.view())
	f.broker.reset(st.index)
	return nil
}
