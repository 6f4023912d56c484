package dispatch

import (
	"context"
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

// tellLeader reports the sessions every heartbeat, and at once when one begins or ends. A manager that the leader has
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
		case s.deps.Store.IsLeader():
			touched = time.Now()
			s.tracker.nudge() // as a report would
		case s.tell(ctx, beat):
			touched = time.Now()
		case time.Since(touched) >= missedBeats*beat:
			s.closeAll(errdefs.ErrUnavailable.WithMessage("this manager is out of touch with the leader: another one takes over"))
		}
		timer.Reset(beat)
	}
}

// tell makes one report, and closes the sessions that are superseded elsewhere.
func (s *Server) tell(ctx context.Context, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ack, err := s.askLeader(ctx, s.sessionReport(time.Now()))
	if err != nil {
		s.log.Debug("report sessions to the leader", "err", err)
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ack.GetSuperseded() {
		if x := s.sessions[id]; x != nil {
			x.close(errSuperseded)
		}
	}
	return true
}
