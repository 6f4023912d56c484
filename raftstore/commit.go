package raftstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// Commit applies changes as one group: all of them or none. Every member can call it, whichever
// member leads. It returns the index of the log entry.
//
// If the group is refused, the error is errdefs.ErrAborted (a row has another version),
// ErrAlreadyExists (the row or its unique name exists), ErrNotFound (the row does not exist) or
// ErrFailedPrecondition (the leader has another cluster epoch, see Recover). A refused group has
// changed nothing.
//
// Commit retries transient failures itself, and a retry never applies a change twice. After
// Timeouts.Leader it ends with ErrUnavailable, which names the managers that do not store entries.
// The error of ctx and ErrUnavailable leave the outcome unknown: the group may still be applied.
// Commit does not retry if a change is invalid (ErrInvalidArgument), or if the leader does not
// accept the call (ErrPermissionDenied, ErrUnauthenticated or ErrResourceExhausted).
func (s *Store) Commit(ctx context.Context, actor string, changes ...*swarmv1.Change) (uint64, error) {
	index, results, err := s.CommitGroups(ctx, actor, []*swarmv1.Group{{Changes: changes}})
	if err != nil {
		return 0, err
	}
	return index, results[0]
}

// CommitGroups applies groups independently. If err is nil, results[i] is nil if group i was
// applied, or the error of Commit that says why it was refused. If err is not nil, some groups may
// have been applied, and results says nothing: nil may then also mean that the outcome is not
// known. Groups in one log entry keep the given order. Groups in different log entries do too,
// unless the leader changes meanwhile. index is the highest index of these entries.
func (s *Store) CommitGroups(ctx context.Context, actor string, groups []*swarmv1.Group) (index uint64, results []error, err error) {
	reqs, err := split(actor, groups)
	if err != nil {
		return 0, nil, err
	}
	for _, r := range reqs {
		s.requests.begin(r)
		defer s.requests.end(r)
	}
	// If a request fails, CommitGroups returns and ctx ends. The queue skips requests whose context
	// has ended, so it drops the requests that follow.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The leader queues all requests before it waits for the first answer, so that the requests
	// share log entries. Another member sends one request after the other to the leader.
	queued := make([]*proposal, len(reqs))
	if s.raft.State() == raft.Leader {
		queued = s.enqueue(ctx, reqs...)
	}
	results = make([]error, len(groups))
	at := 0
	for i, r := range reqs {
		a, err := s.commitRequest(ctx, r, queued[i])
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

// commitRequest returns the answer to one request. queued is the proposal of the request in the
// queue of this member, or nil if the request was not queued. If that proposal fails, for example
// because leadership moves, commitRequest proposes the request again.
func (s *Store) commitRequest(ctx context.Context, r *swarmv1.Request, queued *proposal) (a *swarmv1.Answer, err error) {
	sent := queued != nil
	err = s.retry(ctx, func(ctx context.Context) (err error) {
		if p := queued; p != nil {
			queued = nil
			a, err = s.await(ctx, p)
			return err
		}
		a, err = s.proposeOnce(ctx, r, &sent)
		return err
	})
	if sent && errdefs.IsUnavailable(err) {
		err = errdefs.ErrUnavailable.WithMessage(err.Error() + "; it is not known whether the change was made, and it may still be: look before you repeat it")
	}
	return a, err
}

// retry calls attempt until it succeeds, until it fails with an error that is not retryable, or
// until Timeouts.Leader has passed. The context of attempt ends at that time, too. The error is
// then the one of timeoutError.
func (s *Store) retry(ctx context.Context, attempt func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, s.cfg.Timeouts.Leader)
	defer cancel()
	var cause error // of the last attempt that failed before the timeout
	for try := 0; ; try++ {
		leaderChanged := s.leadership.changed()
		if try > 0 {
			if err := s.backOff(ctx, bounded, leaderChanged, try, cause); err != nil {
				return err
			}
		}
		err := attempt(bounded)
		switch { // gRPC may notice the deadline of bounded a little earlier than bounded itself
		case err == nil:
			return nil
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			return s.timeoutError(cause)
		case !isRetryable(err):
			return err
		}
		cause = err
	}
}

// proposeOnce proposes the request once. If this member leads, it gives the request to its Raft.
// Otherwise it sends the request to the leader. It sets sent before it does either.
func (s *Store) proposeOnce(ctx context.Context, r *swarmv1.Request, sent *bool) (*swarmv1.Answer, error) {
	if s.raft.State() == raft.Leader {
		*sent = true
		return s.await(ctx, s.enqueue(ctx, r)[0])
	}
	var resp *swarmv1.ProposeResponse
	err := s.callLeader(ctx, func(ctx context.Context, rpc swarmv1.RaftClient) (err error) {
		*sent = true
		resp, err = rpc.Propose(ctx, &swarmv1.ProposeRequest{Request: r})
		return err
	})
	if errdefs.IsInvalidArgument(err) || errdefs.IsResourceExhausted(err) || errdefs.IsPermissionDenied(err) || errdefs.IsUnauthorized(err) {
		return nil, permanentError{err} // the leader refuses the call itself
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

// backOff waits until leadership changes or the delay before the next try has passed. bounded is
// ctx with the limit of all tries. If bounded ends first, backOff returns the error of ctx, or an
// error for the user with the cause of the last try.
func (s *Store) backOff(ctx, bounded context.Context, leaderChanged <-chan struct{}, try int, cause error) error {
	wait := min(5*time.Millisecond<<min(try, 6), 200*time.Millisecond)
	if s.Leader() == "" {
		// No try can succeed before an election, which closes leaderChanged. The timer must not end
		// the wait earlier.
		wait = time.Hour
	}
	timer := time.NewTimer(wait/2 + rand.N(wait))
	defer timer.Stop()
	select {
	case <-leaderChanged:
	case <-timer.C:
	case <-bounded.Done():
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return s.timeoutError(cause)
	case <-s.closed:
		return watch.ErrClosed
	}
	return nil
}
