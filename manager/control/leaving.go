package control

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	swarmv1 "swarm/proto/swarm/v1"
	"swarm/raftstore"
)

// leavingPatience bounds how long a write waits for services that are being removed: a task's usual grace, and more.
const leavingPatience = 30 * time.Second

// leaving refuses what services still hold that are being removed: a name, a port, a network. It ends by itself when
// their tasks have stopped, so a write waits for that, and only then passes the refusal on.
type leaving struct {
	text     string
	services []string // by id
}

func (l leaving) Error() string { return l.text }
func (l leaving) Unwrap() error { return errdefs.ErrFailedPrecondition }

// allLeaving tells whether nobody of those will stay.
func allLeaving(services []*swarmv1.Service) bool {
	return !slices.ContainsFunc(services, func(svc *swarmv1.Service) bool { return !svc.GetPendingDelete() })
}

// outwaited tells whether an error was one of leaving, and what was in the way has gone.
func (s *Server) outwaited(ctx context.Context, refusal error) bool {
	var l leaving
	if !errors.As(refusal, &l) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, leavingPatience)
	defer cancel()
	view, w := s.store.Watch(raftstore.TableService)
	defer w.Close()
	for slices.ContainsFunc(l.services, func(id string) bool { _, there := view.Services.Get(id); return there }) {
		batch, err := w.Next(ctx)
		if err != nil {
			return false
		}
		view = batch.View
	}
	return true
}
