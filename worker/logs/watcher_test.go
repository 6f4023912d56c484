package logs

import (
	"fmt"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"swarm/internal/eventually"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// A container has taken all inotify instances of root. The store opens and copies output
// nevertheless, and watches once an instance is free.
func TestStore_PollsWithoutInotify(t *testing.T) {
	var free atomic.Bool
	s := open(t, Config{inotify: func() (int, error) {
		if !free.Load() {
			return 0, unix.EMFILE
		}
		return newInotify()
	}})
	run(t, s)
	dir := create(t, s, "t1")
	j := s.get("t1")
	copied := func(want int64) {
		t.Helper()
		eventually.Nil(t, fmt.Sprintf("%d bytes or more are copied", want), func() error {
			if got := j.bytes(); got < want {
				return fmt.Errorf("%d bytes", got)
			}
			return nil
		})
	}
	write(t, dir, engine.StdoutFile, "one\n")
	copied(1)
	before := j.bytes()
	free.Store(true)
	eventually.Nil(t, "the output is watched", func() error {
		s.watch.mu.Lock()
		defer s.watch.mu.Unlock()
		if n := len(s.watch.polled); n > 0 {
			return fmt.Errorf("%d files are polled", n)
		}
		return nil
	})
	write(t, dir, engine.StdoutFile, "two\n")
	copied(before + 1)
	if got := lines(records(t, s, "t1", &swarmv1.LogOptions{Tail: -1})); len(got) != 2 {
		t.Errorf("lines: %q, want two", got)
	}
}
