package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/hashicorp/raft"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
)

// raftClient returns a client for the RPCs of another member.
func (s *Store) raftClient(id string) (swarmv1.RaftClient, error) {
	if s.deps.Conn == nil {
		return nil, errdefs.ErrUnavailable.WithMessage("this manager has no connection to manager " + id)
	}
	cc, err := s.deps.Conn(id)
	if err != nil {
		return nil, fmt.Errorf("call manager %s: %w", id, err)
	}
	return swarmv1.NewRaftClient(cc), nil
}

// callLeader calls the leader, which is another member. The call is cancelled when this member sees
// a change of leader. The outcome of a cancelled call is unknown; its error is
// errdefs.ErrUnavailable. ctx must have a deadline, because a host that has lost power or is frozen
// never answers.
func (s *Store) callLeader(ctx context.Context, call func(context.Context, swarmv1.RaftClient) error) error {
	leader, rpc, err := s.leaderClient()
	if err != nil {
		return err
	}
	bounded, cancel := context.WithCancel(ctx)
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
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("manager %s was the leader and did not answer", nodeName(s.View(), leader)))
	}
	return errgrpc.ToNative(err)
}

// leaderClient returns the node id of the leader and a client for its RPCs. It fails if no leader
// is known. It also fails if this member has become the leader since the caller looked: the next
// try then proposes here.
func (s *Store) leaderClient() (string, swarmv1.RaftClient, error) {
	leader := s.Leader()
	if leader == "" || leader == s.cfg.NodeID {
		return "", nil, s.noLeaderError()
	}
	rpc, err := s.raftClient(leader)
	return leader, rpc, err
}

// service serves the RPCs that members call on each other.
type service struct {
	swarmv1.UnimplementedRaftServer
	store *Store
}

// Service returns the RPC server for other members. Serve it to managers only.
func (s *Store) Service() swarmv1.RaftServer { return &service{store: s} }

// Propose proposes a request of another member. It is the leader's part of Commit. If this member
// does not lead, Propose returns errdefs.ErrUnavailable, and the sender asks the new leader.
func (r *service) Propose(ctx context.Context, in *swarmv1.ProposeRequest) (*swarmv1.ProposeResponse, error) {
	s, req := r.store, in.GetRequest()
	for _, g := range req.GetGroups() {
		for _, c := range g.GetChanges() {
			if err := table.Validate(c); err != nil {
				return nil, errgrpc.ToGRPC(err)
			}
		}
	}
	if s.raft.State() != raft.Leader {
		return nil, errgrpc.ToGRPC(s.notLeaderError())
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime(ctx, s.cfg.Timeouts.Leader))
	defer cancel()
	a, err := s.await(ctx, s.enqueue(ctx, req)[0])
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, errgrpc.ToGRPC(s.timeoutError(nil))
	}
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

// answerTime returns how long the leader may take for a call with the deadline of ctx. The result
// is a tenth shorter than the time until the deadline, so that the caller gets the reason of a
// failure. It is at most limit.
func answerTime(ctx context.Context, limit time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline))
	}
	return limit * 9 / 10
}

func (s *Store) notLeaderError() error {
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("manager %s is not the leader; the leader is %q", s.cfg.NodeID, s.Leader()))
}

// ReadIndex is the leader's side of Store.ReadIndex.
func (r *service) ReadIndex(ctx context.Context, _ *swarmv1.ReadIndexRequest) (*swarmv1.ReadIndexResponse, error) {
	index, err := r.store.readIndex(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &swarmv1.ReadIndexResponse{Index: index, LeaderId: r.store.cfg.NodeID}, nil
}

func (s *Store) readIndex(ctx context.Context) (uint64, error) {
	if !s.IsLeader() { // IsLeader is also false before the barrier of the term, when the view may be old
		return 0, s.notLeaderError()
	}
	index := s.View().Index()
	if err := s.ask(ctx, "read index", func() raft.Future { return s.raft.VerifyLeader() }); err != nil {
		return 0, err
	}
	return index, nil
}

// Latest waits for a view that includes every change that was committed before the call, in the
// sense of ReadIndex. Its errors are those of ReadIndex and WaitIndex.
func (s *Store) Latest(ctx context.Context) (*table.View, error) {
	index, err := s.ReadIndex(ctx)
	if err != nil {
		return nil, err
	}
	return s.WaitIndex(ctx, index)
}

// ReadIndex returns an index. A view with that index or a higher one includes every change whose
// Commit has returned, on any member, before the call. A read after ReadIndex and WaitIndex is
// therefore linearizable. ReadIndex costs one round of heartbeats, and one RPC more if this member
// is not the leader. It retries transient failures as Commit does, and then returns
// errdefs.ErrUnavailable.
func (s *Store) ReadIndex(ctx context.Context) (index uint64, err error) {
	err = s.retry(ctx, func(ctx context.Context) (err error) {
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

// Applied waits until this replica has applied the index. A leader calls it on a new member.
func (r *service) Applied(ctx context.Context, in *swarmv1.AppliedRequest) (*swarmv1.AppliedResponse, error) {
	view, err := r.store.WaitIndex(ctx, in.GetIndex())
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &swarmv1.AppliedResponse{Index: view.Index()}, nil
}

// Configure changes the members on behalf of another member.
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
