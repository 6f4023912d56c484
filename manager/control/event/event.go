// Package event serves the RPC Watch of the users' API: an event for each change of the replicated
// rows that users may see, from any manager, filtered as Docker does.
//
// # No event twice, and none lost
//
// A place in the sequence of changes is an index of Raft's log and a part: the position of a change
// among the changes with that index in the watched tables. Both are the same on every manager, so a
// client that has lost its manager continues on any other after the last place that it knows. If
// filters match rarely, the places of events become old. So a client may ask for bookmarks, which
// have a place and nothing else. A manager keeps the newest changes in memory only. A client whose
// place is older gets ErrOutOfRange: it never misses an event in silence.
//
// The package starts no goroutine.
package event

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"swarm/internal/eventplace"
	"swarm/manager/control/crud"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
	"swarm/raftstore/table"
	"swarm/raftstore/watch"
)

const (
	// bookmarkInterval is how often a bookmark is sent if there is a new place.
	bookmarkInterval = 10 * time.Second
	// replicaWait is how long Watch waits until this replica has the place after which a client
	// continues. Another manager may have sent that place a moment ago.
	replicaWait = 3 * time.Second
)

// Deps are what a Server needs.
type Deps struct {
	Store *raftstore.Store
	// Events are those of the tables that users may watch.
	Events []crud.Events
}

// Server serves the RPC Watch.
type Server struct {
	store  *raftstore.Store
	events []crud.Events
}

// New makes a Server.
func New(deps Deps) *Server { return &Server{store: deps.Store, events: deps.Events} }

// Watch sends an event for each change that the filters match, when it is committed. Its header
// arrives when the watch is in place, and has the place after which it begins (see eventplace).
func (s *Server) Watch(req *swarmv1.WatchRequest, stream swarmv1.Control_WatchServer) error {
	if req.GetIndex() > 0 && req.GetSince() != nil {
		return errdefs.ErrInvalidArgument.WithMessage("events: continue after a place or from a time, not both")
	}
	f, err := parse(s.store.View(), s.events, req.GetFilters())
	if err != nil {
		return err
	}
	w, header, err := s.watcher(stream.Context(), req, slices.Collect(maps.Keys(f.tables)))
	if err != nil {
		return err
	}
	defer w.Close()
	begin, part, _ := eventplace.Parse(header)
	names, err := s.names(begin, part)
	if err != nil {
		return err
	}
	defer names.watcher.Close()
	if err := stream.SendHeader(header); err != nil {
		return err
	}
	return (&watching{store: s.store, req: req, filter: f, stream: stream, watcher: w, names: names, told: begin, at: time.Now()}).run()
}

// watcher returns a watcher that begins where the request says, and the header.
func (s *Server) watcher(ctx context.Context, req *swarmv1.WatchRequest, tables []table.ID) (*watch.Watcher, metadata.MD, error) {
	switch {
	case req.GetIndex() > 0:
		after := req.GetIndex()
		if req.GetPart() > 0 {
			after-- // The client has not had all changes with this index.
		}
		bounded, cancel := context.WithTimeout(ctx, replicaWait)
		defer cancel()
		if view, err := s.store.WaitIndex(bounded, req.GetIndex()); err != nil && ctx.Err() == nil {
			return nil, nil, errdefs.ErrOutOfRange.WithMessage(fmt.Sprintf(
				"there is no event %d yet: the newest that this manager knows is %d", req.GetIndex(), s.store.View().Index()))
		} else if err != nil {
			return nil, nil, err
		} else if view.Index() < req.GetIndex() {
			return nil, nil, errTooOld
		}
		w, err := s.store.Since(after, tables...)
		if errors.Is(err, watch.ErrResync) {
			return nil, nil, errTooOld
		}
		return w, eventplace.Header(req.GetIndex(), req.GetPart()), err
	case req.GetSince() != nil:
		before, oldest, w := s.store.Kept(tables...)
		header := eventplace.Header(before, 0)
		if before > 0 && !oldest.Before(req.GetSince().AsTime()) {
			eventplace.SetIncomplete(header)
		}
		return w, header, nil
	}
	view, w := s.store.Watch(tables...)
	return w, eventplace.Header(view.Index(), 0), nil
}

