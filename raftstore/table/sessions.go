package table

import (
	"cmp"
	"maps"
	"slices"

	swarmv1 "swarm/proto/swarm/v1"
)

// maxSessions bounds the number of sessions. Each start of a manager opens a session, so the least
// recently used of 64 sessions belongs to a process that has ended long ago.
const maxSessions = 64

// sessions holds the answers to recent requests and is part of the replicated state. A client
// proposes a request again if its answer was lost with the leader; sessions ensure that it is
// applied once. See DESIGN.md, "Exactly once".
type sessions struct {
	byID map[string]*session
}

type session struct {
	answered uint64
	index    uint64
	answers  map[uint64]*swarmv1.Answer
}

func newSessions() sessions { return sessions{byID: make(map[string]*session)} }

// lookup returns the answer to a request that was applied before, or nil if the request is new.
func (s *sessions) lookup(r *swarmv1.Request) *swarmv1.Answer {
	x := s.byID[string(r.GetSession())]
	if x == nil {
		return nil
	}
	if a := x.answers[r.GetSequence()]; a != nil {
		return a
	}
	if r.GetSequence() < x.answered {
		return refuseAll(r, &swarmv1.GroupRefusal{Reason: swarmv1.GroupRefusal_GIVEN_UP})
	}
	return nil
}

// remember stores the answer to r, and drops the answers that the client has acknowledged.
func (s *sessions) remember(index uint64, r *swarmv1.Request, a *swarmv1.Answer) {
	if len(r.GetSession()) == 0 {
		return
	}
	id := string(r.GetSession())
	x := s.byID[id]
	if x == nil {
		if len(s.byID) >= maxSessions {
			s.evict()
		}
		x = &session{answers: make(map[uint64]*swarmv1.Answer)}
		s.byID[id] = x
	}
	x.index = index
	x.answers[r.GetSequence()] = a
	if r.GetAnswered() > x.answered {
		if r.GetAnswered()-x.answered > uint64(len(x.answers)) {
			maps.DeleteFunc(x.answers, func(seq uint64, _ *swarmv1.Answer) bool { return seq < r.GetAnswered() })
		} else {
			for seq := x.answered; seq < r.GetAnswered(); seq++ {
				delete(x.answers, seq)
			}
		}
		x.answered = r.GetAnswered()
	}
}

// evict drops the least recently used session. The id breaks ties, so that every member drops the
// same one.
func (s *sessions) evict() {
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
func (s *sessions) save() []*swarmv1.Session {
	out := make([]*swarmv1.Session, 0, len(s.byID))
	for _, id := range slices.Sorted(maps.Keys(s.byID)) {
		x := s.byID[id]
		answers := slices.SortedFunc(maps.Values(x.answers), func(a, b *swarmv1.Answer) int {
			return cmp.Compare(a.GetSequence(), b.GetSequence())
		})
		out = append(out, &swarmv1.Session{Id: []byte(id), Answered: x.answered, Index: x.index, Answers: answers})
	}
	return out
}

func (s *sessions) load(in *swarmv1.Session) {
	x := &session{answered: in.GetAnswered(), index: in.GetIndex(), answers: make(map[uint64]*swarmv1.Answer)}
	for _, a := range in.GetAnswers() {
		x.answers[a.GetSequence()] = a
	}
	s.byID[string(in.GetId())] = x
}
