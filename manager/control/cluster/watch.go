package cluster

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// watchable returns the tables that users may watch. They do not see claims and the rows of Raft
// itself. Secrets and configs are shown without their data, and revisions without credentials.
func watchable() []table.ID {
	return []table.ID{
		table.Node, table.NodeState, table.Service, table.Revision, table.Task,
		table.TaskStatus, table.Network, table.Endpoint, table.Secret, table.Config,
		table.Volume, table.Image, table.ImageCopy, table.Cluster, table.Credential,
	}
}

// eventType returns the name of a table in events.
func eventType(t table.ID) string { return strings.ReplaceAll(t.String(), " ", "_") }

// watched returns the tables that a request names, or all if it names none.
func watched(types []string) ([]table.ID, error) {
	all := watchable()
	if len(types) == 0 {
		return all, nil
	}
	byName := make(map[string]table.ID, len(all))
	var names []string
	for _, t := range all {
		byName[eventType(t)] = t
		names = append(names, eventType(t))
	}
	var out []table.ID
	for _, name := range types {
		t, ok := byName[name]
		if !ok {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("event type %q is not known: use any of %s", name, strings.Join(names, ", ")))
		}
		out = append(out, t)
	}
	return out, nil
}

// Watch sends the changes that the filter matches, as they are committed. A client that lost its
// connection continues after the last index that it received, as long as this manager remembers it.
// If it does not, Watch returns ErrOutOfRange.
func (s *Server) Watch(req *swarmv1.WatchRequest, stream swarmv1.Control_WatchServer) error {
	tables, err := watched(req.GetTypes())
	if err != nil {
		return err
	}
	filter, err := object.ResolveFilter(s.store.View(), req.GetFilter())
	if err != nil {
		return err
	}
	ctx := stream.Context()
	w, err := s.watchFrom(req.GetSince(), tables)
	if err != nil {
		return err
	}
	defer w.Close()
	// The header tells the client that it receives every change from now on.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		batch, err := w.Next(ctx)
		if errors.Is(err, watch.ErrResync) {
			return tooOld(req.GetSince())
		}
		if err != nil {
			return err
		}
		for _, c := range batch.Changes {
			event := eventOf(batch.View, c)
			if !crud.Matches(filter, eventSubject(batch.View, c)) {
				continue
			}
			if req.GetObjects() {
				event.Object = shown(c.Row())
			}
			if err := stream.Send(event); err != nil {
				return err
			}
		}
	}
}

func (s *Server) watchFrom(since uint64, tables []table.ID) (*watch.Watcher, error) {
	if since == 0 {
		_, w := s.store.Watch(tables...)
		return w, nil
	}
	if newest := s.store.View().Index(); since > newest {
		return nil, errdefs.ErrOutOfRange.WithMessage(fmt.Sprintf("there is no event %d yet: the newest that this manager knows is %d", since, newest))
	}
	w, err := s.store.Since(since, tables...)
	if errors.Is(err, watch.ErrResync) {
		return nil, tooOld(since)
	}
	return w, err
}

func tooOld(since uint64) error {
	return errdefs.ErrOutOfRange.WithMessage(fmt.Sprintf("events after index %d are no longer known, or come too fast for this client: list and watch anew", since))
}

func eventOf(v *table.View, c table.RowChange) *swarmv1.Event {
	row := c.Row()
	e := &swarmv1.Event{Index: c.Index, Time: c.Time, Type: eventType(c.Table), Id: c.Key, Attributes: attributes(v, row)}
	switch {
	case c.Old == nil:
		e.Action = swarmv1.Event_CREATE
	case c.New == nil:
		e.Action = swarmv1.Event_REMOVE
	default:
		e.Action = swarmv1.Event_UPDATE
	}
	return e
}

