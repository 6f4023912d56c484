package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	swarmv1 "swarm/proto/swarm/v1"
)

const (
	// batchBytes and batchRecords limit one call of send.
	batchBytes   = 256 << 10
	batchRecords = 1000
)

// Read implements engine.LogStore. The data of a record has no newline at the end.
func (s *Store) Read(ctx context.Context, taskID string, opts *swarmv1.LogOptions, send func(*swarmv1.TaskLogsResponse) error) error {
	j, done, err := s.journal(taskID)
	if err != nil {
		return err
	}
	defer done()
	if opts == nil {
		opts = &swarmv1.LogOptions{Tail: -1}
	}
	buf := make([]byte, readSize)
	for range 64 { // Copy what the container has written until now. The limit is for a container that writes without pause.
		var more bool
		if more, err = j.copy(buf, false); !more || err != nil {
			break
		}
	}
	// If the disk is full, the reader shows the stored records and then returns an error: the
	// newest lines are missing.
	r := &reader{j: j, opts: opts, node: s.cfg.NodeID, send: send}
	return errors.Join(r.run(ctx), err)
}

// reader serves one call of Read.
type reader struct {
	j    *journal
	opts *swarmv1.LogOptions
	node string
	send func(*swarmv1.TaskLogsResponse) error

	number int   // of the segment that is read
	at     int64 // offset of the next record in it
	skip   int64 // how many matching lines are still to be left out, because of opts.tail
	done   bool  // a record later than opts.until was read
	// after is opts.after: by stream, the offset of the last record that the caller has. The reader
	// sends only later records.
	after map[swarmv1.LogRecord_Stream]uint64
	// passedAfter says that the reader has passed the record at one of these offsets. Only then
	// does it send records of a stream that is not in after: the caller's earlier call has left out
	// the records before them, because of its opts.tail.
	passedAfter bool

	batch []*swarmv1.LogRecord
	bytes int
}

// view is a consistent view of a growing journal.
type view struct {
	segments []segment
	changed  <-chan struct{}
	over     bool // no further record will follow
}

func (r *reader) look() view {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	return view{slices.Clone(r.j.segments), r.j.changed.Changed(), r.j.overLocked()}
}

