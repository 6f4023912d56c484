//go:build linux

package probe

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// slots limits how many probes run at the same time, in total and for each caller. It is safe for
// concurrent use.
type slots struct {
	all chan struct{} // one element for each slot in use
	// each is how many slots one caller has.
	each int

	mu      sync.Mutex // guards callers
	callers map[string]*callerSlots
}

// callerSlots are the slots of one caller. They are removed when nobody uses them or waits for
// them.
type callerSlots struct {
	slots chan struct{}
	users int
}

func newSlots(all, each int) *slots {
	return &slots{all: make(chan struct{}, all), each: each, callers: map[string]*callerSlots{}}
}

// take waits for a slot of the caller and a slot of the total. It returns ErrUnavailable if it has
// not got both after the time wait.
func (s *slots) take(ctx context.Context, caller string, wait time.Duration) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	own := s.use(caller)
	for i, slot := range []chan struct{}{own.slots, s.all} {
		select {
		case slot <- struct{}{}:
		case <-ctx.Done():
			if i == 1 {
				<-own.slots
			}
			s.leave(caller, own)
			return nil, errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("this node is busy with other network tests, and none ended within %s: try again", wait))
		}
	}
	return sync.OnceFunc(func() {
		<-s.all
		<-own.slots
		s.leave(caller, own)
	}), nil
}

// use returns the slots of a caller. The caller of use must call leave.
func (s *slots) use(caller string) *callerSlots {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.callers[caller]
	if c == nil {
		c = &callerSlots{slots: make(chan struct{}, s.each)}
		s.callers[caller] = c
	}
	c.users++
	return c
}

// leave undoes use.
func (s *slots) leave(caller string, c *callerSlots) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.users--; c.users == 0 {
		delete(s.callers, caller)
	}
}
