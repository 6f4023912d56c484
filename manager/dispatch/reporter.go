package dispatch

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
)

// reportSessions reports the sessions to the leader twice in every heartbeat period, and at once
// when a session begins or ends, until ctx ends. The sessions then tell their workers which
// heartbeats the leader has heard of, because the lease of single-writer tasks counts from these
// heartbeats. When no leader has answered for three heartbeat periods, all sessions are closed.
// Their workers then look for a manager that is in touch with a leader.
func (s *Server) reportSessions(ctx context.Context) error {
	answered := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.reportNow:
		case <-ctx.Done():
			return nil
		}
		beat, _ := s.pace()
		leaderAnswered := s.reportOnce(ctx, beat)
		switch {
		case leaderAnswered:
			answered = time.Now()
			s.contact.answered(answered, spec.MissedHeartbeats*beat)
		case time.Since(answered) >= spec.MissedHeartbeats*beat:
			s.closeAll(errdefs.ErrUnavailable.WithMessage("this manager is out of touch with the leader: another one takes over"))
		}
		timer.Reset(beat / 2) // a heartbeat must be confirmed before the next one is due
	}
}

// reportSoon makes reportSessions report now, and the leader's Tracker judge now if it runs here.
func (s *Server) reportSoon() {
	select {
	case s.reportNow <- struct{}{}:
	default:
	}
	s.tracker.Reconsider()
}

// reportOnce makes one report and waits for the answer, for the timeout at most. It closes the
// sessions that are superseded elsewhere or belong to nodes that were removed, and confirms the
// heartbeats of all other sessions. It returns whether the leader answered.
func (s *Server) reportOnce(ctx context.Context, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	heartbeats := s.heartbeats() // taken before the report, so the report covers all of them
	ack, err := s.sendReport(ctx, s.sessionReport(time.Now()))
	if err != nil {
		s.log.Debug("report sessions to the leader", "err", err)
		return false
	}
	s.mu.Lock()
	for _, id := range ack.GetSuperseded() {
		if x := s.sessions[id]; x != nil {
			x.close(errSuperseded)
		}
	}
	s.mu.Unlock()
	for x, sequence := range heartbeats {
		if !slices.Contains(ack.GetSuperseded(), x.node) {
			x.confirm(sequence)
		}
	}
	return true
}

// sendReport hands a report to the leader, which may be this manager.
func (s *Server) sendReport(ctx context.Context, r *swarmv1.SessionReport) (*swarmv1.SessionReportAck, error) {
	leader := s.deps.Store.Leader()
	switch {
	case leader == "":
		return nil, errdefs.ErrUnavailable.WithMessage("the managers have no leader now: try again")
	case leader == s.cfg.NodeID:
		return s.tracker.TakeReport(ctx, r)
	}
	conn, err := s.deps.Conn(leader)
	if err != nil {
		return nil, err
	}
	return swarmv1.NewLivenessClient(conn).Report(ctx, r)
}

// heartbeats returns the newest heartbeat of each session.
func (s *Server) heartbeats() map[*session]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[*session]uint64, len(s.sessions))
	for _, x := range s.sessions {
		out[x] = x.newestHeartbeat()
	}
	return out
}

// inTouchFor returns how long leaders have answered this manager without a gap of three heartbeat
// periods.
func (s *Server) inTouchFor(now time.Time) time.Duration {
	beat, _ := s.pace()
	return s.contact.unbroken(now, spec.MissedHeartbeats*beat)
}

// sessionReport returns what this manager reports of its sessions. A session that has ended is
// reported for two session timeouts. It is reported longer if it is the newest session of a node
// that still counts as up: the leader may have changed before it could judge the node.
func (s *Server) sessionReport(now time.Time) *swarmv1.SessionReport {
	view := s.deps.Store.View()
	_, timeout := paceOf(view.Cluster())
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &swarmv1.SessionReport{ManagerId: s.cfg.NodeID}
	for id, x := range s.sessions {
		heard := x.lastHeard()
		r.Sessions = append(r.Sessions, &swarmv1.SessionEntry{
			NodeId: id, SessionEpoch: x.epoch, LastHeartbeat: timestamppb.New(heard), AgeMs: uint64(now.Sub(heard).Milliseconds()), Addr: x.addr,
			Departing: x.isDeparting(), Lease: durationpb.New(x.heldLease()),
		})
	}
	maps.DeleteFunc(s.ended, func(id string, e endedSession) bool {
		st, _ := view.NodeStates.Get(id)
		isJudged := st.GetState() != swarmv1.NodeState_READY || st.GetSessionEpoch() > e.epoch
		return isJudged && now.Sub(e.heard) > 2*timeout
	})
	for id, e := range s.ended {
		r.Sessions = append(r.Sessions, &swarmv1.SessionEntry{
			NodeId: id, SessionEpoch: e.epoch, AgeMs: uint64(now.Sub(e.heard).Milliseconds()), Addr: e.addr, Ended: true, Broken: e.broken,
			Departing: e.departing,
		})
	}
	return r
}
