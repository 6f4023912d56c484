package logstore

import (
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// StallingStable is a raft.StableStore that blocks when a new term cannot be saved. Raft would
// panic if it got an error. The member must not answer any other member before the term is saved,
// and it cannot: the goroutine of Raft that answers is the one that is blocked. The member
// continues when the disk accepts writes again.
type StallingStable struct {
	raft.StableStore
	log    *slog.Logger
	closed <-chan struct{}

	writeErr atomic.Pointer[error] // the last failure while a call is blocked, or nil
}

// NewStallingStable returns a StallingStable that writes to stable. Each failure is logged to log.
// When closed is closed, a blocked call ends its goroutine and never returns. An error would make
// Raft panic, and nil would make Raft answer.
func NewStallingStable(stable raft.StableStore, log *slog.Logger, closed <-chan struct{}) *StallingStable {
	return &StallingStable{StableStore: stable, log: log, closed: closed}
}

// WriteErr returns why the store blocks at the moment, or nil if it does not block.
func (s *StallingStable) WriteErr() error {
	if err := s.writeErr.Load(); err != nil {
		return *err
	}
	return nil
}

// SetUint64 implements raft.StableStore. It returns nil once the value is stored.
func (s *StallingStable) SetUint64(key []byte, v uint64) error {
	err := s.StableStore.SetUint64(key, v)
	defer s.writeErr.Store(nil)
	for wait := 50 * time.Millisecond; err != nil; wait = min(2*wait, 5*time.Second) {
		cause := err
		s.writeErr.Store(&cause)
		s.log.Error("cannot save the Raft term: this manager does not answer until its disk accepts writes; free or repair the disk", "err", err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			err = s.StableStore.SetUint64(key, v)
		case <-s.closed:
			timer.Stop()
			runtime.Goexit() // see NewStallingStable
		}
	}
	return nil
}
