package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"swarm/internal/explain"
	"swarm/internal/pause"
	"swarm/manager/control/object"
	"swarm/manager/converge"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

const (
	// lookGap is the pause between two looks at a service, so that a service with many changes
	// costs little.
	lookGap = 50 * time.Millisecond
	// leaderless is how long there must be no leader before the client is told.
	leaderless = 3 * time.Second
)

// WaitService sends the progress of a service whenever it changes, and ends after the verdict. It
// first waits until this replica has the change that req.Index names. It returns ErrNotFound if the
// service is removed meanwhile. ErrUnavailable is transient: call again, on any manager.
func (s *Server) WaitService(req *swarmv1.WaitServiceRequest, stream swarmv1.Control_WaitServiceServer) error {
	ctx := stream.Context()
	view, err := s.store.WaitIndex(ctx, req.GetIndex())
	if err != nil {
		return err
	}
	svc, err := object.Services().Find(view, req.GetId())
	if err != nil {
		return err
	}
	w := &serviceWait{server: s, id: svc.GetId(), name: svc.GetName(), stream: stream}
	return w.run(converge.New(converge.Change{Index: req.GetIndex(), Revision: req.GetRevision()}))
}

// serviceWait is one call of WaitService.
type serviceWait struct {
	server   *Server
	id, name string
	stream   swarmv1.Control_WaitServiceServer
	sent     *swarmv1.ServiceProgress // the last progress that the client got
}

// run has the judge look at the service until there is a verdict: after each change of the
// service's rows, and at the times for which the judge asks.
func (w *serviceWait) run(judge *converge.Judge) error {
	ctx, store := w.stream.Context(), w.server.store
	view, watcher := store.Watch(table.Service, table.Revision, table.Task, table.TaskStatus, table.Endpoint)
	defer func() { watcher.Close() }() // closes the last watcher: the loop may replace it
	for {
		state, ok := w.state(view)
		if !ok {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("service %s was removed while waiting for it", w.name))
		}
		report := judge.Look(time.Now(), state)
		if err := w.send(view, report); err != nil || report.Verdict != nil {
			return err
		}
		if err := pause.For(ctx, lookGap); err != nil {
			return err
		}
		next, err := w.changed(watcher, report.Again)
		if errors.Is(err, watch.ErrResync) {
			watcher.Close()
			next, watcher = store.Watch(table.Service, table.Revision, table.Task, table.TaskStatus, table.Endpoint)
			err = nil
		}
		if err != nil {
			return err
		}
		view = next
	}
}

// changed waits for a change of the service, for at most d, and returns the view after that. If d
// is 0, it waits without a limit.
func (w *serviceWait) changed(watcher *watch.Watcher, d time.Duration) (*table.View, error) {
	ctx := w.stream.Context()
	if d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	for {
		batch, err := watcher.Next(ctx)
		if err != nil && ctx.Err() != nil && w.stream.Context().Err() == nil {
			return w.server.store.View(), nil
		}
		if err != nil {
			return nil, err
		}
		for _, c := range batch.Changes {
			if w.owns(batch.View, c.Row()) {
				return batch.View, nil
			}
		}
	}
}

// owns reports whether the row belongs to the service.
func (w *serviceWait) owns(v *table.View, row proto.Message) bool {
	switch o := row.(type) {
	case *swarmv1.Service:
		return o.GetId() == w.id
	case *swarmv1.TaskStatus:
		t, _ := v.Tasks.Get(o.GetTaskId())
		return t.GetServiceId() == w.id
	case interface{ GetServiceId() string }:
		return o.GetServiceId() == w.id
	}
	return false
}

// state collects the rows that the judge looks at. It returns false if the service does not exist.
func (w *serviceWait) state(v *table.View) (converge.State, bool) {
	s, ok := stateOf(v, w.id)
	if ok {
		w.name = s.Service.GetService().GetName()
	}
	return s, ok
}

// stateOf collects the rows of a service that a judge looks at. It returns false if the service
// does not exist.
func stateOf(v *table.View, id string) (converge.State, bool) {
	svc, ok := v.Services.Get(id)
	if !ok {
		return converge.State{}, false
	}
	s := converge.State{ViewIndex: v.Index(), Service: serviceInfo(v, svc), Revisions: map[uint64]*swarmv1.Revision{}}
	for r := range v.RevisionsOf(id) {
		s.Revisions[r.GetNumber()] = r
	}
	for t := range v.TasksOfService(id) {
		s.Tasks = append(s.Tasks, object.TaskInfo(v, t))
	}
	return s, true
}

// send sends the progress and the verdict of a report, unless there is no verdict and the client
// has the same progress. It adds to the verdict what the judge does not know: the log of the task
// that failed, and the nodes that do not answer at ports of the service.
func (w *serviceWait) send(v *table.View, r converge.Report) error {
	if since := w.server.store.LeaderlessSince(); !since.IsZero() && time.Since(since) > leaderless {
		r.Progress.Note = w.server.staleNotice()
	}
	verdict := r.Verdict
	if verdict == nil && r.Progress.EqualVT(w.sent) {
		return nil
	}
	w.sent = r.Progress
	if id := verdict.GetTask().GetTask().GetId(); id != "" {
		verdict.Log = w.server.lastLogs(w.stream.Context(), id)
	}
	if verdict.GetConverged() {
		verdict.Warnings = portWarnings(v, w.id)
	}
	return w.stream.Send(&swarmv1.WaitServiceResponse{Progress: r.Progress, Verdict: verdict})
}

// portWarnings names the nodes that do not answer at a port of the service.
func portWarnings(v *table.View, service string) []string {
	end, _ := v.Endpoints.Get(service)
	var nodes []*swarmv1.NodeInfo
	if len(end.GetPorts()) > 0 {
		for n := range v.Nodes.All() {
			st, _ := v.NodeStates.Get(n.GetId())
			nodes = append(nodes, &swarmv1.NodeInfo{Node: n, State: st})
		}
	}
	return explain.PortWarnings(end.GetPorts(), nodes)
}
