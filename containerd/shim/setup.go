//go:build linux

package shim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// setup is a call of Create that has not returned.
type setup struct {
	id   string
	done chan struct{} // closed when the call has ended

	// The recorder's mu guards these. Only one of them is ever set.
	abandoned bool // containerd wants the container deleted
	settled   bool // the container is set up, and Delete deletes it like any other
}

// errGivenUp says that containerd abandoned a container during its set-up.
var errGivenUp = fmt.Errorf("given up while it was set up: %w", errdefs.ErrUnavailable)

// errDeleted says that containerd asked to delete a container during its set-up.
var errDeleted = errors.New("containerd deletes it")

// begin notes that a container is set up, and waits until no earlier call sets up a container with
// the same id.
func (r *recorder) begin(id string) *setup {
	s := &setup{id: id, done: make(chan struct{})}
	r.mu.Lock()
	earlier := r.setupsLocked(id)
	r.setups = append(r.setups, s)
	r.begun++
	r.mu.Unlock()
	for _, e := range earlier {
		<-e.done
	}
	return s
}

// setupsLocked returns the set-ups of a container, the earliest first.
func (r *recorder) setupsLocked(id string) []*setup {
	var found []*setup
	for _, s := range r.setups {
		if s.id == id {
			found = append(found, s)
		}
	}
	return found
}

// settle returns an error if containerd wants the container deleted. Otherwise the caller must
// not remove the container any more, because from now on Delete does.
func (r *recorder) settle(s *setup) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.abandoned {
		return errDeleted
	}
	s.settled = true
	return nil
}

// abandon tells the set-ups of a container that containerd wants the container deleted, and waits
// until they have ended or ctx ends. The container's files are in use until then.
func (r *recorder) abandon(ctx context.Context, id string) error {
	r.mu.Lock()
	found := r.setupsLocked(id)
	for _, s := range found {
		s.abandoned = !s.settled
	}
	r.mu.Unlock()
	for _, s := range found {
		select {
		case <-s.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// end notes that a set-up has ended. givenUp says that containerd does not know the container any
// more. containerd asks a shim to end only once, and the shim ignores that while a set-up runs. So
// end asks again, if no other set-up runs, and if containerd has asked during a set-up or has given
// up this container. A shim that has containers does not end.
func (r *recorder) end(ctx context.Context, s *setup, givenUp bool) {
	r.mu.Lock()
	r.setups = slices.DeleteFunc(r.setups, func(other *setup) bool { return other == s })
	close(s.done)
	r.ending = r.ending || givenUp
	shut := r.ending && len(r.setups) == 0
	if shut {
		r.ending = false
	}
	r.mu.Unlock()
	if !shut {
		return
	}
	if _, err := r.TTRPCTaskService.Shutdown(ctx, &taskapi.ShutdownRequest{ID: s.id}); err != nil {
		log.G(ctx).WithField("id", s.id).WithError(err).Warn("shim does not end")
	}
}
