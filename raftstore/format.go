package raftstore

import (
	"context"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
)

// actor signs what the store writes by itself.
const actor = "raftstore"

// enlist tells the cluster which format this member's build knows: at its start, and whenever its row is wrong or gone.
func (s *Store) publishFormat(ctx context.Context) error {
	for {
		view, w := s.Watch(TableRaftMember, TableCluster)
		for err := error(nil); err == nil; {
			mine, _ := view.RaftMembers.Get(s.cfg.NodeID)
			if view.cluster != nil && (mine.GetFormat() != Format || mine.GetBuild() != s.cfg.Build) {
				row := &swarmv1.RaftMember{NodeId: s.cfg.NodeID, Format: Format, Build: s.cfg.Build}
				if !s.commitUntilDone(ctx, Put(row)) {
					return nil
				}
			}
			var b Batch
			b, err = w.Next(ctx)
			view = b.View
		}
		w.Close()
		select {
		case <-ctx.Done():
			return nil
		case <-s.closed:
			return nil
		default: // to resync
		}
	}
}

// insist commits until it succeeds or ctx ends.
func (s *Store) commitUntilDone(ctx context.Context, c *swarmv1.Change) bool {
	for {
		leaderChanged := s.leadership.changed()
		_, err := s.Commit(ctx, actor, c)
		if err == nil {
			return true
		}
		s.log.Debug("a change of the store's own waits", "node", s.cfg.NodeID, "err", err)
		timer := time.NewTimer(time.Second)
		select {
		case <-leaderChanged:
		case <-timer.C:
		case <-ctx.Done():
		case <-s.closed:
		}
		timer.Stop()
		if ctx.Err() != nil || s.isClosed() {
			return false
		}
	}
}

func (s *Store) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// runGate raises the cluster's format, on the leader, once every member's build knows a newer one; and forgets members
// that were removed. The format never falls: what was written stays written.
func (s *Store) reconcileMembers(ctx context.Context) error {
	return s.Lead(ctx, func(ctx context.Context) error {
		for ctx.Err() == nil {
			changed := s.peers.configChanged()
			view, w := s.Watch(TableRaftMember, TableCluster)
			if c := s.memberChanges(view); len(c) > 0 {
				if _, err := s.Commit(ctx, actor, c...); err != nil && ctx.Err() == nil {
					s.log.Debug("the gate of formats waits", "node", s.cfg.NodeID, "err", err)
				}
			}
			_, _ = w.next(ctx, changed) // whatever comes, look again
			w.Close()
		}
		return nil
	})
}

// gate says what is to change in the state.
func (s *Store) memberChanges(view *View) (out []*swarmv1.Change) {
	servers := s.servers()
	if view.cluster == nil || len(servers) == 0 {
		return nil
	}
	known := make(map[string]bool, len(servers))
	lowest := uint32(Format)
	for _, sv := range servers {
		known[string(sv.ID)] = true
		m, _ := view.RaftMembers.Get(string(sv.ID))
		lowest = min(lowest, m.GetFormat()) // 0 until it has told
	}
	for m := range view.RaftMembers.All() {
		if !known[m.GetNodeId()] {
			out = append(out, Delete(m))
		}
	}
	if lowest > view.Format() {
		c := view.cluster.CloneVT()
		c.Format = lowest
		out = append(out, Update(c))
	}
	return out
}
