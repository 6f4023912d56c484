package raftstore

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"swarm/internal/broadcast"
	"swarm/internal/pause"
)

// announcer tells the other members about committed entries at once. An announcement is the message
// that Raft would send later: an AppendEntries without entries. It is safe because it names the
// entry and its term, so a member whose log differs there refuses it, and because it carries the
// term in which this member proposed the entry as the leader.
//
// It works around a property of hashicorp/raft (v1.7.3, replicate and pipelineReplicate in
// replication.go): a leader tells followers what is committed only with the next entries or after
// CommitTimeout (50-100 ms), and its heartbeats do not carry the commit index, so that they never
// wait for a follower's disk. See hashicorp/raft#28 and #282. Without announcements, a follower's
// view would lag by CommitTimeout whenever no entry follows. Config.NoAnnouncements turns them off,
// and TestAnnounce_StillNeeded fails when Raft no longer needs them.
type announcer struct {
	mu      sync.Mutex // guards the rest
	index   uint64
	term    uint64
	changed broadcast.Signal // wakes its waiters when index rises
}

func newAnnouncer() *announcer { return &announcer{} }

// committed records the newest committed entry and wakes the goroutines of runAnnouncer.
func (a *announcer) committed(index, term uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if index <= a.index {
		return
	}
	a.index, a.term = index, term
	a.changed.Broadcast()
}

func (a *announcer) current() (index, term uint64, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.index, a.term, a.changed.Changed()
}

// runAnnouncer runs one goroutine for each other member while this member leads, so that a slow
// member does not delay the others. Each goroutine sends only the newest index, so commits during
// one message go out with the next.
func (s *Store) runAnnouncer(ctx context.Context) error {
	return s.Lead(ctx, func(ctx context.Context) error {
		for ctx.Err() == nil {
			changed := s.peers.configChanged()
			round, stop := context.WithCancel(ctx)
			g, round := errgroup.WithContext(round)
			for _, server := range s.others() {
				g.Go(func() error { return s.announceTo(round, server) })
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
			stop()
			_ = g.Wait()
		}
		return nil
	})
}

func (s *Store) announceTo(ctx context.Context, to raft.Server) error {
	sent := uint64(0)
	for {
		index, term, changed := s.announce.current()
		for try := 0; index > sent && ctx.Err() == nil; try++ {
			if s.sendAnnouncement(to, index, term) || try == announceRetries {
				sent = index
				break
			}
			_ = pause.For(ctx, time.Millisecond<<try)
			index, term, changed = s.announce.current()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// announceRetries is the number of times that an announcement is repeated if it arrived before its
// entry, which travels on another connection. The delays are 1, 2, 4, 8 and 16 ms. Raft's own
// message follows soon after that.
const announceRetries = 5

// sendAnnouncement sends one announcement. It returns false if the member does not have the entry
// yet. After any other failure it returns true, because Raft's own messages follow.
func (s *Store) sendAnnouncement(to raft.Server, index, term uint64) bool {
	me := raft.ServerID(s.cfg.NodeID)
	req := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(me), Addr: s.trans.EncodePeer(me, raft.ServerAddress(me)),
		},
		Term: term, PrevLogEntry: index, PrevLogTerm: term, LeaderCommitIndex: index,
	}
	var resp raft.AppendEntriesResponse
	if err := s.trans.AppendEntries(to.ID, to.Address, req, &resp); err != nil {
		s.log.Debug("cannot announce a commit", "node", string(to.ID), "index", index, "err", err)
		return true
	}
	return resp.Success || resp.Term > term || resp.LastLog >= index
}
