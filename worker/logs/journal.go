package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"swarm/internal/broadcast"
	"swarm/internal/spec"
	swarmv1 "swarm/proto/swarm/v1"
	"swarm/worker/engine"
)

// The names of files in a task's folder, beside the sources.
const (
	taskFile      = "task" // the Task, for its service, slot and log driver
	retiredFile   = "retired"
	detailsFile   = "details"
	segmentPrefix = "segment."
)

// journal is the log of one task: its segments and, until it is finished, its sources. It is
// finished once the container is removed, all its output is in records, and the sources are
// removed.
type journal struct {
	dir     string
	task    *swarmv1.Task
	details map[string]string
	max     int64 // bytes of a segment
	keep    int   // segments
	failing bool  // the last copy failed and the error was logged; only Store.copy uses it

	mu       sync.Mutex // guards what follows; held while copying, never while waiting
	sources  [2]*source // stdout and stderr; nil once the journal is finished, and after close
	segments []segment  // oldest first; the last one grows
	out      *os.File   // of the last segment
	changed  broadcast.Signal
	batch    []byte // scratch
}

// segment is a file of records.
type segment struct {
	number int
	size   int64 // bytes of whole records
}

func (j *journal) path(number int) string {
	return filepath.Join(j.dir, segmentPrefix+strconv.Itoa(number))
}

// openJournal opens a task's folder. The journal continues after the last whole record.
func openJournal(dir string, max int64, keep int) (*journal, error) {
	j := &journal{dir: dir, task: &swarmv1.Task{}, max: max, keep: keep}
	raw, err := os.ReadFile(filepath.Join(dir, taskFile))
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if err := j.task.UnmarshalVT(raw); err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	if err := j.configure(); err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	offsets, err := j.openSegments()
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", dir, err)
	}
	for i, stream := range []struct {
		name string
		flag byte
	}{{engine.StdoutFile, 0}, {engine.StderrFile, flagStderr}} {
		path := filepath.Join(dir, stream.name)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue // finished
		}
		s, err := openSource(path, stream.flag, offsets[i])
		if err != nil {
			j.close()
			return nil, fmt.Errorf("open log %s: %w", dir, err)
		}
		j.sources[i] = s
	}
	return j, nil
}

