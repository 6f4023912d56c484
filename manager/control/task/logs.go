package task

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/bounds"
	"swarm/internal/spec"
	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

var errNodeRemoved = errors.New("it was removed from the swarm")

// Logs gathers what tasks wrote from the nodes that they ran on. What is there already is merged in
// the order of time; with follow, what comes is passed on as it comes, of tasks that appear later
// and nodes that return too. A node that cannot be asked is named once and does not keep the
// others' records back.
func (s *Server) Logs(req *swarmv1.LogsRequest, stream swarmv1.Control_LogsServer) error {
	v := s.store.View()
	want, err := logScope(v, req)
	if err != nil {
		return err
	}
	if err := want.kept(v); err != nil {
		return err
	}
	options := req.GetOptions()
	if options == nil {
		options = &swarmv1.LogOptions{Tail: -1}
	}
	l := &logs{
		server: s, want: want, options: options, stream: stream, seen: make(map[source]place),
		following: make(map[string]bool), detailed: make(map[string]bool), away: make(map[string]bool),
	}
	if err := l.past(stream.Context(), v); err != nil || !options.GetFollow() {
		return err
	}
	return l.follow(stream.Context())
}

// scope is whose logs are wanted: one task's, or a service's.
type scope struct{ service, task string }

func logScope(v *raftstore.View, req *swarmv1.LogsRequest) (scope, error) {
	if req.GetService() == "" {
		t, err := object.Tasks().Find(v, req.GetTask())
		return scope{task: t.GetId()}, err
	}
	found, err := crud.FindAny(req.GetService(), object.Services().In(v), object.Tasks().In(v)) // As in Docker: one argument for both.
	if err != nil {
		return scope{}, err
	}
	if _, ok := found.(*swarmv1.Task); ok {
		return scope{task: found.GetId()}, nil
	}
	return scope{service: found.GetId()}, nil
}

func (w scope) has(t *swarmv1.Task) bool {
	return t.GetNodeId() != "" && (t.GetId() == w.task || w.service != "" && t.GetServiceId() == w.service)
}

// all lists the tasks, those that are nowhere yet among them.
func (w scope) all(v *raftstore.View) []*swarmv1.Task {
	if w.service == "" {
		t, _ := v.Tasks.Get(w.task)
		return []*swarmv1.Task{t}
	}
	return slices.Collect(v.TasksOfService(w.service))
}

// tasks with a log, by the node that has it.
func (w scope) tasks(v *raftstore.View) map[string][]string {
	out := make(map[string][]string)
	for _, t := range w.all(v) {
		if w.has(t) && !logless(v, t) {
			out[t.GetNodeId()] = append(out[t.GetNodeId()], t.GetId())
		}
	}
	return out
}

// logless says whether the task's log driver keeps nothing.
func logless(v *raftstore.View, t *swarmv1.Task) bool {
	r, _ := v.Revision(t.GetServiceId(), t.GetRevision()) // gone with its tasks' history, perhaps
	return spec.LogDriver(t, r).GetName() == spec.LogNone
}

// kept refuses when nothing is kept and nothing will be, as long as the service stays as it is.
func (w scope) kept(v *raftstore.View) error {
	tasks := w.all(v)
	if slices.ContainsFunc(tasks, func(t *swarmv1.Task) bool { return !logless(v, t) }) {
		return nil
	}
	id := w.service
	if id == "" {
		id = tasks[0].GetServiceId()
	}
	svc, ok := v.Services.Get(id)
	if !ok {
		return nil
	}
	next := &swarmv1.Task{ServiceId: id, Revision: svc.GetRevision(), LogDriver: v.Cluster().GetSpec().GetTaskDefaults().GetLogDriver()}
	if w.service != "" && !logless(v, next) {
		return nil
	}
	name := svc.GetName()
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("nothing of service %s is kept: its log driver is none; choose another with `swarm service update --log-driver local %s`", name, name))
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
	// following has task ids: attended, or wholly in the past; false: the past has looked at it. It
	// is past's, then attendAll's alone.
	following map[string]bool

	mu       sync.Mutex // guards the rest, and sending
	seen     map[source]place
	detailed map[string]bool // task ids
	away     map[string]bool // nodes that were complained of
}

// pass sends what a node said, each record once: an overlap of past and present is cut by the
// offset.
func (l *logs) pass(m *swarmv1.TaskLogsResponse) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := &swarmv1.TaskLogsResponse{}
	for _, d := range m.GetDetails() {
		if !l.detailed[d.GetTaskId()] {
			l.detailed[d.GetTaskId()] = true
			out.Details = append(out.Details, d)
		}
	}
	for _, r := range m.GetRecords() {
		src := source{r.GetTaskId(), r.GetStream()}
		if last, ok := l.seen[src]; ok && r.GetOffset() <= last.offset {
			continue
		}
		l.seen[src] = place{r.GetOffset(), r.GetTimestamp().AsTime()}
		out.Records = append(out.Records, r)
	}
	if len(out.Records)+len(out.Details) == 0 {
		return nil
	}
	return l.stream.Send(out)
}

// places of a task, for a node to go on behind them.
func (l *logs) places(id string) (out []*swarmv1.LogPlace) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for src, at := range l.seen {
		if src.task == id {
			out = append(out, &swarmv1.LogPlace{Stream: src.stream, Offset: at.offset})
		}
	}
	return out
}

func (l *logs) open(ctx context.Context, node string, tasks []string, o *swarmv1.LogOptions) (swarmv1.Worker_LogsClient, error) {
	conn, err := l.server.nodes.Conn(node)
	if err != nil {
		return nil, err
	}
	return swarmv1.NewWorkerClient(conn).Logs(ctx, &swarmv1.TaskLogsRequest{TaskIds: tasks, Options: o})
}

// recv receives what a node says of one of its tasks. Whose records they are, the managers know
// themselves.
func (l *logs) recv(from swarmv1.Worker_LogsClient, node, id string) (*swarmv1.TaskLogsResponse, error) {
	msg, err := from.Recv()
	if err != nil {
		return nil, err
	}
	return bounds.LogRecords(msg, []string{id}, func(string) *swarmv1.LogRecord {
		t, _ := l.server.store.View().Tasks.Get(id)
		return &swarmv1.LogRecord{NodeId: node, ServiceId: t.GetServiceId(), Slot: t.GetSlot()}
	}), nil
}

// complain says whose logs are missing and why, once for each node until it is heard again. That a
// node has none of a task is not worth a word.
func (l *logs) complain(v *raftstore.View, node string, err error, then string) error {
	if errdefs.IsNotFound(err) || l.stream.Context().Err() != nil {
		return l.stream.Context().Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away[node] {
		return nil
	}
	l.away[node] = true
	l.server.log.Info("logs of a node are missing", "node", node, "err", err)
	name := object.NodeName(v, node)
	if _, ok := v.Nodes.Get(node); !ok {
		name, err = node, errNodeRemoved
	}
	return l.stream.Send(&swarmv1.TaskLogsResponse{Notices: []string{
		fmt.Sprintf("node %s cannot be asked for its logs (%s)%s", name, strings.TrimSpace(err.Error()), then),
	}})
}

// heard notes that a node answers.
func (l *logs) heard(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.away, node)
}
