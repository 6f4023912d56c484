package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/hashicorp/raft"

	swarmv1 "swarm/proto/swarm/v1"
)

// catchUp is how long a new member may take to read the whole state before it is turned away.
const catchUpTimeout = time.Minute

// Server is a member of Raft.
type Server struct {
	ID     string
	Voter  bool // false: it is still catching up
	Leader bool
	// Reachable is known to the leader alone; elsewhere it is true for the leader and this member.
	Reachable bool
}

// peers is what the leader's Raft observes of the others.
type peers struct {
	mu     sync.Mutex // guards the rest
	failed map[raft.ServerID]bool
	config chan struct{} // closed and renewed when members come or go
}

func newPeers() *peers {
	return &peers{failed: make(map[raft.ServerID]bool), config: make(chan struct{})}
}

func (p *peers) configChanged() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config
}

// set reports whether that is news.
func (p *peers) set(id raft.ServerID, failed bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.failed[id]
	p.failed[id] = failed
	return was != failed
}

// reset forgets what an earlier term observed.
func (p *peers) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.failed)
}

func (p *peers) reconfigured() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.config)
	p.config = make(chan struct{})
}

func (p *peers) reachable(id raft.ServerID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.failed[id]
}

// watchPeers follows Raft's observations.
func (s *Store) watchPeers(ctx context.Context) error {
	seen := make(chan raft.Observation, 64)
	o := raft.NewObserver(seen, false, nil)
	s.raft.RegisterObserver(o)
	defer s.raft.DeregisterObserver(o)
	for {
		select {
		case ob := <-seen:
			switch d := ob.Data.(type) {
			case raft.LeaderObservation:
				s.leadership.setLeaderKnown(s.Leader() != "")
				s.leadership.notify()
			case raft.FailedHeartbeatObservation:
				if s.peers.set(d.PeerID, true) {
					s.log.Warn("another manager cannot be reached", "node", string(d.PeerID), "since", d.LastContact)
				}
			case raft.ResumedHeartbeatObservation:
				if s.peers.set(d.PeerID, false) {
					s.log.Info("another manager can be reached again", "node", string(d.PeerID))
				}
			case raft.PeerObservation:
				s.peers.set(d.Peer.ID, false)
				s.peers.reconfigured()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Store) servers() []raft.Server {
	f := s.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

func (s *Store) others() (out []raft.Server) {
	for _, sv := range s.servers() {
		if string(sv.ID) != s.cfg.NodeID {
			out = append(out, sv)
		}
	}
	return out
}

func (s *Store) voters() (n int) {
	for _, sv := range s.servers() {
		if sv.Suffrage == raft.Voter {
			n++
		}
	}
	return n
}

// MembersChange is closed when Raft next has other members, as this one knows them.
func (s *Store) MembersChanged() <-chan struct{} { return s.fsm.membersChanged.next() }

// Servers lists the members as this one knows them.
func (s *Store) Servers() []Server {
	leader := s.Leader()
	leads := leader == s.cfg.NodeID
	var out []Server
	for _, sv := range s.servers() {
		id := string(sv.ID)
		out = append(out, Server{
			ID: id, Voter: sv.Suffrage == raft.Voter, Leader: id == leader,
			Reachable: id == s.cfg.NodeID || id == leader || leads && s.peers.reachable(sv.ID),
		})
	}
	return out
}

// AddVoter makes a node a member. It first catches up without a vote, so that the others can go on committing, and gets
// its vote once it has the whole state. The node's store must be open, and reachable through Deps.
func (s *Store) AddVoter(ctx context.Context, id string) error {
	return s.configure(ctx, swarmv1.ConfigureRequest_ADD, id)
}

// RemoveServer takes a member out. It refuses when the members that remain, as far as they are reachable, could not
// commit.
func (s *Store) RemoveServer(ctx context.Context, id string) error {
	return s.configure(ctx, swarmv1.ConfigureRequest_REMOVE, id)
}

// TransferLeadership makes another member lead.
func (s *Store) TransferLeadership(ctx context.Context) error {
	return s.configure(ctx, swarmv1.ConfigureRequest_TRANSFER, "")
}

// configure brings the change to the leader.
func (s *Store) configure(ctx context.Context, action swarmv1.ConfigureRequest_Action, id string) error {
	if s.raft.State() == raft.Leader {
		return s.configureHere(ctx, action, id)
	}
	_, rpc, err := s.leaderClient()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*catchUpTimeout)
	defer cancel()
	_, err = rpc.Configure(ctx, &swarmv1.ConfigureRequest{Action: action, NodeId: id}) // it may move the leadership
	return errgrpc.ToNative(err)
}

func (s *Store) configureHere(ctx context.Context, action swarmv1.ConfigureRequest_Action, id string) error {
	switch action {
	case swarmv1.ConfigureRequest_ADD:
		return s.add(ctx, id)
	case swarmv1.ConfigureRequest_REMOVE:
		return s.remove(ctx, id)
	case swarmv1.ConfigureRequest_TRANSFER:
		return s.waitFuture(ctx, s.raft.LeadershipTransfer(), "hand over leadership")
	}
	return invalid("change members: unknown action %d", action)
}

func (s *Store) add(ctx context.Context, id string) error {
	if id == "" {
		return invalid("add manager: no node id")
	}
	for _, sv := range s.servers() {
		if string(sv.ID) == id && sv.Suffrage == raft.Voter {
			return nil
		}
	}
	// The new member begins with a snapshot of this moment, because the log no longer reaches back to
	// its first entry (see logStore.follow).
	if _, err := s.snapshot(1); err != nil {
		return fmt.Errorf("add manager %s: take a snapshot: %w", id, err)
	}
	sid, addr := raft.ServerID(id), raft.ServerAddress(id)
	f := s.raft.AddNonvoter(sid, addr, 0, 0)
	if err := s.waitFuture(ctx, f, "add manager "+id); err != nil {
		return err
	}
	if err := s.awaitCatchUp(ctx, id, f.Index()); err != nil {
		undo := s.raft.RemoveServer(sid, 0, 0).Error()
		return errors.Join(fmt.Errorf("add manager %s: it did not catch up: %w", id, err), undo)
	}
	return s.waitFuture(ctx, s.raft.AddVoter(sid, addr, 0, 0), "add manager "+id)
}

func (s *Store) awaitCatchUp(ctx context.Context, id string, index uint64) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	rpc, err := s.raftClient(id)
	if err != nil {
		return err
	}
	_, err = rpc.Applied(ctx, &swarmv1.AppliedRequest{Index: index})
	return errgrpc.ToNative(err)
}

func (s *Store) remove(ctx context.Context, id string) error {
	voters, up, member := 0, 0, false
	for _, sv := range s.Servers() {
		switch {
		case sv.ID == id:
			member = true
		case sv.Voter:
			voters++
			if sv.Reachable {
				up++
			}
		}
	}
	if !member {
		return nil
	}
	if up < voters/2+1 {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"remove manager %s: %d of the %d managers that remain can be reached, and %d are needed; bring one back first", id, up, voters, voters/2+1))
	}
	if id == s.cfg.NodeID && voters > 0 {
		return s.removeSelf(ctx)
	}
	return s.waitFuture(ctx, s.raft.RemoveServer(raft.ServerID(id), 0, 0), "remove manager "+id)
}

// removeSelf hands leadership over first, so that the cluster is never without a leader, and lets the next one do it.
func (s *Store) removeSelf(ctx context.Context) error {
	if err := s.waitFuture(ctx, s.raft.LeadershipTransfer(), "hand over leadership"); err != nil {
		return err
	}
	for {
		leaderChanged := s.leadership.changed()
		if leader := s.Leader(); leader != "" && leader != s.cfg.NodeID {
			return s.configure(ctx, swarmv1.ConfigureRequest_REMOVE, s.cfg.NodeID)
		}
		select {
		case <-leaderChanged:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closed:
			return errClosed
		}
	}
}

// wait waits for a future of Raft's no longer than ctx allows. Raft always answers in the end, so the goroutine ends.
func (s *Store) waitFuture(ctx context.Context, f raft.Future, what string) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		if err != nil {
			return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%s: %v", what, err))
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
}
