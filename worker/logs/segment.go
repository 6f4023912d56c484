package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"
)

// A segment is a header and records.
//
//	header  "swarmlog" | version 1 | 7 zero bytes | offset in stdout 8 | offset in stderr 8
//	record  length of data 4 | crc32c of what follows 4 | time, Unix ns 8 | offset 8 | flags 1 | data
//
// Numbers are big-endian. The header has the offsets of the sources at which the segment begins.
// They are needed for a stream whose last record is in a segment that was deleted.
const (
	segmentMagic = "swarmlog\x01\x00\x00\x00\x00\x00\x00\x00"
	headerLen    = len(segmentMagic) + 16
	recordLen    = 4 + 4 + 8 + 8 + 1
	// maxLine is the length of the longest record in bytes, as in Docker. Longer lines are cut into
	// partial ones.
	maxLine = 16 << 10
)

// Flags of a record.
const (
	flagStderr  = 1 << iota
	flagPartial // the line continues in the next record of the stream
	flagLost    // the store skipped bytes from offset on; data is their number
)

// record is one line, or a part of one, without its end of line.
type record struct {
	time   int64 // Unix ns
	offset uint64
	flags  byte
	data   []byte
}

// stream is the index of the source. That of stderr is 1, which is flagStderr.
func (r record) stream() int { return int(r.flags & flagStderr) }

// next returns the offset in the source after the record.
func (r record) next() uint64 {
	if r.flags&flagLost != 0 {
		return r.offset + r.lost()
	}
	n := r.offset + uint64(len(r.data))
	if r.flags&flagPartial == 0 {
		n++
	}
	return n
}

// lost returns how many bytes a record with flagLost stands for.
func (r record) lost() uint64 {
	if len(r.data) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(r.data)
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func appendRecord(b []byte, r record) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.data)))
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(r.time))
	b = binary.BigEndian.AppendUint64(b, r.offset)
	b = append(b, r.flags)
	b = append(b, r.data...)
	binary.BigEndian.PutUint32(b[start+4:], crc32.Checksum(b[start+8:], castagnoli()))
	return b
}

func appendHeader(b []byte, offsets [2]uint64) []byte {
	b = append(b, segmentMagic...)
	b = binary.BigEndian.AppendUint64(b, offsets[0])
	return binary.BigEndian.AppendUint64(b, offsets[1])
}

// errTorn means that a record is not whole. A crash leaves one at the end of a segment.
var errTorn = errors.New("torn record")

// decoder reads records. The data of a record is valid until the next call.
type decoder struct {
	r    io.Reader
	buf  []byte
	size int64 // bytes of whole records read, header included
}

func newDecoder(r io.Reader) *decoder { return &decoder{r: r, buf: make([]byte, recordLen+maxLine)} }

func (d *decoder) header() (offsets [2]uint64, err error) {
	h := d.buf[:headerLen]
	if _, err := io.ReadFull(d.r, h); err != nil {
		return offsets, torn(err)
	}
	if string(h[:len(segmentMagic)]) != segmentMagic {
		return offsets, errTorn
	}
	d.size = int64(headerLen)
	return [2]uint64{binary.BigEndian.Uint64(h[len(segmentMagic):]), binary.BigEndian.Uint64(h[len(segmentMagic)+8:])}, nil
}

// next returns the next record. It returns io.EOF after the last record, and errTorn if the next
// record is not whole.
func (d *decoder) next() (record, error) {
	head := d.buf[:recordLen]
	if n, err := io.ReadFull(d.r, head); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return record{}, io.EOF
		}
		return record{}, torn(err)
	}
	n := binary.BigEndian.Uint32(head)
	if n > maxLine {
		return record{}, errTorn
	}
	body := d.buf[recordLen : recordLen+int(n)]
	if _, err := io.ReadFull(d.r, body); err != nil {
		return record{}, torn(err)
	}
	if crc32.Checksum(d.buf[8:recordLen+int(n)], castagnoli()) != binary.BigEndian.Uint32(head[4:]) {
		return record{}, errTorn
	}
	d.size += int64(recordLen) + int64(n)
	return record{
		time:   int64(binary.BigEndian.Uint64(head[8:])),
		offset: binary.BigEndian.Uint64(head[16:]),
		flags:  head[24],
		data:   body,
	}, nil
}

func torn(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTorn
	}
	return err
}

// recoverSegment truncates a segment to its whole records. It returns its size, and the offsets of
// the sources after the last record.
func recoverSegment(path string) (size int64, offsets [2]uint64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, offsets, err
	}
	defer f.Close()
	d := newDecoder(&buffered{r: f})
	offsets, err = d.header()
	for err == nil {
		var r record
		if r, err = d.next(); err == nil {
			offsets[r.stream()] = max(offsets[r.stream()], r.next())
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return d.size, offsets, nil
	case errors.Is(err, errTorn):
		return d.size, offsets, f.Truncate(d.size)
	default:
		return 0, offsets, fmt.Errorf("read %s: %w", path, err)
	}
}

// buffered reads in large steps to save system calls. Unlike bufio it returns what a growing file
// has and does not wait for more.
type buffered struct {
	r    io.Reader
	buf  [64 << 10]byte
	rest []byte
}

func (b *buffered) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		n, err := b.r.Read(b.buf[:])
		if n == 0 {
			return 0, err
		}
		b.rest = b.buf[:n]
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func stamp(ns int64) time.Time { return time.Unix(0, ns) }