// attributes returns what a line of `swarm events` shows besides the id.
func attributes(v *table.View, row proto.Message) map[string]string {
	a := make(map[string]string)
	switch o := row.(type) {
	case *swarmv1.Node:
		a["name"], a["role"], a["availability"] = object.Hostname(o), strings.ToLower(o.GetSpec().GetRole().String()), strings.ToLower(o.GetSpec().GetAvailability().String())
	case *swarmv1.NodeState:
		a["name"], a["state"], a["message"] = object.NodeName(v, o.GetNodeId()), strings.ToLower(o.GetState().String()), o.GetMessage()
	case *swarmv1.Service:
		a["name"], a["revision"] = o.GetName(), strconv.FormatUint(o.GetRevision(), 10)
		if st := o.GetUpdateStatus(); st != nil {
			a["updatestate"] = strings.ToLower(st.GetState().String())
		}
	case *swarmv1.Revision:
		a["service"], a["image"] = o.GetServiceId(), o.GetSpec().GetTaskTemplate().GetContainerSpec().GetImage()
	case *swarmv1.Task:
		a["service"], a["node"], a["desired"] = o.GetServiceId(), o.GetNodeId(), strings.ToLower(o.GetDesiredState().String())
		a["name"] = object.TaskName(object.ServiceName(v, o.GetServiceId()), o)
	case *swarmv1.TaskStatus:
		a["state"], a["err"] = strings.ToLower(o.GetState().String()), o.GetErr()
		if t, ok := v.Tasks.Get(o.GetTaskId()); ok {
			a["service"], a["node"] = t.GetServiceId(), t.GetNodeId()
			a["name"] = object.TaskName(object.ServiceName(v, t.GetServiceId()), t)
		}
	case *swarmv1.Image:
		a["name"], a["digest"] = o.GetName(), o.GetDigest()
	case *swarmv1.ImageCopy:
		a["digest"], a["node"] = o.GetDigest(), o.GetNodeId()
	case *swarmv1.Network:
		a["name"], a["type"] = o.GetSpec().GetName(), o.GetSpec().GetDriverConfig().GetName()
	case *swarmv1.Secret:
		a["name"] = o.GetSpec().GetName()
	case *swarmv1.Config:
		a["name"] = o.GetSpec().GetName()
	case *swarmv1.Volume:
		a["name"] = o.GetSpec().GetName()
	case *swarmv1.Credential:
		a["name"], a["issuer"], a["until"] = o.GetName(), o.GetIssuer(), o.GetUntil().AsTime().Format(time.RFC3339)
	}
	for k, value := range a {
		if value == "" {
			delete(a, k)
		}
	}
	return a
}

// eventSubject returns what filters see of a change.
func eventSubject(v *table.View, c table.RowChange) crud.Subject {
	switch o := c.Row().(type) {
	case *swarmv1.Node:
		return object.Nodes().Subject(v, o)
	case *swarmv1.NodeState:
		n, _ := v.Nodes.Get(o.GetNodeId())
		sub := object.Nodes().Subject(v, n)
		sub.ID, sub.Nodes = o.GetNodeId(), []string{o.GetNodeId()}
		return sub
	case *swarmv1.Service:
		return object.Services().Subject(v, o)
	case *swarmv1.Revision:
		return crud.Subject{ID: c.Key, Services: []string{o.GetServiceId()}, Labels: []map[string]string{o.GetSpec().GetLabels()}}
	case *swarmv1.Endpoint:
		return crud.Subject{ID: c.Key, Services: []string{o.GetServiceId()}}
	case *swarmv1.Task:
		return object.Tasks().Subject(v, o)
	case *swarmv1.TaskStatus:
		if t, ok := v.Tasks.Get(o.GetTaskId()); ok {
			return object.Tasks().Subject(v, t)
		}
	case *swarmv1.ImageCopy:
		return crud.Subject{ID: c.Key, Nodes: []string{o.GetNodeId()}}
	case *swarmv1.Image:
		return crud.Subject{ID: c.Key, Names: []string{o.GetName()}}
	case *swarmv1.Network:
		return object.Networks().Subject(v, o)
	case *swarmv1.Secret:
		return crud.Subject{ID: c.Key, Names: []string{o.GetSpec().GetName()}, Labels: []map[string]string{o.GetSpec().GetLabels()}}
	case *swarmv1.Config:
		return crud.Subject{ID: c.Key, Names: []string{o.GetSpec().GetName()}, Labels: []map[string]string{o.GetSpec().GetLabels()}}
	case *swarmv1.Volume:
		return crud.Subject{ID: c.Key, Names: []string{o.GetSpec().GetName()}, Labels: []map[string]string{o.GetSpec().GetLabels()}}
	case *swarmv1.Credential:
		return object.Credentials().Subject(v, o)
	}
	return crud.Subject{ID: c.Key}
}

// shown returns a row as users may see it: without keys, tokens, credentials and the data of
// secrets.
func shown(row proto.Message) *swarmv1.Object {
	switch o := row.(type) {
	case *swarmv1.Cluster:
		o = shownCluster(o)
		if o.GetRootCa() != nil {
			o.RootCa.JoinTokens = nil // Only GetCluster returns them.
		}
		row = o
	case *swarmv1.Revision:
		row = object.ShownRevision(o)
	case *swarmv1.Secret:
		o = o.CloneVT()
		for _, d := range o.GetVersions() {
			d.Data = nil
		}
		row = o
	}
	return table.Object(row)
}
