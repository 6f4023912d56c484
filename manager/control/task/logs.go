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
	"swarm/raftstore/table"
)

var errNodeRemoved = errors.New("it was removed from the swarm")

// Logs gathers the records of tasks from the nodes on which they ran. It merges the existing
// records by time. With follow, it then passes on new records as they come, also of tasks that
// start later, and of nodes that return. A node that does not answer is reported once, and does not
// delay the records of the others.
func (s *Server) Logs(req *swarmv1.LogsRequest, stream swarmv1.Control_LogsServer) error {
	v := s.store.View()
	want, err := logScope(v, req)
	if err != nil {
		return err
	}
	if err := want.checkKept(v); err != nil {
		return err
	}
	options := req.GetOptions()
	if options == nil {
		options = &swarmv1.LogOptions{Tail: -1}
	}
	l := s.newLogs(want, options, stream)
	if err := l.past(stream.Context(), v); err != nil || !options.GetFollow() {
		return err
	}
	return l.follow(stream.Context())
}

func (s *Server) newLogs(want scope, options *swarmv1.LogOptions, stream swarmv1.Control_LogsServer) *logs {
	return &logs{
		server: s, want: want, options: options, stream: stream, seen: make(map[source]place),
		following: make(map[string]bool), detailed: make(map[string]bool), away: make(map[string]bool),
	}
}

// scope names the task or the service whose logs the user wants, by its id. run is the iteration of
// a job; 0: all.
type scope struct {
	service, task string
	run           uint64
}

// logScope finds the task or the service of a request.
func logScope(v *table.View, req *swarmv1.LogsRequest) (scope, error) {
	if req.GetService() == "" {
		t, err := object.Tasks().Find(v, req.GetTask())
		return scope{task: t.GetId()}, err
	}
	found, err := crud.FindAny(req.GetService(), object.Services().In(v), object.Tasks().In(v)) // Docker has one argument for both.
	if err != nil {
		return scope{}, err
	}
	if _, ok := found.(*swarmv1.Task); ok {
		return scope{task: found.GetId()}, nil
	}
	return scope{service: found.GetId(), run: req.GetRun()}, nil
}

// has reports whether a task is in the scope and on a node.
func (w scope) has(t *swarmv1.Task) bool {
	return t.GetNodeId() != "" && (t.GetId() == w.task || w.service != "" && t.GetServiceId() == w.service && w.hasRun(t))
}

func (w scope) hasRun(t *swarmv1.Task) bool { return w.run == 0 || t.GetJobIteration() == w.run }

// all returns the tasks of the scope, including those that are on no node yet.
func (w scope) all(v *table.View) []*swarmv1.Task {
	if w.service == "" {
		t, _ := v.Tasks.Get(w.task)
		return []*swarmv1.Task{t}
	}
	return slices.Collect(crud.Where(v.TasksOfService(w.service), w.hasRun))
}

// tasks returns the ids of the tasks with a log, by node.
func (w scope) tasks(v *table.View) map[string][]string {
	out := make(map[string][]string)
	for _, t := range w.all(v) {
		if w.has(t) && !logless(v, t) {
			out[t.GetNodeId()] = append(out[t.GetNodeId()], t.GetId())
		}
	}
	return out
}

// logless reports whether the log driver of a task keeps no records.
func logless(v *table.View, t *swarmv1.Task) bool {
	r, _ := v.Revision(t.GetServiceId(), t.GetRevision()) // The revision may be deleted with the history of its tasks.
	return spec.LogDriver(t, r).GetName() == spec.LogNone
}

// checkKept returns ErrFailedPrecondition if the log drivers of all tasks keep no records, and the
// tasks that may come would keep none either.
func (w scope) checkKept(v *table.View) error {
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

// source is one ordered sequence of records: one output stream of a task.
type source struct {
	task   string
	stream swarmv1.LogRecord_Stream
}

// place is the position of the last record of a source that the user has received.
type place struct {
	offset uint64
	time   time.Time
}

// logs is one call of Logs.
type logs struct {
	server  *Server
	want    scope
	options *swarmv1.LogOptions
	stream  swarmv1.Control_LogsServer
	// following is true for a task that needs no further stream: its new records have a stream, or
	// it has ended and all its records were passed on. It is false for a task of which only the
	// past records were passed on. Only past and then followAll use the map, so it needs no mutex.
	following map[string]bool

	mu       sync.Mutex // guards the rest, and calls of stream.Send
	seen     map[source]place
	detailed map[string]bool // tasks whose details were passed on
	away     map[string]bool // nodes that were reported as missing
}

// pass sends what a node sent, each record once. Records that the past has given already are
// recognised by their offset.
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

// places returns where a node continues with the records of a task.
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

// open opens the stream of tasks on a node.
func (l *logs) open(ctx context.Context, node string, tasks []string, o *swarmv1.LogOptions) (swarmv1.Worker_LogsClient, error) {
	conn, err := l.server.nodes.Conn(node)
	if err != nil {
		return nil, err
	}
	return swarmv1.NewWorkerClient(conn).Logs(ctx, &swarmv1.TaskLogsRequest{TaskIds: tasks, Options: o})
}

// recv receives records of one task from its node. It fills in the node, the service and the slot
// from the manager's own state.
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

// report tells the user that the logs of a node are missing, and why. It does so once for a node,
// until the node answers again. An ErrNotFound is not reported: the node has no log of the task.
func (l *logs) report(v *table.View, node string, err error, then string) error {
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
