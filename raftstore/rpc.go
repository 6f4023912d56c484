package raftstore

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/hashicorp/raft"

	swarmv1 "swarm/proto/swarm/v1"
)

// peer is the way to another member's RPCs.
func (s *Store) raftClient(id string) (swarmv1.RaftClient, error) {
	if s.deps.Conn == nil {
		return nil, errdefs.ErrUnavailable.WithMessage("this manager knows no way to manager " + id)
	}
	cc, err := s.deps.Conn(id)
	if err != nil {
		return nil, fmt.Errorf("call manager %s: %w", id, err)
	}
	return swarmv1.NewRaftClient(cc), nil
}

// atLeader calls the member that leads. The call ends when this member sees that leadership has moved, and
// after Timeouts.Leader: a host that has lost power or is frozen takes calls and never answers. What
// became of such a call is unknown. Its error is of class unavailable.
func (s *Store) callLeader(ctx context.Context, call func(context.Context, swarmv1.RaftClient) error) error {
	leader, rpc, err := s.leaderClient()
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, s.cfg.Timeouts.Leader)
	defer cancel()
	go func() {
		for leaderChanged := s.leadership.changed(); bounded.Err() == nil; leaderChanged = s.leadership.changed() {
			if s.Leader() != leader {
				cancel()
			}
			select {
			case <-leaderChanged:
			case <-bounded.Done():
			}
		}
	}()
	err = call(bounded, rpc)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case bounded.Err() != nil:
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("manager %s, which led, did not answer", leader))
	}
	return errgrpc.ToNative(err)
}

// leaderPeer is the other member that leads.
func (s *Store) leaderClient() (string, swarmv1.RaftClient, error) {
	leader := s.Leader()
	if leader == "" || leader == s.cfg.NodeID {
		return "", nil, s.noLeaderError()
	}
	rpc, err := s.raftClient(leader)
	return leader, rpc, err
}

// service is the member's RPCs, which other members call.
type service struct {
	swarmv1.UnimplementedRaftServer
	store *Store
}

// Service is what other members call; serve it to managers only.
func (s *Store) Service() swarmv1.RaftServer { return &service{store: s} }

// Propose carries out another member's request. It serves the leader's side of Commit. It does not pass the request on:
// the sender knows better when to try elsewhere.
func (r *service) Propose(ctx context.Context, in *swarmv1.ProposeRequest) (*swarmv1.ProposeResponse, error) {
	s, req := r.store, in.GetRequest()
	for _, g := range req.GetGroups() {
		for _, c := range g.GetChanges() {
			if err := valid(c); err != nil {
				return nil, errgrpc.ToGRPC(err)
			}
		}
	}
	if s.raft.State() != raft.Leader {
		return nil, errgrpc.ToGRPC(s.notLeaderError())
	}
	a, err := s.await(ctx, s.enqueue(ctx, req)[0])
	if err != nil {
		if isRetryable(err) {
			err = errdefs.ErrUnavailable.WithMessage("leadership moved: " + err.Error())
		}
		return nil, errgrpc.ToGRPC(err)
	}
	out := &swarmv1.ProposeResponse{Index: a.GetIndex()}
	if len(a.GetRefused()) > 0 {
		out.Results = make([]*swarmv1.GroupResult, len(req.GetGroups()))
		for i := range out.Results {
			out.Results[i] = &swarmv1.GroupResult{}
		}
		for _, ref := range a.GetRefused() {
			if int(ref.GetGroup()) < len(out.Results) {
				out.Results[ref.GetGroup()] = ref.GetResult()
			}
		}
	}
	return out, nil
}

func (s *Store) notLeaderError() error {
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("manager %s does not lead; manager %q does", s.cfg.NodeID, s.Leader()))
}

// ReadIndex serves the leader's side of Store.ReadIndex.
func (r *service) ReadIndex(ctx context.Context, _ *swarmv1.ReadIndexRequest) (*swarmv1.ReadIndexResponse, error) {
	index, err := r.store.readIndex(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &swarmv1.ReadIndexResponse{Index: index, LeaderId: r.store.cfg.NodeID}, nil
}

func (s *Store) readIndex(ctx context.Context) (uint64, error) {
	if !s.IsLeader() { // also while the barrier of a new term is under way: the view may miss what older leaders committed
		return 0, s.notLeaderError()
	}
	index := s.fsm.applied.Load()
	if err := s.waitFuture(ctx, s.raft.VerifyLeader(), "read index"); err != nil {
		return 0, err
	}
	return index, nil
}

// Latest waits for a view that holds everything that was committed, by anybody, before it was called.
func (s *Store) Latest(ctx context.Context) (*View, error) {
	index, err := s.ReadIndex(ctx)
	if err != nil {
		return nil, err
	}
	return s.WaitIndex(ctx, index)
}

// ReadIndex gives an index such that a view at it holds everything that anybody was told is committed. On the leader it
// costs one round of heartbeats, elsewhere one call more. WaitIndex then makes a read linearizable. Without an established
// leader it waits for one, for as long as Commit does.
func (s *Store) ReadIndex(ctx context.Context) (index uint64, err error) {
	err = s.retry(ctx, nil, func() (err error) {
		index, err = s.queryReadIndex(ctx)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read index: %w", err)
	}
	return index, nil
}

func (s *Store) queryReadIndex(ctx context.Context) (uint64, error) {
	if s.raft.State() == raft.Leader {
		return s.readIndex(ctx)
	}
	var index uint64
	err := s.callLeader(ctx, func(ctx context.Context, rpc swarmv1.RaftClient) error {
		out, err := rpc.ReadIndex(ctx, &swarmv1.ReadIndexRequest{})
		index = out.GetIndex()
		return err
	})
	return index, err
}

// Applied answers when this replica has applied the index.
func (r *service) Applied(ctx context.Context, in *swarmv1.AppliedRequest) (*swarmv1.AppliedResponse, error) {
	view, err := r.store.WaitIndex(ctx, in.GetIndex())
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &swarmv1.AppliedResponse{Index: view.Index()}, nil
}

// Configure changes the members, for another member.
func (r *service) Configure(ctx context.Context, in *swarmv1.ConfigureRequest) (*swarmv1.ConfigureResponse, error) {
	s := r.store
	if s.raft.State() != raft.Leader {
		return nil, errgrpc.ToGRPC(s.notLeaderError())
	}
	if err := s.configureHere(ctx, in.GetAction(), in.GetNodeId()); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &swarmv1.ConfigureResponse{}, nil
}
