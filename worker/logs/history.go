package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"swarm/internal/pause"
	"swarm/worker/engine"
)

// retiree is the log of a retired task: a task that the node does not have any more. Once the log
// is finished, it has no journal in memory, because a node may have had many tasks.
type retiree struct {
	id    string
	at    time.Time // when the task was retired
	bytes int64     // on the disk
}

// readRetiree reads a task's folder; false: the task is not retired.
func readRetiree(dir string) (r retiree, ok bool) {
	info, err := os.Stat(filepath.Join(dir, retiredFile))
	if err != nil {
		return r, false
	}
	return retiree{filepath.Base(dir), info.ModTime(), usage(dir)}, true
}

// folderBytes is how many bytes a folder itself takes.
const folderBytes = 4096

// usage returns how many bytes a task's folder takes on the disk.
func usage(dir string) (bytes int64) {
	entries, _ := os.ReadDir(dir) // A folder that is gone takes nothing.
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				bytes += st.Blocks * 512
			}
		}
	}
	return bytes + folderBytes
}

// finished reports whether the log in a folder is finished: the sources are removed.
func finished(dir string) bool {
	for _, name := range []string{engine.StdoutFile, engine.StderrFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// Retire implements engine.LogStore. It removes the log at once if the log has no record.
func (s *Store) Retire(taskID string) {
	j := s.get(taskID)
	if j == nil {
		return
	}
	s.Finish(taskID)
	if j.bytes() == 0 && finished(j.dir) {
		s.remove(taskID)
		return
	}
	if err := os.WriteFile(filepath.Join(j.dir, retiredFile), nil, 0o600); err != nil {
		s.log.Warn("retire log", "task", taskID, "err", err)
	}
	now := time.Now()
	s.mu.Lock()
	if !s.isRetiredLocked(taskID) {
		s.retired = append(s.retired, retiree{taskID, now, usage(j.dir)})
	}
	s.mu.Unlock()
	s.release(j)
	s.prune(now)
}

func (s *Store) isRetiredLocked(id string) bool {
	return slices.ContainsFunc(s.retired, func(r retiree) bool { return r.id == id })
}

// release closes a journal that is retired and finished, and removes it from the memory but not
// from the disk.
func (s *Store) release(j *journal) {
	j.mu.Lock()
	done := j.overLocked()
	j.mu.Unlock()
	s.mu.Lock()
	done = done && s.journals[j.task.Id] == j && s.isRetiredLocked(j.task.Id)
	if done {
		delete(s.journals, j.task.Id)
	}
	s.mu.Unlock()
	if done {
		j.close()
	}
}

// journal returns the journal of a task, and opens it if the task is retired. The caller calls done
// when it has read the journal.
func (s *Store) journal(id string) (j *journal, done func(), err error) {
	s.mu.Lock()
	j, retired := s.journals[id], s.isRetiredLocked(id)
	s.mu.Unlock()
	switch {
	case j != nil:
		return j, func() {}, nil
	case !retired:
		return nil, nil, fmt.Errorf("logs of task %s: this node has none: %w", id, errdefs.ErrNotFound)
	}
	if j, err = openJournal(filepath.Join(s.cfg.Dir, id), s.cfg.SegmentBytes, s.cfg.Segments); err != nil {
		return nil, nil, err
	}
	return j, j.close, nil
}

// Keep implements engine.LogStore.
func (s *Store) Keep(taskIDs []string) {
	keep := map[string]bool{}
	for _, id := range taskIDs {
		keep[id] = true
	}
	var gone []string
	s.mu.Lock()
	for _, r := range s.retired {
		keep[r.id] = true // It is retired already.
	}
	for id := range s.journals {
		if !keep[id] {
			gone = append(gone, id)
		}
	}
	s.mu.Unlock()
	for _, id := range gone {
		s.Retire(id)
	}
	s.prune(time.Now())
}

// pruneInterval is the time between two looks for logs that are too old.
const pruneInterval = time.Hour

// runPrune removes logs that have become too old, until ctx ends.
func (s *Store) runPrune(ctx context.Context) error {
	for {
		s.prune(time.Now())
		if pause.For(ctx, pruneInterval) != nil {
			return nil
		}
	}
}

// prune removes retired logs, the oldest first, that are older than RetainAge or exceed
// RetainBytes.
func (s *Store) prune(now time.Time) {
	s.mu.Lock()
	var total int64
	for _, r := range s.retired {
		total += r.bytes
	}
	var gone []string
	for _, r := range s.retired {
		if total <= s.cfg.RetainBytes && now.Sub(r.at) <= s.cfg.RetainAge {
			break
		}
		total -= r.bytes
		gone = append(gone, r.id)
	}
	s.mu.Unlock()
	for _, id := range gone {
		s.remove(id)
	}
}
