package table

import (
	"errors"
	"fmt"

	swarmv1 "swarm/proto/swarm/v1"
)

// Format is the newest format of log entries and rows that this build knows. Raise it whenever
// Apply or the rows change in a way that an older build would handle differently. Write data of a
// new format only if View.Format allows it.
const Format = 2

// Apply applies the log entry with the given index. data is an encoded swarmv1.Envelope. Apply
// returns one answer for each request of the entry. It appends the changes of the entry to the
// slice changes, and returns that slice too. It is a pure function of the state and the entry.
//
// Apply returns an error if this build cannot know what other members do with the entry: the entry
// has a newer format (ErrUnknownFormat), or it is damaged. The State must not be used afterwards.
func (s *State) Apply(index uint64, data []byte, changes []RowChange) ([]*swarmv1.Answer, []RowChange, error) {
	env, err := decode(data)
	if err != nil {
		return nil, changes, err
	}
	e := &entry{index: index, time: env.GetTime(), changes: changes}
	answers := make([]*swarmv1.Answer, len(env.GetRequests()))
	for i, r := range env.GetRequests() {
		a := s.requests.lookup(r)
		if a == nil {
			a = s.applyRequest(e, env, r)
			if env.GetFormat() < formatRefusals {
				addWords(a)
			}
			s.requests.remember(index, r, a)
		}
		answers[i] = a
	}
	s.index = index
	return answers, e.changes, nil
}

// applyRequest applies the groups of a request, each independently.
func (s *State) applyRequest(e *entry, env *swarmv1.Envelope, r *swarmv1.Request) *swarmv1.Answer {
	if epoch := s.cluster().GetEpoch(); epoch != env.GetEpoch() && epoch != 0 && env.GetEpoch() != 0 {
		a := refuseAll(r, &swarmv1.GroupRefusal{Reason: swarmv1.GroupRefusal_WRONG_EPOCH, Want: env.GetEpoch(), Have: epoch})
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
				if err := Validate(c); err != nil {
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
