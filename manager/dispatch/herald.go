package dispatch

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
)

// askLeader hands a report to the leader, which may be this manager.
func (s *Server) askLeader(ctx context.Context, r *swarmv1.SessionReport) (*swarmv1.SessionReportAck, error) {
	leader := s.deps.Store.Leader()
	switch {
	case leader == "":
		return nil, errdefs.ErrUnavailable.WithMessage("the managers have no leader now: try again")
	case leader == s.cfg.NodeID:
		return s.hear(ctx, r)
	}
	conn, err := s.deps.Conn(leader)
	if err != nil {
		return nil, err
	}
	return swarmv1.NewLivenessClient(conn).Report(ctx, r)
}

// tellLeader reports the sessions twice every heartbeat, and at once when one begins or ends. The workers
// are told which of their heartbeats the leader has heard of: the lease of single-writer tasks counts from
// these. A manager that the leader has
// not answered for three heartbeats closes its sessions: its workers find a manager that is in touch.
func (s *Server) tellLeader(ctx context.Context) error {
	touched := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.herald:
		case <-ctx.Done():
			return nil
		}
		beat, _ := Pace(s.deps.Store.View().Cluster())
		switch {
		case s.tell(ctx, beat):
			touched = time.Now()
		case time.Since(touched) >= missedBeats*beat:
			s.closeAll(errdefs.ErrUnavailable.WithMessage("this manager is out of touch with the leader: another one takes over"))
		}
		timer.Reset(beat / 2) // so that a heartbeat is confirmed before the next one is due
	}
}

// beats is the newest heartbeat of each session.
func (s *Server) beats() map[*session]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[*session]uint64, len(s.sessions))
	for _, x := range s.sessions {
		out[x] = x.newest()
	}
	return out
}

// tell makes one report, closes the sessions that are superseded elsewhere or of nodes that were removed, and confirms the
// heartbeats of the others.
func (s *Server) tell(ctx context.Context, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	beats := s.beats()
	ack, err := s.askLeader(ctx, s.sessionReport(time.Now()))
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
	for x, sequence := range beats {
		if !slices.Contains(ack.GetSuperseded(), x.node) {
			x.confirm(sequence)
		}
	}
	return true
}
