package broadcast

import (
	"sync"
	"testing"
	"testing/synctest"
)

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestSignal(t *testing.T) {
	var s Signal
	s.Broadcast() // nobody waits
	first, same := s.Changed(), s.Changed()
	if first != same {
		t.Error("two waiters for the same change have different channels")
	}
	if isClosed(first) {
		t.Error("a broadcast before the call of Changed closes the channel")
	}
	s.Broadcast()
	second := s.Changed()
	if !isClosed(first) || isClosed(second) {
		t.Errorf("after one broadcast: first closed %t, second closed %t, want only the first", isClosed(first), isClosed(second))
	}
}

// Every waiter sees the last change, however many changes and waiters there are.
func TestSignal_NoChangeIsMissed(t *testing.T) {
	const waiters, last = 20, 100
	synctest.Test(t, func(t *testing.T) {
		var (
			s     Signal
			mu    sync.Mutex // guards value
			value int
			done  sync.WaitGroup
		)
		read := func() int {
			mu.Lock()
			defer mu.Unlock()
			return value
		}
		for range waiters {
			done.Go(func() {
				for {
					changed := s.Changed()
					if read() == last {
						return
					}
					<-changed
				}
			})
		}
		for range last {
			mu.Lock()
			value++
			mu.Unlock()
			s.Broadcast()
		}
		done.Wait() // a missed change is a deadlock, which the bubble reports
	})
}
