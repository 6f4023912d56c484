//go:build linux

package probe

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// slots bounds how many probes run at once: in all, and for one caller. It is safe for concurrent use.
type slots struct {
	all chan struct{}
	// each is how many one caller has.
	each int

	mu      sync.Mutex // guards callers
	callers map[string]*callerSlots
}

// callerSlots are those of one caller, kept while somebody uses them.
type callerSlots struct {
	slots chan struct{}
	users int
}

func newSlots(all, each int) *slots {
	return &slots{all: make(chan struct{}, all), each: each, callers: map[string]*callerSlots{}}
}

// take waits for a slot. After the time it fails with errdefs.ErrUnavailable.
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
			return nil, errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("this node tries the ways to other hosts already: no turn within %s", wait))
		}
	}
	return sync.OnceFunc(func() {
		<-s.all
		<-own.slots
		s.leave(caller, own)
	}), nil
}

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

func (s *slots) leave(caller string, c *callerSlots) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.users--; c.users == 0 {
		delete(s.callers, caller)
	}
}
