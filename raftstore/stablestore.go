package raftstore

import (
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// patientStable waits where Raft would panic: when a new term cannot be saved. Until it is saved the member must not
// answer anybody, and it does not: the goroutine that would answer waits here. When the disk is well again, the member
// goes on by itself.
type stallingStableStore struct {
	raft.StableStore
	log    *slog.Logger
	closed <-chan struct{}

	writeErr atomic.Pointer[error] // why it waits; nil when it does not
}

func (p *stallingStableStore) SetUint64(key []byte, v uint64) error {
	err := p.StableStore.SetUint64(key, v)
	defer p.writeErr.Store(nil)
	for wait := 50 * time.Millisecond; err != nil; wait = min(2*wait, 5*time.Second) {
		cause := err
		p.writeErr.Store(&cause)
		p.log.Error("this member is silent until its disk takes writes again", "err", err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			err = p.StableStore.SetUint64(key, v)
		case <-p.closed:
			timer.Stop()
			runtime.Goexit() // with an error, Raft would panic; without one, it would answer
		}
	}
	return nil
}