// names returns the rows that are removed from a place on.
func (s *Server) names(index uint64, part uint32) (*removed, error) {
	if part > 0 {
		index--
	}
	w, err := s.store.Since(index, namingTables...)
	if errors.Is(err, watch.ErrResync) {
		return nil, errTooOld
	}
	return &removed{watcher: w, rows: map[rowKey]table.RowChange{}}, err
}

var errTooOld = errdefs.ErrOutOfRange.WithMessage(
	"this manager does not know all events since then any more: list the objects, and watch from now on")

// watching is one call of Watch.
type watching struct {
	store   *raftstore.Store
	req     *swarmv1.WatchRequest
	filter  *filter
	stream  swarmv1.Control_WatchServer
	watcher *watch.Watcher
	names   *removed

	index uint64 // the place of the last change that was read
	part  uint32
	told  uint64 // the index of the last event or bookmark that was sent, and when
	at    time.Time
}

func (w *watching) run() error {
	for {
		known := w.store.View().Index()
		mark := time.Now().Add(bookmarkInterval)
		batch, err := w.watcher.NextBefore(w.stream.Context(), w.deadline(mark))
		switch {
		case errors.Is(err, watch.ErrResync):
			return errTooOld
		case err != nil:
			return err
		}
		if err := w.changes(batch); err != nil {
			return err
		}
		if len(batch.Changes) > 0 {
			if time.Since(w.at) >= bookmarkInterval {
				err = w.bookmark(w.index, w.part)
			}
			if err != nil {
				return err
			}
			continue
		}
		if until := w.req.GetUntil(); until != nil && !time.Now().Before(until.AsTime()) {
			return nil
		}
		// There was no change for a whole interval, so known is older than everything that the
		// watcher has read.
		if err := w.bookmark(known, 0); err != nil {
			return err
		}
	}
}

// changes sends the events of a batch.
func (w *watching) changes(batch watch.Batch) error {
	if len(batch.Changes) == 0 {
		return nil
	}
	err := w.names.catchUp(w.stream.Context(), batch.View.Index())
	if errors.Is(err, watch.ErrResync) {
		return errTooOld
	}
	if err != nil {
		return err
	}
	for _, c := range batch.Changes {
		if err := w.change(w.names.view(batch.View, c), c); err != nil {
			return err
		}
	}
	w.names.forget(w.index)
	return nil
}

// deadline returns when to stop waiting for a change: at the time of the next bookmark, or when the
// request ends. Zero: never.
func (w *watching) deadline(mark time.Time) time.Time {
	if !w.req.GetBookmarks() {
		mark = time.Time{}
	}
	if w.req.GetUntil() == nil {
		return mark
	}
	until := w.req.GetUntil().AsTime()
	if mark.IsZero() || until.Before(mark) {
		return until
	}
	return mark
}

// change sends the event of a change, if the filters match and the client has not had it.
func (w *watching) change(v *table.View, c table.RowChange) error {
	if c.Index != w.index {
		w.index, w.part = c.Index, 0
	}
	w.part++
	if c.Index == w.req.GetIndex() && w.part <= w.req.GetPart() {
		return nil
	}
	if !w.inTime(c.Time) {
		return nil
	}
	events := w.filter.tables[c.Table]
	e := events.Event(v, c, w.req.GetObjects())
	if e == nil || !w.filter.matches(v, e, events.Subject(v, c)) {
		return nil
	}
	e.Part = w.part
	return w.send(e)
}

func (w *watching) inTime(t *timestamppb.Timestamp) bool {
	since, until := w.req.GetSince(), w.req.GetUntil()
	return (since == nil || !t.AsTime().Before(since.AsTime())) && (until == nil || !t.AsTime().After(until.AsTime()))
}

// bookmark sends a place, if the client wants bookmarks and has no newer place.
func (w *watching) bookmark(index uint64, part uint32) error {
	if !w.req.GetBookmarks() || index <= w.told {
		return nil
	}
	return w.send(&swarmv1.Event{Index: index, Part: part})
}

func (w *watching) send(e *swarmv1.Event) error {
	w.told, w.at = e.GetIndex(), time.Now()
	return w.stream.Send(e)
}
