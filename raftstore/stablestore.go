package raftstore

import (
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// stallingStableStore blocks where Raft would panic: when a new term cannot be saved. The member
// must not answer anybody before the term is saved, and it cannot, because the goroutine that would
// answer is blocked here. The member continues when the disk accepts writes again.
type stallingStableStore struct {
	raft.StableStore
	log    *slog.Logger
	closed <-chan struct{}

	writeErr atomic.Pointer[error] // the last failure while it waits; else nil
}

func (p *stallingStableStore) SetUint64(key []byte, v uint64) error {
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
			runtime.Goexit() // an error would make Raft panic; nil would make it answer
		}
	}
	return nil
}
