// Package broadcast tells any number of goroutines that some state has changed. The state itself
// stays with its owner: a signal carries no value. The package has no goroutines and never blocks.
package broadcast

import "sync"

// Signal announces changes to every goroutine that waits for one. Its zero value is ready for use.
// A Signal is safe for concurrent use, and must not be copied after its first use.
//
// A waiter calls Changed first and reads the state second. A change between the two closes the
// channel, so no change is missed:
//
//	for {
//		changed := signal.Changed()
//		if ready() {
//			return nil
//		}
//		select {
//		case <-changed:
//		case <-ctx.Done():
//			return ctx.Err()
//		}
//	}
type Signal struct {
	mu      sync.Mutex    // guards changed
	changed chan struct{} // nil until the first call of Changed after a Broadcast
}

// Changed returns a channel that the next call of Broadcast closes.
func (s *Signal) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// Broadcast wakes every goroutine that holds a channel from Changed. The caller changes the state
// before the call.
func (s *Signal) Broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}
