package cluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"swarm/manager/control/crud"
	"swarm/manager/control/object"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

// watched returns the Events that a request names by their types, or all if it names none.
func (s *Server) watched(types []string) (map[table.ID]crud.Events, error) {
	out := make(map[table.ID]crud.Events)
	var names []string
	for _, e := range s.events {
		names = append(names, e.Type())
		if len(types) == 0 || slices.Contains(types, e.Type()) {
			out[e.Table] = e
		}
	}
	for _, name := range types {
		if !slices.Contains(names, name) {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("event type %q is not known: use any of %s", name, strings.Join(names, ", ")))
		}
	}
	return out, nil
}

// Watch sends an event for each change that the filter matches, when it is committed. A client that
// has lost its connection continues after the last index that it received. If this manager does not
// have all changes since that index any more, Watch returns ErrOutOfRange.
func (s *Server) Watch(req *swarmv1.WatchRequest, stream swarmv1.Control_WatchServer) error {
	events, err := s.watched(req.GetTypes())
	if err != nil {
		return err
	}
	filter, err := object.ResolveFilter(s.store.View(), req.GetFilter())
	if err != nil {
		return err
	}
	ctx := stream.Context()
	w, err := s.watchFrom(req.GetSince(), slices.Collect(maps.Keys(events)))
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
			e := events[c.Table]
			if !crud.Matches(filter, e.Subject(batch.View, c)) {
				continue
			}
			if err := stream.Send(e.Event(batch.View, c, req.GetObjects())); err != nil {
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
