package raftstore

import (
	"context"
	"time"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// actor is the author of the changes that the store commits by itself.
const actor = "raftstore"

// publishFormat keeps this member's RaftMember row up to date: the newest format that its build
// knows, and the build's version. It writes the row at the start and whenever the row is wrong or
// missing. It returns when ctx ends or the store is closed.
func (s *Store) publishFormat(ctx context.Context) error {
	for ctx.Err() == nil && !s.isClosed() {
		view, w := s.Watch(table.RaftMember, table.Cluster)
		for {
			mine, _ := view.RaftMembers.Get(s.cfg.NodeID)
			if view.Cluster() != nil && (mine.GetFormat() != table.Format || mine.GetBuild() != s.cfg.Build) {
				row := &swarmv1.RaftMember{NodeId: s.cfg.NodeID, Format: table.Format, Build: s.cfg.Build}
				if !s.commitUntilDone(ctx, table.Put(row)) {
					break
				}
			}
			b, err := w.Next(ctx)
			if err != nil {
				break // the outer loop takes a new watcher, or ends if ctx has ended or the store is closed
			}
			view = b.View
		}
		w.Close()
	}
	return nil
}

// commitUntilDone retries the commit until it succeeds. It returns false if ctx ends or the store
// is closed.
func (s *Store) commitUntilDone(ctx context.Context, c *swarmv1.Change) bool {
	for {
		leaderChanged := s.leadership.changed()
		_, err := s.Commit(ctx, actor, c)
		if err == nil {
			return true
		}
		s.log.Debug("cannot publish this manager's format; retrying", "node", s.cfg.NodeID, "err", err)
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

// reconcileMembers runs on the leader. It raises the cluster's format once every member's build
// knows a newer one, and deletes the rows of members that were removed. The format is never
// lowered, because the state may already contain data of that format.
func (s *Store) reconcileMembers(ctx context.Context) error {
	return s.Lead(ctx, func(ctx context.Context) error {
		for ctx.Err() == nil {
			changed := s.peers.configChanged()
			view, w := s.Watch(table.RaftMember, table.Cluster)
			if c := s.memberChanges(view); len(c) > 0 {
				if _, err := s.Commit(ctx, actor, c...); err != nil && ctx.Err() == nil {
					s.log.Debug("cannot update the cluster's format and members; retrying", "node", s.cfg.NodeID, "err", err)
				}
			}
			_, _ = w.NextOr(ctx, changed) // after any change or error, the loop compares again
			w.Close()
		}
		return nil
	})
}

// memberChanges returns the changes that bring the RaftMember rows and the cluster's format in line
// with Raft's members.
func (s *Store) memberChanges(view *table.View) (out []*swarmv1.Change) {
	servers := s.servers()
	if view.Cluster() == nil || len(servers) == 0 {
		return nil
	}
	known := make(map[string]bool, len(servers))
	lowest := uint32(table.Format)
	for _, sv := range servers {
		known[string(sv.ID)] = true
		m, _ := view.RaftMembers.Get(string(sv.ID))
		lowest = min(lowest, m.GetFormat()) // 0 if the member has not published it
	}
	for m := range view.RaftMembers.All() {
		if !known[m.GetNodeId()] {
			out = append(out, table.Delete(m))
		}
	}
	if lowest > view.Format() {
		c := view.Cluster().CloneVT()
		c.Format = lowest
		out = append(out, table.Update(c))
	}
	return out
}
