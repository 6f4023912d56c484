package raftstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// Commit applies changes as one group, all or none, whichever member leads, and returns the index
// of the log entry. If the group is refused, the error is errdefs.ErrAborted (a row has another
// version), ErrAlreadyExists (the row or its unique name exists) or ErrNotFound (the row does not
// exist). It is ErrInvalidArgument for an invalid change, and ErrUnavailable if no leader answers
// within Timeouts.Leader. The outcome is unknown after ErrUnavailable and after the error of ctx.
// Commit retries transient failures itself; a retry never applies a change twice.
func (s *Store) Commit(ctx context.Context, actor string, changes ...*swarmv1.Change) (uint64, error) {
	index, results, err := s.CommitGroups(ctx, actor, []*swarmv1.Group{{Changes: changes}})
	if err != nil {
		return 0, err
	}
	return index, results[0]
}

// CommitGroups applies groups independently: results[i] is nil if group i was applied, else the
// reason why it was refused, as for Commit. Groups enter the log in the given order, but a change
// of leader may reorder groups in different log entries. index is the highest log index that was
// reported. If err is not nil, the outcome of some groups is unknown, and results holds only what
// is known.
func (s *Store) CommitGroups(ctx context.Context, actor string, groups []*swarmv1.Group) (index uint64, results []error, err error) {
	reqs, err := split(actor, groups)
	if err != nil {
		return 0, nil, err
	}
	for _, r := range reqs {
		s.requests.begin(r)
		defer s.requests.end(r)
	}
	results = make([]error, len(groups))
	var first []*proposal
	if s.raft.State() == raft.Leader {
		first = s.enqueue(ctx, reqs...)
	}
	at := 0
	for i, r := range reqs {
		var a *swarmv1.Answer
		var err error
		if first != nil {
			a, err = s.await(ctx, first[i])
		}
		if first == nil || isRetryable(err) {
			a, err = s.commit(ctx, r, err)
		}
		if err != nil {
			return index, results, fmt.Errorf("commit: %w", err)
		}
		index = max(index, a.GetIndex())
		fillResults(a, results[at:at+len(r.GetGroups())])
		at += len(r.GetGroups())
	}
	return index, results, nil
}

// split packs the groups into requests that each fit into a log entry. It fails if a change is
// invalid.
func split(actor string, groups []*swarmv1.Group) ([]*swarmv1.Request, error) {
	if len(groups) == 0 {
		return nil, nil
	}
	reqs := []*swarmv1.Request{{Actor: actor}}
	size := 0
	for _, g := range groups {
		for _, c := range g.GetChanges() {
			if err := table.Validate(c); err != nil {
				return nil, fmt.Errorf("commit: %w", err)
			}
		}
		last := reqs[len(reqs)-1]
		n := g.SizeVT()
		if size += n; size > maxEntry*3/4 && len(last.Groups) > 0 {
			last = &swarmv1.Request{Actor: actor}
			reqs, size = append(reqs, last), n
		}
		last.Groups = append(last.Groups, g)
	}
	return reqs, nil
}

// enqueue adds the requests to the queue of this member, which should lead. It does not wait.
func (s *Store) enqueue(ctx context.Context, reqs ...*swarmv1.Request) []*proposal {
	out := make([]*proposal, len(reqs))
	for i, r := range reqs {
		out[i] = &proposal{ctx: ctx, req: r, size: r.SizeVT(), done: make(chan outcome, 1)}
	}
	s.queue.add(out...)
	return out
}

// await waits for the outcome of a proposal, the end of ctx, or Close.
func (s *Store) await(ctx context.Context, p *proposal) (*swarmv1.Answer, error) {
	select {
	case o := <-p.done:
		return o.answer, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.closed:
		return nil, watch.ErrClosed
	}
}

// commit sends one request to the leader until it is answered. cause is the error of an earlier
// try, or nil.
func (s *Store) commit(ctx context.Context, r *swarmv1.Request, cause error) (a *swarmv1.Answer, err error) {
	err = s.retry(ctx, cause, func() (err error) {
		a, err = s.proposeOnce(ctx, r)
		return err
	})
	return a, err
}

// retry calls attempt until it succeeds, fails with an error that is not retryable, or
// Timeouts.Leader has passed. cause is the error of an earlier try, or nil.
func (s *Store) retry(ctx context.Context, cause error, attempt func() error) error {
	deadline, cancel := context.WithTimeout(ctx, s.cfg.Timeouts.Leader)
	defer cancel()
	for try := 0; ; try++ {
		leaderChanged := s.leadership.changed()
		if try > 0 || cause != nil {
			if err := s.backOff(ctx, deadline, leaderChanged, try, cause); err != nil {
				return err
			}
		}
		if cause = attempt(); cause == nil {
			return nil
		}
		if f, ok := cause.(*permanentError); ok {
			return f.error
		}
		if !isRetryable(cause) {
			return cause
		}
	}
}

// proposeOnce proposes the request once: to this member's Raft if it leads, else to the leader by
// RPC.
func (s *Store) proposeOnce(ctx context.Context, r *swarmv1.Request) (*swarmv1.Answer, error) {
	if s.raft.State() == raft.Leader {
		return s.await(ctx, s.enqueue(ctx, r)[0])
	}
	var resp *swarmv1.ProposeResponse
	err := s.callLeader(ctx, func(ctx context.Context, rpc swarmv1.RaftClient) (err error) {
		resp, err = rpc.Propose(ctx, &swarmv1.ProposeRequest{Request: r})
		return err
	})
	if errdefs.IsInvalidArgument(err) || errdefs.IsResourceExhausted(err) || errdefs.IsPermissionDenied(err) || errdefs.IsUnauthorized(err) {
		return nil, &permanentError{err}
	}
	if err != nil {
		return nil, err
	}
	a := &swarmv1.Answer{Sequence: r.GetSequence(), Index: resp.GetIndex(), Groups: uint32(len(r.GetGroups()))}
	for i, res := range resp.GetResults() {
		if res.GetCode() != 0 || res.GetError() != "" {
			a.Refused = append(a.Refused, &swarmv1.Refused{Group: uint32(i), Result: res})
		}
	}
	return a, nil
}

// backOff waits until leadership changes or the delay before the next try has passed.
func (s *Store) backOff(ctx, deadline context.Context, leaderChanged <-chan struct{}, try int, cause error) error {
	wait := min(5*time.Millisecond<<min(try, 6), 200*time.Millisecond)
	if s.Leader() == "" {
		wait = time.Hour // only an election helps
	}
	timer := time.NewTimer(wait/2 + rand.N(wait))
	defer timer.Stop()
	select {
	case <-leaderChanged:
	case <-timer.C:
	case <-deadline.Done():
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if s.Leader() == "" {
			return s.noLeaderError()
		}
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("the leader %s does not answer: %v", s.Leader(), cause))
	case <-s.closed:
		return watch.ErrClosed
	}
	return nil
}

// permanentError marks an error that a retry cannot change.
type permanentError struct{ error }

// noLeaderError explains why no leader accepts a request: this member's disk fails, or the cluster
// has no leader.
func (s *Store) noLeaderError() error {
	err := s.stable.WriteErr()
	if err == nil {
		err = s.disk.WriteErr()
	}
	if err != nil {
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("manager %s cannot write its disk (%v): free or repair it, or ask another manager", s.cfg.NodeID, err))
	}
	return errNoLeader
}
