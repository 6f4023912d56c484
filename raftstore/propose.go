package raftstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// maxEntry bounds what is gathered into one log entry. One request may be larger, as one group is never split.
	maxEntry = 512 << 10
	// proposers is how many entries are in flight at once: one is written while the one before is replicated, and
	// whatever comes meanwhile gathers into the next. With 4 the entries are smaller, and throughput falls by half.
	proposers = 2
)

// proposal is one request on its way into the log of the leader, which is this member.
type proposal struct {
	ctx  context.Context
	req  *swarmv1.Request
	size int
	done chan outcome // buffered: nobody waits for who gave up
}

type outcome struct {
	answer *swarmv1.Answer
	err    error
}

// queue holds the proposals that wait for a proposer.
type queue struct {
	mu      sync.Mutex // guards waiting
	waiting []*proposal
	wake    chan struct{}

	// submit is held from taking a batch to handing it to Raft, so that the log keeps the queue's
	// order. It guards ended.
	submit   sync.Mutex
	stopped  bool           // quiesce was called: nothing is handed to Raft any more
	inFlight sync.WaitGroup // entries that Raft has and has not answered
}

// quiescePatience bounds the wait of quiesce. Without a majority Raft does not answer before it is
// shut down.
const quiesceTimeout = 2 * time.Second

// quiesce stops handing entries to Raft and waits until Raft has answered the ones it has. Raft never
// answers an entry that it has committed but not applied when it is shut down.
func (q *queue) quiesce() {
	q.submit.Lock()
	q.stopped = true
	q.submit.Unlock()
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

// take removes what fits into one entry; whose caller has given up is dropped.
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

// fail answers everything that waits.
func (q *queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.waiting {
		p.done <- outcome{err: err}
	}
	q.waiting = nil
}

// propose is one proposer: it takes what waits, puts it into the log, and brings back the answers.
func (s *Store) propose(ctx context.Context) error {
	for {
		select {
		case <-s.queue.wake:
		case <-ctx.Done():
			s.queue.fail(errClosed)
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

// answered waits for Raft's answer to an entry. It returns errClosed once Raft is gone, because Raft
// then leaves entries without an answer: see quiesce and fsm.halt.
func (s *Store) awaitRaft(future raft.ApplyFuture) error {
	answer := make(chan error, 1)
	go func() { answer <- future.Error() }()
	select {
	case err := <-answer:
		return err
	case <-s.raftStopped:
		return errClosed
	}
}

// submit gathers an entry and hands it to Raft. It does not wait for the disk or for other members.
func (s *Store) submit() ([]*proposal, raft.ApplyFuture, error) {
	s.queue.submit.Lock()
	defer s.queue.submit.Unlock()
	if s.queue.stopped {
		return nil, nil, nil
	}
	batch := s.queue.take()
	if len(batch) == 0 {
		return nil, nil, nil
	}
	s.queue.inFlight.Add(1)
	cluster := s.fsm.cluster.Load()
	env := &swarmv1.Envelope{
		Format: formatOf(cluster), Epoch: cluster.GetEpoch(), Time: timestamppb.New(time.Now()),
		Requests: make([]*swarmv1.Request, len(batch)),
	}
	for i, p := range batch {
		env.Requests[i] = p.req
	}
	data, err := env.MarshalVT()
	if err != nil {
		return batch, nil, fmt.Errorf("encode log entry: %w", err)
	}
	return batch, s.raft.Apply(data, 0), nil
}

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

// again reports whether a request may be proposed once more, here or elsewhere: its name keeps it from being carried out
// twice. Nearly every error of Raft's means that leadership is moving, or that the disk refused.
func isRetryable(err error) bool {
	return err != nil && !errors.Is(err, errClosed) && !errors.Is(err, raft.ErrRaftShutdown) &&
		!errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}
