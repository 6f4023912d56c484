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

	"swarm/internal/broadcast"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/watch"
)

// catchUpTimeout bounds the time in which a new member must apply the whole state. A member that is
// slower is removed again.
const catchUpTimeout = time.Minute

// Server is a member of the Raft configuration.
type Server struct {
	ID     string
	Voter  bool // false while the member catches up
	Leader bool
	// Reachable is accurate only on the leader. Other members report true for the leader and
	// themselves, and false for the rest.
	Reachable bool
}

// peers records what this member's Raft observes about the other members.
type peers struct {
	mu     sync.Mutex             // guards the rest
	failed map[raft.ServerID]bool // members whose heartbeats fail
	config broadcast.Signal       // wakes its waiters when the members change
}

func newPeers() *peers {
	return &peers{failed: make(map[raft.ServerID]bool)}
}

func (p *peers) configChanged() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config.Changed()
}

// setFailed records whether the heartbeats to a member fail. changed is true if the record was
// different before.
func (p *peers) setFailed(id raft.ServerID, failed bool) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.failed[id]
	p.failed[id] = failed
	return was != failed
}

// reset drops the observations of earlier terms.
func (p *peers) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.failed)
}

func (p *peers) reconfigured() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config.Broadcast()
}

func (p *peers) reachable(id raft.ServerID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.failed[id]
}

// watchPeers handles Raft's observations: changes of leader, of members and of their reachability.
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
				if changed := s.peers.setFailed(d.PeerID, true); changed {
					s.log.Warn("another manager cannot be reached", "node", string(d.PeerID), "since", d.LastContact)
				}
			case raft.ResumedHeartbeatObservation:
				if changed := s.peers.setFailed(d.PeerID, false); changed {
					s.log.Info("another manager can be reached again", "node", string(d.PeerID))
				}
			case raft.PeerObservation:
				s.peers.setFailed(d.Peer.ID, false)
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

// MembersChanged returns a channel that is closed when this member applies the next change of the
// Raft configuration.
func (s *Store) MembersChanged() <-chan struct{} { return s.fsm.membersChanged.Changed() }

// Servers returns the members as this member knows them.
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

// AddVoter makes the node a voter. The node first catches up without a vote, so that the other
// members can commit without it, and becomes a voter once it has applied the whole state. The
// node's store must be open and reachable through Deps. If the node does not catch up within a
// minute, AddVoter removes it again and returns an error. AddVoter does nothing if the node is a
// voter already.
func (s *Store) AddVoter(ctx context.Context, id string) error {
	return s.configure(ctx, swarmv1.ConfigureRequest_ADD, id)
}

// RemoveServer removes a member. If the member leads, it first transfers leadership, and the next
// leader removes it. RemoveServer returns errdefs.ErrFailedPrecondition if fewer than a majority of
// the remaining voters are reachable, and does nothing if the node is not a member.
func (s *Store) RemoveServer(ctx context.Context, id string) error {
	return s.configure(ctx, swarmv1.ConfigureRequest_REMOVE, id)
}

// TransferLeadership transfers leadership to another member that Raft selects.
func (s *Store) TransferLeadership(ctx context.Context) error {
	return s.configure(ctx, swarmv1.ConfigureRequest_TRANSFER, "")
}

// configure executes the action on the leader.
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
	// callLeader would cancel the call when leadership moves, which the action may cause.
	_, err = rpc.Configure(ctx, &swarmv1.ConfigureRequest{Action: action, NodeId: id})
	return errgrpc.ToNative(err)
}

func (s *Store) configureHere(ctx context.Context, action swarmv1.ConfigureRequest_Action, id string) error {
	switch action {
	case swarmv1.ConfigureRequest_ADD:
		return s.add(ctx, id)
	case swarmv1.ConfigureRequest_REMOVE:
		return s.remove(ctx, id)
	case swarmv1.ConfigureRequest_TRANSFER:
		return s.ask(ctx, "hand over leadership", s.raft.LeadershipTransfer)
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
	// This snapshot removes the first entries from the log, so the leader sends the new member the
	// snapshot. The new member must not start from log entry 1 (see logstore.Store.Protect).
	if _, err := s.snapshot(1); err != nil {
		return fmt.Errorf("add manager %s: take a snapshot: %w", id, err)
	}
	sid, addr := raft.ServerID(id), raft.ServerAddress(id)
	var index uint64
	err := s.ask(ctx, "add manager "+id, func() raft.Future {
		added := s.raft.AddNonvoter(sid, addr, 0, 0)
		if added.Error() == nil { // Error waits for the answer; Index is valid only after it
			index = added.Index()
		}
		return added
	})
	if err != nil {
		return err
	}
	if err := s.awaitCatchUp(ctx, id, index); err != nil {
		undo := s.ask(context.WithoutCancel(ctx), "remove manager "+id, func() raft.Future { return s.raft.RemoveServer(sid, 0, 0) })
		return errors.Join(fmt.Errorf("add manager %s: it did not catch up: %w", id, err), undo)
	}
	return s.ask(ctx, "add manager "+id, func() raft.Future { return s.raft.AddVoter(sid, addr, 0, 0) })
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
			"remove manager %s: only %d of the %d remaining managers can be reached, and %d are needed; bring one back first", id, up, voters, voters/2+1))
	}
	if id == s.cfg.NodeID && voters > 0 {
		return s.removeSelf(ctx)
	}
	return s.ask(ctx, "remove manager "+id, func() raft.Future { return s.raft.RemoveServer(raft.ServerID(id), 0, 0) })
}

// removeSelf transfers leadership and then asks the next leader to remove this member. If the
// leader removed itself, the cluster would have no leader until the next election.
func (s *Store) removeSelf(ctx context.Context) error {
	if err := s.ask(ctx, "hand over leadership", s.raft.LeadershipTransfer); err != nil {
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
			return watch.ErrClosed
		}
	}
}

// ask gives Raft a request and waits for the answer or for the end of ctx. When the store closes,
// ask returns watch.ErrClosed and gives Raft nothing, because a Raft that is shut down leaves some
// requests unanswered (see quiesce).
func (s *Store) ask(ctx context.Context, what string, request func() raft.Future) error {
	if !s.queue.beginRequest() {
		return fmt.Errorf("%s: %w", what, watch.ErrClosed)
	}
	done := make(chan error, 1)
	go func() {
		defer s.queue.inFlight.Done()
		done <- request().Error()
	}()
	select {
	case err := <-done:
		if err != nil {
			return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%s: %v", what, err))
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	case <-s.raftStopped:
		return fmt.Errorf("%s: %w", what, watch.ErrClosed)
	}
}
