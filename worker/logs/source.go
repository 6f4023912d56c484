package logs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// readSize is how many bytes of a source are copied at a time.
	readSize = 256 << 10
	// punchSize is how many bytes must have been copied before their space is given back to the
	// disk.
	punchSize = 1 << 20
	blockSize = 4 << 10
)

// source is one of the two files to which a container's output goes.
type source struct {
	f       *os.File
	stream  byte   // the flag of its records: flagStderr or 0
	offset  uint64 // bytes before it are in records
	punched uint64 // the space of bytes before it was given back to the disk
}

func openSource(path string, stream byte, offset uint64) (*source, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// An earlier process may have punched less than this. Then those bytes keep their space.
	return &source{f: f, stream: stream, offset: offset, punched: offset / blockSize * blockSize}, nil
}

// lines cuts the next bytes of the source into records. It leaves the beginning of a line for
// later, unless the line is too long or the source has ended. It returns more if there may be more
// to read now.
func (s *source) lines(buf []byte, now int64, end bool, emit func(record)) (more bool, err error) {
	n, err := s.f.ReadAt(buf, int64(s.offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read output: %w", err)
	}
	more = n == len(buf)
	b := buf[:n]
	for len(b) > 0 {
		r := record{time: now, offset: s.offset, flags: s.stream}
		switch i := bytes.IndexByte(b[:min(len(b), maxLine+1)], '\n'); {
		case i >= 0:
			r.data, b = b[:i], b[i+1:]
		case len(b) > maxLine:
			r.data, b = b[:maxLine], b[maxLine:]
			r.flags |= flagPartial
		case end && !more:
			r.data, b = b, nil
			r.flags |= flagPartial
		default:
			return more, nil
		}
		emit(r)
		s.offset = r.next()
	}
	return more, nil
}

// skip limits the bytes that are not copied yet. If there are more than limit, it skips the oldest
// bytes, up to the end of a line. So a container that writes faster than its output is copied takes
// a bounded part of the disk. Nothing more is lost than without the skip: rotation would delete the
// skipped lines as soon as the lines after them were copied.
//
// lost is a record with flagLost if bytes were skipped, else it is zero. left is how many bytes
// were not copied yet, including the skipped ones.
func (s *source) skip(limit int64, now int64, buf []byte) (lost record, left int64, err error) {
	info, err := s.f.Stat()
	if err != nil {
		return record{}, 0, err
	}
	left = info.Size() - int64(s.offset)
	if left <= limit {
		return record{}, left, nil
	}
	to := info.Size() - limit
	n, err := s.f.ReadAt(buf[:maxLine], to)
	if err != nil && !errors.Is(err, io.EOF) {
		return record{}, left, fmt.Errorf("read output: %w", err)
	}
	to += int64(bytes.IndexByte(buf[:n], '\n') + 1)
	r := record{
		time: now, offset: s.offset, flags: s.stream | flagLost,
		data: binary.BigEndian.AppendUint64(nil, uint64(to)-s.offset),
	}
	s.offset = uint64(to)
	return r, left, nil
}

// punch gives the space of bytes that are in records back to the disk.
func (s *source) punch() error {
	to := s.offset / blockSize * blockSize
	if to < s.punched+punchSize {
		return nil
	}
	err := unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(s.punched), int64(to-s.punched))
	if errors.Is(err, unix.EOPNOTSUPP) { // The file system has no holes, so the source keeps its space until it is removed.
		err = nil
	}
	if err != nil {
		return fmt.Errorf("give back copied output: %w", err)
	}
	s.punched = to
	return nil
}
