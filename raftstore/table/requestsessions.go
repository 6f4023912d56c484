package table

import (
	"cmp"
	"maps"
	"slices"

	swarmv1 "swarm/proto/swarm/v1"
)

// maxSessions bounds the number of sessions. Each start of a manager begins a session. So the least
// recently used session is still needed only if managers start 64 times while one request is in
// flight.
const maxSessions = 64

// requestSessions holds the answers to recent requests. It is part of the replicated state. A
// manager proposes a request again if the leader died before it answered. The second proposal then
// gets the answer to the first one and changes nothing. See raftstore/DESIGN.md, "Exactly once".
type requestSessions struct {
	byID map[string]*requestSession
}

// requestSession holds the answers to the requests of one start of a manager.
type requestSession struct {
	lowestUnanswered uint64 // the manager has received the answers to all lower sequence numbers
	index            uint64 // the log index of the newest request
	answers          map[uint64]*swarmv1.Answer
}

func newRequestSessions() requestSessions {
	return requestSessions{byID: make(map[string]*requestSession)}
}

// lookup returns the answer to a request that was applied before, or nil if the request is new.
func (s *requestSessions) lookup(r *swarmv1.Request) *swarmv1.Answer {
	x := s.byID[string(r.GetSession())]
	if x == nil {
		return nil
	}
	if a := x.answers[r.GetSequence()]; a != nil {
		return a
	}
	if r.GetSequence() < x.lowestUnanswered { // the manager no longer waits, and the answer was dropped
		return refuseAll(r, &swarmv1.GroupRefusal{Reason: swarmv1.GroupRefusal_GIVEN_UP})
	}
	return nil
}

// remember stores the answer to r, and drops the answers that the manager has received.
func (s *requestSessions) remember(index uint64, r *swarmv1.Request, a *swarmv1.Answer) {
	if len(r.GetSession()) == 0 {
		return
	}
	id := string(r.GetSession())
	x := s.byID[id]
	if x == nil {
		if len(s.byID) >= maxSessions {
			s.evict()
		}
		x = &requestSession{answers: make(map[uint64]*swarmv1.Answer)}
		s.byID[id] = x
	}
	x.index = index
	x.answers[r.GetSequence()] = a
	x.acknowledge(r.GetLowestUnanswered())
}

// acknowledge drops the answers below the sequence number lowest.
func (x *requestSession) acknowledge(lowest uint64) {
	if lowest <= x.lowestUnanswered {
		return
	}
	// Visit the answers or the sequence numbers, whichever are fewer.
	if lowest-x.lowestUnanswered > uint64(len(x.answers)) {
		maps.DeleteFunc(x.answers, func(seq uint64, _ *swarmv1.Answer) bool { return seq < lowest })
	} else {
		for seq := x.lowestUnanswered; seq < lowest; seq++ {
			delete(x.answers, seq)
		}
	}
	x.lowestUnanswered = lowest
}

// evict drops the least recently used session. The id breaks ties, so that every member drops the
// same one.
func (s *requestSessions) evict() {
	var oldest string
	for id, x := range s.byID {
		o := s.byID[oldest]
		if o == nil || x.index < o.index || x.index == o.index && id < oldest {
			oldest = id
		}
	}
	delete(s.byID, oldest)
}

// save returns the sessions in an order that is the same on every member.
func (s *requestSessions) save() []*swarmv1.Session {
	out := make([]*swarmv1.Session, 0, len(s.byID))
	for _, id := range slices.Sorted(maps.Keys(s.byID)) {
		x := s.byID[id]
		answers := slices.SortedFunc(maps.Values(x.answers), func(a, b *swarmv1.Answer) int {
			return cmp.Compare(a.GetSequence(), b.GetSequence())
		})
		out = append(out, &swarmv1.Session{Id: []byte(id), LowestUnanswered: x.lowestUnanswered, Index: x.index, Answers: answers})
	}
	return out
}

func (s *requestSessions) load(in *swarmv1.Session) {
	x := &requestSession{lowestUnanswered: in.GetLowestUnanswered(), index: in.GetIndex(), answers: make(map[uint64]*swarmv1.Answer)}
	for _, a := range in.GetAnswers() {
		x.answers[a.GetSequence()] = a
	}
	s.byID[string(in.GetId())] = x
}
