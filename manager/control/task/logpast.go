package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

const (
	// logPatience is how long a node may take for the next of its records while others wait for it;
	// logPatienceDown that of one which is down already. A node that is too slow is told of, and
	// left out.
	logPatience     = 10 * time.Second
	logPatienceDown = time.Second
	// openAtOnce bounds the streams that are opened at a time.
	openAtOnce = 32
)

// head is a stream of one task, and what was read of it and not passed on. Only within one are
// records sure to be in order.
type head struct {
	node, task string
	options    *swarmv1.LogOptions
	patience   time.Duration
	from       swarmv1.Worker_LogsClient
	cancel     context.CancelFunc
	records    []*swarmv1.LogRecord
	err        error // io.EOF at the end
}

// past merges what the nodes have, oldest first.
func (l *logs) past(ctx context.Context, v *raftstore.View) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	options := l.options.CloneVT()
	options.Follow = false
	var heads []*head
	for node, tasks := range l.want.tasks(v) {
		patience := logPatience
		if st, _ := v.NodeStates.Get(node); st.GetState() == swarmv1.NodeState_DOWN {
			patience = logPatienceDown
		}
		for _, id := range tasks {
			heads = append(heads, &head{node: node, task: id, options: options, patience: patience})
		}
	}
	var g errgroup.Group
	g.SetLimit(openAtOnce)
	for _, h := range heads {
		g.Go(func() error {
			l.fill(ctx, h)
			return nil
		})
	}
	_ = g.Wait() // what went wrong stands in the heads
	return l.merge(ctx, v, heads)
}

// fill makes sure that the head has a next record, or says why not.
func (l *logs) fill(ctx context.Context, h *head) {
	if len(h.records) > 0 || h.err != nil {
		return
	}
	if h.cancel == nil {
		ctx, h.cancel = context.WithCancel(ctx)
	}
	tired := time.AfterFunc(h.patience, h.cancel)
	if h.from == nil {
		h.from, h.err = l.open(ctx, h.node, []string{h.task}, h.options)
	}
	for len(h.records) == 0 && h.err == nil {
		var msg *swarmv1.TaskLogsResponse
		if msg, h.err = l.recv(h.from, h.node, h.task); h.err == nil && len(msg.GetDetails()) > 0 {
			h.err = l.pass(&swarmv1.TaskLogsResponse{Details: msg.GetDetails()})
		}
		h.records = msg.GetRecords()
	}
	if !tired.Stop() && h.err != nil && !errors.Is(h.err, io.EOF) {
		h.err = fmt.Errorf("no answer within %s: %w", h.patience, errdefs.ErrUnavailable)
	}
	if h.err != nil {
		h.cancel()
	}
}

func (l *logs) merge(ctx context.Context, v *raftstore.View, heads []*head) error {
	const batch = 256
	var out []*swarmv1.LogRecord
	for {
		live := heads[:0]
		for _, h := range heads {
			l.fill(ctx, h)
			if len(h.records) > 0 {
				live = append(live, h)
			} else if err := l.passed(v, h); err != nil {
				return err
			}
		}
		heads = live
		if len(heads) == 0 || len(out) == batch {
			if err := l.pass(&swarmv1.TaskLogsResponse{Records: out}); err != nil || len(heads) == 0 {
				return err
			}
			out = nil
		}
		first := slices.MinFunc(heads, func(a, b *head) int {
			return a.records[0].GetTimestamp().AsTime().Compare(b.records[0].GetTimestamp().AsTime())
		})
		out = append(out, first.records[0])
		first.records = first.records[1:]
	}
}

// passed notes how the past of a task ended. One that has ended, and was read, needs no following.
func (l *logs) passed(v *raftstore.View, h *head) error {
	if errors.Is(h.err, io.EOF) || errdefs.IsNotFound(h.err) {
		l.following[h.task] = task.Terminal(v.Status(h.task).GetState())
		return nil
	}
	then := ": its part is missing"
	if l.options.GetFollow() {
		then = ": its part comes when it answers"
	}
	return l.complain(v, h.node, h.err, then)
}
