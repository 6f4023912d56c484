package raftstore

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	swarmv1 "swarm/proto/swarm/v1"
)

// Format is the newest command format that this build knows. Raise it with every change of what Apply does or stores
// that an older build would carry out differently, and write what is new only where View.Format allows it.
const Format = 1

// fsm carries the log over into the state and publishes views. Raft calls it from one goroutine.
type fsm struct {
	state  *state
	broker *broker

	published      atomic.Pointer[View]            // nil while a state that nobody holds is being written in place
	membersChanged *broadcast                      // rings when Raft has other members
	applied        atomic.Uint64                   // index of the newest published view
	cluster        atomic.Pointer[swarmv1.Cluster] // its Cluster row: to read it takes no view
	writing        sync.Mutex                      // held from unpublish to publish: who finds no view waits here

	halted chan error // takes the one reason why the member can no longer follow the log
}

func newFSM() *fsm {
	f := &fsm{state: newState(), broker: newBroker(), membersChanged: newBroadcast(), halted: make(chan error, 1)}
	f.publish(nil)
	return f
}

// result is what Apply answers to a proposer.
type result struct {
	term    uint64
	answers []*swarmv1.Answer // one for each request of the entry
}

// View is the newest state. It costs two atomic loads, unless a batch is being written in place.
func (f *fsm) view() *View {
	for {
		v := f.published.Load()
		if v == nil {
			f.writing.Lock() // waits for publish
			v = f.published.Load()
			f.writing.Unlock()
		}
		if !v.taken.Load() {
			v.taken.Store(true)
		}
		// begin withdraws a view first and then looks whether it was taken: if the view is still there, begin has yet to
		// look, and will see that it was.
		if f.published.Load() == v {
			return v
		}
	}
}

// begin makes the state writable. When nobody took the view, its trees are written in place, and readers wait for the
// moment that a batch takes; else what is written gets copied, and readers go on with the old view.
func (f *fsm) beginWrite() {
	f.writing.Lock()
	v := f.published.Swap(nil)
	if v.taken.Load() {
		f.published.Store(v)
		f.state.share()
	}
}

// publish shows the state, and then tells who waits for it.
func (f *fsm) publish(changes []RowChange) {
	f.publishView()
	f.broker.append(f.state.index, changes)
}

func (f *fsm) publishView() {
	v := f.state.view()
	f.cluster.Store(v.cluster)
	f.published.Store(v)
	f.applied.Store(v.index)
}

// ApplyBatch applies entries that were committed together, and publishes one view for all of them.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	var changes []RowChange
	configured := false
	f.beginWrite()
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
	f.writing.Unlock()
	if configured {
		f.membersChanged.send()
	}
	return out
}

// Apply is ApplyBatch of one.
func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// halt stops the member: whatever it did next would differ from what the others do. It ends the goroutine that applies,
// so that nothing after the entry is applied, no snapshot is taken, and the entry is found again at the next start.
// Readers keep the last view.
func (f *fsm) halt(err error) {
	f.published.CompareAndSwap(nil, f.state.view())
	f.writing.Unlock()
	select {
	case f.halted <- err:
	default:
	}
	runtime.Goexit()
}

// entry carries out one log entry. An error means that this member cannot know what the others do with it.
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

// request judges a request's groups one by one.
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

// ErrUnknownFormat: the log or a snapshot was written by a newer build.
var ErrUnknownFormat = errors.New("written by a newer build: upgrade this one")

// decode reads an entry strictly: what this build does not know it must not skip.
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

// Snapshot captures the state without copying it: the view is immutable.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return &snapshot{view: f.view(), sessions: f.state.sessions.save()}, nil
}

// Restore replaces the state.
func (f *fsm) Restore(r io.ReadCloser) error {
	st, err := readSnapshot(r)
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	f.beginWrite()
	f.state = st
	f.publishView()
	f.broker.reset(st.index)
	f.writing.Unlock()
	return nil
}
