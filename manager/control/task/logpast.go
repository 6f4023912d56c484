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
	"swarm/raftstore/table"
)

const (
	// recordTimeout is how long a node may take for its next record while the others wait for it.
	// recordTimeoutDown is the same for a node that is down. A node that takes longer is reported
	// and left out.
	recordTimeout     = 10 * time.Second
	recordTimeoutDown = time.Second
	// openAtOnce is how many streams are opened at the same time.
	openAtOnce = 32
)

// head is the stream of one task, with the records that were received and not passed on yet. There
// is one for each task, because a node sends only the records of one task in order.
type head struct {
	node, task string
	options    *swarmv1.LogOptions
	timeout    time.Duration
	from       swarmv1.Worker_LogsClient
	cancel     context.CancelFunc
	records    []*swarmv1.LogRecord
	err        error // io.EOF at the end
}

// past merges the records that the nodes have, the oldest first, and passes them on.
func (l *logs) past(ctx context.Context, v *table.View) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	options := l.options.CloneVT()
	options.Follow = false
	var heads []*head
	for node, tasks := range l.want.tasks(v) {
		timeout := recordTimeout
		if st, _ := v.NodeStates.Get(node); st.GetState() == swarmv1.NodeState_DOWN {
			timeout = recordTimeoutDown
		}
		for _, id := range tasks {
			heads = append(heads, &head{node: node, task: id, options: options, timeout: timeout})
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
	_ = g.Wait() // The errors are in the heads.
	return l.merge(ctx, v, heads)
}

// fill makes sure that a head has a next record, or an error.
func (l *logs) fill(ctx context.Context, h *head) {
	if len(h.records) > 0 || h.err != nil {
		return
	}
	if h.cancel == nil {
		ctx, h.cancel = context.WithCancel(ctx)
	}
	timer := time.AfterFunc(h.timeout, h.cancel)
	if h.from == nil {
		h.from, h.err = l.open(ctx, h.node, []string{h.task}, h.options)
	}
	for len(h.records) == 0 && h.err == nil {
		var msg *swarmv1.TaskLogsResponse
		msg, h.err = l.recv(h.from, h.node, h.task)
		if h.err == nil && len(msg.GetDetails()) > 0 {
			h.err = l.pass(&swarmv1.TaskLogsResponse{Details: msg.GetDetails()})
		}
		h.records = msg.GetRecords()
	}
	if !timer.Stop() && h.err != nil && !errors.Is(h.err, io.EOF) {
		h.err = fmt.Errorf("no answer within %s: %w", h.timeout, errdefs.ErrUnavailable)
	}
	if h.err != nil {
		h.cancel()
	}
}

// merge passes on the records of all heads, the oldest first, until none has more.
func (l *logs) merge(ctx context.Context, v *table.View, heads []*head) error {
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

// passed records that the past of a task was passed on. A task that has ended is then not followed.
// If its node failed, passed reports that to the user.
func (l *logs) passed(v *table.View, h *head) error {
	if errors.Is(h.err, io.EOF) || errdefs.IsNotFound(h.err) {
		l.following[h.task] = task.Terminal(v.Status(h.task).GetState())
		return nil
	}
	then := ": its part is missing"
	if l.options.GetFollow() {
		then = ": its part comes when it answers"
	}
	return l.report(v, h.node, h.err, then)
}
