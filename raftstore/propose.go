package raftstore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/watch"
)

const (
	// maxEntry bounds the size in bytes of a log entry. An entry with one request may be larger,
	// because a group is never split.
	maxEntry = 512 << 10
	// proposers is the number of entries in flight. With 2, one entry is written while the previous
	// one is replicated, and new requests gather for the next. With 4, entries are smaller and
	// throughput halves.
	proposers = 2
)

// proposal is a request in the queue of the leader.
type proposal struct {
	ctx  context.Context
	req  *swarmv1.Request
	size int
	done chan outcome // buffered: the caller may have given up
}

type outcome struct {
	answer *swarmv1.Answer
	err    error
}

// queue holds the proposals that no proposer has taken yet.
type queue struct {
	mu      sync.Mutex // guards waiting
	waiting []*proposal
	wake    chan struct{}

	// A proposer holds submitting from the time when it takes a batch until Raft has the batch, so
	// that the log keeps the order of the queue. submitting also guards stopped.
	submitting sync.Mutex
	stopped    bool           // set by quiesce: nothing more is given to Raft
	inFlight   sync.WaitGroup // entries and requests that Raft has not answered
}

// enqueueTimeout bounds the wait until Raft takes an entry. A Raft that cannot save its term takes
// none (see logstore.StallingStable). Everything that needs queue.submitting waits meanwhile.
const enqueueTimeout = time.Second

// quiesceTimeout bounds the wait in quiesce. Without a majority, Raft answers only when it is shut
// down.
const quiesceTimeout = 2 * time.Second

// beginRequest counts a request that the caller is about to give to Raft. The caller must call
// inFlight.Done after Raft has answered the request. After quiesce, beginRequest counts nothing and
// returns false: the caller must not give Raft the request.
func (q *queue) beginRequest() bool {
	q.submitting.Lock()
	defer q.submitting.Unlock()
	if q.stopped {
		return false
	}
	q.inFlight.Add(1)
	return true
}

// quiesce ends the supply of entries and requests to Raft. It then waits, for at most
// quiesceTimeout, until Raft has answered those that it has. Call it before Raft is shut down.
// A Raft that is shut down never answers the entries that are committed but not applied yet, nor
// the requests in its channels, which nobody receives any more.
func (q *queue) quiesce() {
	q.submitting.Lock()
	q.stopped = true
	q.submitting.Unlock()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		q.inFlight.Wait()
	}()
	select {
	case <-answered:
	case <-time.After(quiesceTimeout):
	}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) add(ps ...*proposal) {
	q.mu.Lock()
	q.waiting = append(q.waiting, ps...)
	q.mu.Unlock()
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take removes the proposals that fit into one entry. It drops proposals whose caller has given up.
func (q *queue) take() (out []*proposal) {
	q.mu.Lock()
	defer q.mu.Unlock()
	size, n := 0, 0
	for _, p := range q.waiting {
		if p.ctx.Err() != nil {
			n++
			continue
		}
		if size += p.size; size > maxEntry && len(out) > 0 {
			break
		}
		out = append(out, p)
		n++
	}
	rest := copy(q.waiting, q.waiting[n:])
	clear(q.waiting[rest:])
	q.waiting = q.waiting[:rest]
	if rest > 0 {
		q.signal()
	}
	return out
}

// fail answers every waiting proposal with err.
func (q *queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.waiting {
		p.done <- outcome{err: err}
	}
	q.waiting = nil
}

// propose runs one proposer: it takes a batch from the queue, appends it to the log, and delivers
// the answers.
func (s *Store) propose(ctx context.Context) error {
	for {
		select {
		case <-s.queue.wake:
		case <-ctx.Done():
			s.queue.fail(watch.ErrClosed)
			return nil
		}
		for {
			began := time.Now()
			batch, future, err := s.submit()
			if len(batch) == 0 {
				break
			}
			if err == nil {
				err = s.awaitRaft(future)
			}
			s.queue.inFlight.Done()
			if err == nil && s.deps.Committed != nil {
				s.deps.Committed(time.Since(began))
			}
			s.deliver(batch, future, err)
		}
	}
}

// awaitRaft waits for Raft's answer to an entry. It returns watch.ErrClosed once Raft is shut down,
// because Raft then leaves entries unanswered (see quiesce).
func (s *Store) awaitRaft(future raft.ApplyFuture) error {
	answer := make(chan error, 1)
	go func() { answer <- future.Error() }()
	select {
	case err := <-answer:
		return err
	case <-s.raftStopped:
		return watch.ErrClosed
	}
}

// submit takes a batch and gives it to Raft as one entry. It does not wait for the disk or for
// other members. The batch is empty if nothing waits.
func (s *Store) submit() ([]*proposal, raft.ApplyFuture, error) {
	s.queue.submitting.Lock()
	defer s.queue.submitting.Unlock()
	if s.queue.stopped {
		return nil, nil, nil
	}
	batch := s.queue.take()
	if len(batch) == 0 {
		return nil, nil, nil
	}
	s.queue.inFlight.Add(1)
	view := s.fsm.view()
	env := &swarmv1.Envelope{
		Format: view.Format(), Epoch: view.Cluster().GetEpoch(), Time: timestamppb.New(time.Now()),
		Requests: make([]*swarmv1.Request, len(batch)),
	}
	for i, p := range batch {
		env.Requests[i] = p.req
	}
	data, err := env.MarshalVT()
	if err != nil { // deliver uses no future after an error
		return batch, nil, fmt.Errorf("encode log entry: %w", err)
	}
	return batch, s.raft.Apply(data, enqueueTimeout), nil
}

// deliver answers the proposals of a batch and announces the commit.
func (s *Store) deliver(batch []*proposal, future raft.ApplyFuture, err error) {
	if err != nil {
		for _, p := range batch {
			p.done <- outcome{err: err}
		}
		return
	}
	res := future.Response().(*result)
	for i, p := range batch {
		p.done <- outcome{answer: res.answers[i]}
	}
	s.announce.committed(future.Index(), res.term)
}
