package logstore

import (
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// StallingStable is a raft.StableStore that blocks where Raft would panic: when a new term cannot
// be saved. The member must not answer anybody before the term is saved, and it cannot, because the
// goroutine that would answer is blocked here. The member continues when the disk accepts writes
// again.
type StallingStable struct {
	raft.StableStore
	log    *slog.Logger
	closed <-chan struct{}

	writeErr atomic.Pointer[error] // the last failure while it waits; else nil
}

// NewStallingStable returns a StallingStable over stable. Each failure is logged to log. When
// closed is closed, a blocked call ends the goroutine that it runs on, because an error would make
// Raft panic and success would make it answer.
func NewStallingStable(stable raft.StableStore, log *slog.Logger, closed <-chan struct{}) *StallingStable {
	return &StallingStable{StableStore: stable, log: log, closed: closed}
}

// WriteErr returns why the store blocks at the moment, or nil if it does not block.
func (p *StallingStable) WriteErr() error {
	if err := p.writeErr.Load(); err != nil {
		return *err
	}
	return nil
}

// SetUint64 implements raft.StableStore. It returns nil once the value is stored.
func (p *StallingStable) SetUint64(key []byte, v uint64) error {
	err := p.StableStore.SetUint64(key, v)
	defer p.writeErr.Store(nil)
	for wait := 50 * time.Millisecond; err != nil; wait = min(2*wait, 5*time.Second) {
		cause := err
		p.writeErr.Store(&cause)
		p.log.Error("cannot save the Raft term: this manager does not answer until its disk accepts writes; free or repair the disk", "err", err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			err = p.StableStore.SetUint64(key, v)
		case <-p.closed:
			timer.Stop()
			runtime.Goexit() // see NewStallingStable
		}
	}
	return nil
}