// configure applies the task's log options, if it has any.
func (j *journal) configure() error {
	if j.task.LogDriver != nil {
		l, err := spec.ParseLog(j.task.LogDriver)
		if err != nil {
			return err
		}
		if _, ok := j.task.LogDriver.Options["max-size"]; ok {
			j.max = l.Size
		}
		if _, ok := j.task.LogDriver.Options["max-file"]; ok {
			j.keep = l.Files
		}
	}
	raw, err := os.ReadFile(filepath.Join(j.dir, detailsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var d swarmv1.LogDetails
	if err := d.UnmarshalVT(raw); err != nil {
		return err
	}
	j.details = d.Details
	return nil
}

// openSegments finds the segments, removes a torn record at the end, and returns the offsets of the
// sources.
func (j *journal) openSegments() (offsets [2]uint64, err error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return offsets, err
	}
	for _, e := range entries {
		if n, ok := strings.CutPrefix(e.Name(), segmentPrefix); ok {
			number, err := strconv.Atoi(n)
			if err != nil {
				continue
			}
			info, err := e.Info()
			if err != nil {
				return offsets, err
			}
			j.segments = append(j.segments, segment{number, info.Size()})
		}
	}
	slices.SortFunc(j.segments, func(a, b segment) int { return a.number - b.number })
	for len(j.segments) > 0 {
		last := &j.segments[len(j.segments)-1]
		last.size, offsets, err = recoverSegment(j.path(last.number))
		if err != nil {
			return offsets, err
		}
		if last.size > 0 {
			j.out, err = os.OpenFile(j.path(last.number), os.O_WRONLY|os.O_APPEND, 0)
			return offsets, err
		}
		// An earlier process was killed before the header was whole. The segment before has the
		// offsets.
		if err := os.Remove(j.path(last.number)); err != nil {
			return offsets, err
		}
		j.segments = j.segments[:len(j.segments)-1]
	}
	return offsets, nil
}

// copy writes the new output in the sources to records. end says that the container writes no more.
// One call copies a limited part, so that other tasks need not wait for a task that writes without
// pause. more says that the caller must call copy again.
func (j *journal) copy(buf []byte, end bool) (more bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.copyLocked(buf, end)
}

func (j *journal) copyLocked(buf []byte, end bool) (more bool, err error) {
	for i, s := range j.sources {
		if s == nil {
			continue
		}
		before, now := s.offset, time.Now().UnixNano()
		j.batch = j.batch[:0]
		lost, left, err := s.skip(j.max*int64(j.keep), now, buf)
		if left <= 0 && err == nil {
			continue // The stream has no new output. Usually one of the two has none.
		}
		if lost.flags != 0 {
			j.batch = appendRecord(j.batch, lost)
		}
		var moreHere bool
		if err == nil {
			moreHere, err = s.lines(buf, now, end, func(r record) { j.batch = appendRecord(j.batch, r) })
		}
		if err == nil && len(j.batch) > 0 {
			err = j.writeLocked(i, before)
		}
		if err != nil {
			s.offset = before
			return false, fmt.Errorf("copy output of task %s: %w", j.task.Id, err)
		}
		more = more || moreHere
		if err := s.punch(); err != nil {
			return more, err
		}
	}
	return more, nil
}

// writeLocked appends the batch of records of the source with the given index. before is the offset
// in the source at which the batch begins.
func (j *journal) writeLocked(source int, before uint64) error {
	if j.out == nil || j.segments[len(j.segments)-1].size >= j.max {
		var offsets [2]uint64
		for i, s := range j.sources {
			if s != nil {
				offsets[i] = s.offset
			}
		}
		offsets[source] = before // the batch is the first content of the new segment
		if err := j.rotateLocked(offsets); err != nil {
			return err
		}
	}
	last := &j.segments[len(j.segments)-1]
	if n, err := j.out.Write(j.batch); err != nil {
		if n > 0 { // The disk is full. Remove the part that was written, because no record may follow a torn one.
			err = errors.Join(err, j.out.Truncate(last.size))
		}
		return err
	}
	last.size += int64(len(j.batch))
	j.changed.Broadcast()
	return nil
}

// rotateLocked begins a new segment at these offsets of the sources, and removes the oldest segment
// if there are too many.
func (j *journal) rotateLocked(offsets [2]uint64) error {
	number := 1
	if len(j.segments) > 0 {
		number = j.segments[len(j.segments)-1].number + 1
	}
	f, err := os.OpenFile(j.path(number), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(appendHeader(nil, offsets)); err != nil {
		return errors.Join(err, f.Close(), os.Remove(j.path(number)))
	}
	if j.out != nil {
		_ = j.out.Close() // every write was checked
	}
	j.out = f
	j.segments = append(j.segments, segment{number, int64(headerLen)})
	for len(j.segments) > j.keep {
		if err := os.Remove(j.path(j.segments[0].number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		j.segments = j.segments[1:]
	}
	return nil
}

// finish copies the rest of the output, and removes the sources.
func (j *journal) finish() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.overLocked() {
		return nil
	}
	buf := make([]byte, readSize)
	for {
		more, err := j.copyLocked(buf, true)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	var err error
	for i, s := range j.sources {
		if s != nil {
			err = errors.Join(err, os.Remove(s.f.Name()), s.f.Close())
			j.sources[i] = nil
		}
	}
	if j.out != nil {
		err = errors.Join(err, j.out.Close())
		j.out = nil
	}
	j.changed.Broadcast() // followers see the end
	return err
}

// overLocked reports whether no further record will follow: the journal is finished or closed.
func (j *journal) overLocked() bool { return j.sources[0] == nil && j.sources[1] == nil }

// close closes the files, and keeps the sources even if the journal is not finished.
func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, s := range j.sources {
		if s != nil {
			_ = s.f.Close()
			j.sources[i] = nil
		}
	}
	if j.out != nil {
		_ = j.out.Close()
		j.out = nil
	}
	j.changed.Broadcast()
}

// bytes returns how many bytes the journal takes on the disk, without its sources.
func (j *journal) bytes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	var n int64
	for _, s := range j.segments {
		n += s.size
	}
	return n
}