func (r *reader) run(ctx context.Context) error {
	var until <-chan time.Time
	if r.opts.Follow && r.opts.Until != nil {
		timer := time.NewTimer(time.Until(r.opts.Until.AsTime()))
		defer timer.Stop()
		until = timer.C
	}
	if r.opts.Details && len(r.j.details) > 0 {
		if err := r.send(&swarmv1.TaskLogsResponse{Details: []*swarmv1.LogDetails{{TaskId: r.j.task.Id, Details: r.j.details}}}); err != nil {
			return err
		}
	}
	v := r.look()
	if err := r.seek(v); err != nil {
		return err
	}
	for {
		if err := r.read(ctx, v); err != nil {
			return err
		}
		if err := r.flush(); err != nil {
			return err
		}
		if !r.opts.Follow || v.over || r.done {
			return nil
		}
		select {
		case <-v.changed:
		case <-until:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		v = r.look()
	}
}

// seek moves to the beginning of the last opts.tail lines, or to a place before the records at
// opts.after.
func (r *reader) seek(v view) error {
	if len(r.opts.After) > 0 {
		return r.seekAfter(v)
	}
	if r.opts.Tail < 0 {
		return nil
	}
	last := len(v.segments) - 1
	if r.opts.Tail == 0 && last >= 0 { // Only later lines are sent.
		r.number, r.at = v.segments[last].number, v.segments[last].size
		return nil
	}
	want := r.opts.Tail
	for i, s := range slices.Backward(v.segments) {
		lines, open, err := r.count(s)
		if err != nil {
			return err
		}
		if i == last {
			lines += open
		}
		r.number, r.at = s.number, 0
		if lines >= want {
			r.skip = lines - want
			return nil
		}
		want -= lines
	}
	return nil
}

// seekAfter moves to the last segment that begins before the records at opts.after. If there is
// none, because these records were rotated away, the reader begins with the first segment.
func (r *reader) seekAfter(v view) error {
	r.after = map[swarmv1.LogRecord_Stream]uint64{}
	for _, place := range r.opts.After {
		r.after[place.Stream] = place.Offset
	}
	for _, s := range slices.Backward(v.segments) {
		offsets, err := r.header(s)
		if err != nil {
			return err
		}
		before := true
		for stream, place := range r.after {
			at := offsets[0]
			if stream == swarmv1.LogRecord_STDERR {
				at = offsets[1]
			}
			before = before && at <= place
		}
		if before {
			r.number = s.number
			return nil
		}
	}
	r.passedAfter = true
	return nil
}

func (r *reader) header(s segment) (offsets [2]uint64, err error) {
	f, err := os.Open(r.j.path(s.number))
	if errors.Is(err, fs.ErrNotExist) { // It was rotated away, so offset 0 is correct: all remaining records are later.
		return offsets, nil
	}
	if err != nil {
		return offsets, fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	if offsets, err = newDecoder(f).header(); err != nil {
		return offsets, fmt.Errorf("read log %s: %w", f.Name(), err)
	}
	return offsets, nil
}

// count returns how many whole lines of a segment match, and how many open lines: a stream has one
// if its last matching record is partial. The last segment's open lines count for opts.tail. In
// other segments they end in the next one, which counts them.
func (r *reader) count(s segment) (lines, open int64, err error) {
	var partial [2]int64
	err = r.scan(s.number, 0, s.size, func(rec record, _ int64) (bool, error) {
		if rec.flags&flagLost != 0 || !r.matches(rec) {
			return true, nil
		}
		if rec.flags&flagPartial != 0 {
			partial[rec.stream()] = 1
			return true, nil
		}
		partial[rec.stream()] = 0
		lines++
		return true, nil
	})
	return lines, partial[0] + partial[1], err
}

// read sends the records in the view that are after the reader's place.
func (r *reader) read(ctx context.Context, v view) error {
	for _, s := range v.segments {
		if s.number < r.number {
			continue
		}
		if s.number > r.number {
			r.number, r.at, r.passedAfter = s.number, 0, true
		}
		err := r.scan(s.number, r.at, s.size, func(rec record, next int64) (bool, error) {
			r.at = next
			if place, ok := r.after[streamOf(rec)]; ok && rec.offset >= place {
				r.passedAfter = true
			}
			if r.opts.Until != nil && stamp(rec.time).After(r.opts.Until.AsTime()) {
				r.done = true
				return false, nil
			}
			return true, r.add(ctx, rec)
		})
		if err != nil || r.done {
			return err
		}
	}
	return nil
}

// scan calls fn for the records of a segment from offset at to size, until fn returns false. A
// segment that was rotated away since the view was taken has none.
func (r *reader) scan(number int, at, size int64, fn func(rec record, next int64) (bool, error)) error {
	if at >= size {
		return nil
	}
	f, err := os.Open(r.j.path(number))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer f.Close()
	d := newDecoder(&buffered{r: io.NewSectionReader(f, at, size-at)})
	if at == 0 {
		if _, err := d.header(); err != nil {
			return fmt.Errorf("read log %s: %w", f.Name(), err)
		}
	}
	for {
		rec, err := d.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log %s: %w", f.Name(), err)
		}
		goOn, err := fn(rec, at+d.size)
		if err != nil || !goOn {
			return err
		}
	}
}

// matches reports whether the reader's options ask for a record.
func (r *reader) matches(rec record) bool {
	if len(r.opts.Streams) > 0 && !slices.Contains(r.opts.Streams, streamOf(rec)) {
		return false
	}
	place, hasPlace := r.after[streamOf(rec)]
	switch {
	case hasPlace && rec.offset <= place:
		return false
	case !hasPlace && len(r.after) > 0 && !r.passedAfter:
		return false
	}
	at := stamp(rec.time)
	return (r.opts.Since == nil || !at.Before(r.opts.Since.AsTime())) && (r.opts.Until == nil || !at.After(r.opts.Until.AsTime()))
}

func streamOf(rec record) swarmv1.LogRecord_Stream {
	if rec.flags&flagStderr != 0 {
		return swarmv1.LogRecord_STDERR
	}
	return swarmv1.LogRecord_STDOUT
}

// add adds a record to the batch if the reader's options ask for it.
func (r *reader) add(ctx context.Context, rec record) error {
	if !r.matches(rec) {
		return nil
	}
	partial, lost := rec.flags&flagPartial != 0, rec.flags&flagLost != 0
	if r.skip > 0 {
		if !partial && !lost {
			r.skip--
		}
		return nil
	}
	out := &swarmv1.LogRecord{
		Timestamp: timestamppb.New(stamp(rec.time)), Stream: streamOf(rec),
		TaskId: r.j.task.Id, NodeId: r.node, ServiceId: r.j.task.ServiceId, Slot: r.j.task.Slot,
		Offset: rec.offset, Partial: partial,
	}
	if lost {
		out.Lost = rec.lost()
	} else {
		out.Data = slices.Clone(rec.data)
	}
	r.batch = append(r.batch, out)
	r.bytes += len(rec.data) + recordLen
	if r.bytes < batchBytes && len(r.batch) < batchRecords {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return r.flush()
}

func (r *reader) flush() error {
	if len(r.batch) == 0 {
		return nil
	}
	batch := r.batch
	r.batch, r.bytes = nil, 0
	return r.send(&swarmv1.TaskLogsResponse{Records: batch})
}
