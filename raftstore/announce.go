package raftstore

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"swarm/internal/pause"
)

// announcer tells the other members at once what is committed. Raft itself tells them with the next entries, or else
// after CommitTimeout (50-100 ms): a follower's view would lag by that after every quiet moment. What is sent is what
// Raft would send later: an AppendEntries without entries. It names an entry and its term, so a member whose log differs
// there refuses it, and it is sent in the term of that entry, which this member itself proposed as its leader.
type announcer struct {
	mu      sync.Mutex // guards the rest
	index   uint64
	term    uint64
	changed chan struct{} // closed and renewed when index grows
}

func newAnnouncer() *announcer { return &announcer{changed: make(chan struct{})} }

func (a *announcer) committed(index, term uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if index <= a.index {
		return
	}
	a.index, a.term = index, term
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *announcer) current() (index, term uint64, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.index, a.term, a.changed
}

// runAnnouncer has one goroutine for each other member while this one leads, so that a slow member delays no other.
// Each sends the newest index only: what is committed while a message is under way goes with the next.
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

// overtakes is how often an announcement is repeated that came before the entry it tells of, which is under way on
// another connection: for 1, 2, 4, ... ms, then Raft's own message is due.
const announceRetries = 5

// tell sends one announcement. false: the member does not have the entry yet. Other failures need no remedy: Raft's own
// messages follow.
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
		s.log.Debug("announcement was not delivered", "node", string(to.ID), "index", index, "err", err)
		return true
	}
	return resp.Success || resp.Term > term || resp.LastLog >= index
}
