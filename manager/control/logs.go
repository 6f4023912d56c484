package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/task"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// Logs gathers what tasks wrote from the nodes that they ran on. What is there already is merged in the order of time;
// with follow, what comes is passed on as it comes, of tasks that appear later too. A node that cannot be asked is named
// in the log and does not keep the others' records back.
func (s *Server) Logs(req *swarmv1.LogsRequest, stream swarmv1.Control_LogsServer) error {
	v := s.store.View()
	want, err := logScope(v, req)
	if err != nil {
		return err
	}
	l := &logs{server: s, want: want, options: req.GetOptions(), stream: stream, seen: make(map[source]place), following: make(map[string]bool)}
	if err := l.past(stream.Context(), v); err != nil || !l.options.GetFollow() {
		return err
	}
	return l.follow(stream.Context())
}

// scope is whose logs are wanted: one task's, or a service's.
type scope struct{ service, task string }

func logScope(v *raftstore.View, req *swarmv1.LogsRequest) (scope, error) {
	ref := req.GetService()
	if ref != "" {
		svc, err := findService(v, ref)
		if err == nil {
			return scope{service: svc.GetId()}, nil
		}
		t, taskErr := findTask(v, ref) // as in Docker: one argument for both
		if taskErr != nil {
			return scope{}, err
		}
		return scope{task: t.GetId()}, nil
	}
	t, err := findTask(v, req.GetTask())
	return scope{task: t.GetId()}, err
}

func (w scope) has(t *swarmv1.Task) bool {
	return t.GetNodeId() != "" && (t.GetId() == w.task || w.service != "" && t.GetServiceId() == w.service)
}

// tasks by the node that has their logs.
func (w scope) tasks(v *raftstore.View) map[string][]string {
	out := make(map[string][]string)
	if t, ok := v.Tasks.Get(w.task); ok && w.has(t) {
		out[t.GetNodeId()] = []string{t.GetId()}
	}
	if w.service != "" {
		for t := range v.TasksOfService(w.service) {
			if w.has(t) {
				out[t.GetNodeId()] = append(out[t.GetNodeId()], t.GetId())
			}
		}
	}
	return out
}

// source is one ordered sequence of records.
type source struct {
	task   string
	stream swarmv1.LogRecord_Stream
}

// place is that of the last record of a source that was passed on.
type place struct {
	offset uint64
	time   time.Time
}

// logs is one call.
type logs struct {
	server  *Server
	want    scope
	options *swarmv1.LogOptions
	stream  swarmv1.Control_LogsServer

	mu        sync.Mutex // guards the rest, and sending
	seen      map[source]place
	following map[string]bool // task ids: attended, or wholly in the past; false: the past has looked at it
}

// pass sends records, each once: an overlap of past and present is cut by the offset.
func (l *logs) pass(records []*swarmv1.LogRecord) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := records[:0:0]
	for _, r := range records {
		src := source{r.GetTaskId(), r.GetStream()}
		if last, ok := l.seen[src]; ok && r.GetOffset() <= last.offset {
			continue
		}
		l.seen[src] = place{r.GetOffset(), r.GetTimestamp().AsTime()}
		fresh = append(fresh, r)
	}
	if len(fresh) == 0 {
		return nil
	}
	return l.stream.Send(&swarmv1.TaskLogsResponse{Records: fresh})
}

// past merges what the nodes have, oldest first.
func (l *logs) past(ctx context.Context, v *raftstore.View) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	options := l.options.CloneVT()
	if options == nil {
		options = &swarmv1.LogOptions{Tail: -1}
	}
	options.Follow = false
	var heads []*head
	for node, tasks := range l.want.tasks(v) {
		// One stream for each task: only within one are records sure to be in order.
		for _, id := range tasks {
			l.following[id] = task.Terminal(v.Status(id).GetState())
			from, err := l.open(ctx, node, []string{id}, options)
			if err != nil {
				if err := l.complain(v, node, id, err); err != nil {
					return err
				}
				continue
			}
			heads = append(heads, &head{node: node, task: id, from: from})
		}
	}
	return l.merge(v, heads)
}

// head is a stream and what was read of it and not passed on.
type head struct {
	node, task string
	from       swarmv1.Worker_LogsClient
	records    []*swarmv1.LogRecord
}

// fill makes sure that there is a next record; false at the end.
func (h *head) fill() (bool, error) {
	for len(h.records) == 0 {
		msg, err := h.from.Recv()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		h.records = msg.GetRecords()
	}
	return true, nil
}

func (l *logs) merge(v *raftstore.View, heads []*head) error {
	const batch = 256
	var out []*swarmv1.LogRecord
	for {
		var live []*head
		for _, h := range heads {
			more, err := h.fill()
			if err != nil {
				if err := l.complain(v, h.node, h.task, err); err != nil {
					return err
				}
			}
			if more {
				live = append(live, h)
			}
		}
		heads = live
		if len(heads) == 0 {
			return l.pass(out)
		}
		first := slices.MinFunc(heads, func(a, b *head) int {
			return a.records[0].GetTimestamp().AsTime().Compare(b.records[0].GetTimestamp().AsTime())
		})
		out = append(out, first.records[0])
		first.records = first.records[1:]
		if len(out) == batch {
			if err := l.pass(out); err != nil {
				return err
			}
			out = nil
		}
	}
}

func (l *logs) open(ctx context.Context, node string, tasks []string, o *swarmv1.LogOptions) (swarmv1.Worker_LogsClient, error) {
	conn, err := l.server.deps.Conn(node)
	if err != nil {
		return nil, err
	}
	return swarmv1.NewWorkerClient(conn).Logs(ctx, &swarmv1.TaskLogsRequest{TaskIds: tasks, Options: o})
}

// complain says on stderr whose logs are missing and why. That a node has none of a task is not worth a word.
func (l *logs) complain(v *raftstore.View, node, id string, err error) error {
	if errdefs.IsNotFound(err) || l.stream.Context().Err() != nil {
		return l.stream.Context().Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream.Send(&swarmv1.TaskLogsResponse{Records: []*swarmv1.LogRecord{{
		Timestamp: timestamppb.Now(), Stream: swarmv1.LogRecord_STDERR, NodeId: node, TaskId: id,
		Data: []byte(fmt.Sprintf("swarm: logs of task %s on node %s cannot be read: %v\n", id, nodeName(v, node), err)),
	}}})
}
