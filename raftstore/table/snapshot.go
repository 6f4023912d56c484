package table

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	swarmv1 "swarm/proto/swarm/v1"
)

// A snapshot consists of snapshotMagic, a SnapshotHeader, and SnapshotChunks of about chunkBytes. A
// uvarint length precedes each message. Rows are ordered by table and key, so a restore only
// appends. The last chunk has a SnapshotEnd, which contains the number of rows.
const (
	snapshotMagic = "swarm snapshot 1\n"
	chunkBytes    = 256 << 10
	maxChunk      = 64 << 20 // read limit; a chunk with a large row exceeds chunkBytes
)

// Snapshot is a state that can be written to a file.
type Snapshot struct {
	View     *View
	sessions []*swarmv1.Session
}

// Snapshot returns a snapshot of the state. It copies no rows, because a view is immutable.
func (s *State) Snapshot() Snapshot { return Snapshot{View: s.View(), sessions: s.requests.save()} }

// Write writes the snapshot to w. A caller may make a Snapshot from a View alone. Such a snapshot
// has no request sessions, so a state that is read from it does not know which requests were
// already applied.
func (s Snapshot) Write(w io.Writer) error {
	out := &chunkWriter{w: bufio.NewWriterSize(w, chunkBytes)}
	_, out.err = out.w.WriteString(snapshotMagic)
	out.message(&swarmv1.SnapshotHeader{Format: s.View.Format(), Epoch: s.View.cluster.GetEpoch(), Index: s.View.index})
	s.View.rows(out.row)
	out.chunk.Sessions = s.sessions
	out.chunk.End = &swarmv1.SnapshotEnd{Objects: out.rows}
	out.flush()
	if out.err != nil {
		return out.err
	}
	return out.w.Flush()
}

type chunkWriter struct {
	w     *bufio.Writer
	buf   []byte
	chunk swarmv1.SnapshotChunk
	size  int
	rows  uint64
	err   error
}

func (c *chunkWriter) row(r Row) bool {
	_, o := wrap(r)
	c.chunk.Objects = append(c.chunk.Objects, o)
	c.rows++
	if c.size += o.SizeVT(); c.size >= chunkBytes {
		c.flush()
	}
	return c.err == nil
}

func (c *chunkWriter) flush() {
	c.message(&c.chunk)
	clear(c.chunk.Objects)
	c.chunk.Objects, c.size = c.chunk.Objects[:0], 0
}

func (c *chunkWriter) message(m interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
},
) {
	if c.err != nil {
		return
	}
	n := m.SizeVT()
	if cap(c.buf) < n+binary.MaxVarintLen64 {
		c.buf = make([]byte, n+n/4+binary.MaxVarintLen64)
	}
	head := binary.PutUvarint(c.buf[:binary.MaxVarintLen64], uint64(n))
	if _, c.err = c.w.Write(c.buf[:head]); c.err != nil {
		return
	}
	if _, c.err = m.MarshalToSizedBufferVT(c.buf[:n]); c.err != nil {
		return
	}
	_, c.err = c.w.Write(c.buf[:n])
}

func each[T Row](t Rows[T], yield func(Row) bool) bool {
	for r := range t.All() {
		if !yield(r) {
			return false
		}
	}
	return true
}

// ReadSnapshot builds a state from a snapshot that Snapshot.Write has written. The input is not
// trusted, because it may be a user's file. It returns ErrUnknownFormat if a newer build has
// written the snapshot.
func ReadSnapshot(r io.Reader) (*State, error) {
	in := &chunkReader{r: bufio.NewReaderSize(r, chunkBytes)}
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(in.r, magic); err != nil || string(magic) != snapshotMagic {
		return nil, errors.New("the file is not a snapshot")
	}
	header := &swarmv1.SnapshotHeader{}
	if err := in.message(header); err != nil {
		return nil, err
	}
	if header.GetFormat() > Format {
		return nil, fmt.Errorf("format %d: %w", header.GetFormat(), ErrUnknownFormat)
	}
	st := NewState()
	st.index = header.GetIndex()
	if err := in.load(st); err != nil {
		return nil, err
	}
	for _, t := range st.tables.byID {
		if t == nil {
			continue
		}
		if err := t.index(); err != nil {
			return nil, err
		}
	}
	return st, nil
}

type chunkReader struct {
	r   *bufio.Reader
	buf []byte
}

func (c *chunkReader) message(m interface{ UnmarshalVT([]byte) error }) error {
	n, err := binary.ReadUvarint(c.r)
	if err != nil {
		return fmt.Errorf("cut short: %w", err)
	}
	if n > maxChunk {
		return fmt.Errorf("a chunk of %d bytes is too large", n)
	}
	if uint64(cap(c.buf)) < n {
		// The buffer grows with the data that is read, so that a damaged length cannot make this
		// process allocate gigabytes.
		c.buf = make([]byte, 0, min(n, 4*chunkBytes))
	}
	c.buf = c.buf[:0]
	for uint64(len(c.buf)) < n {
		step := min(n-uint64(len(c.buf)), 4*chunkBytes)
		have := len(c.buf)
		c.buf = append(c.buf, make([]byte, step)...)
		if _, err := io.ReadFull(c.r, c.buf[have:]); err != nil {
			return fmt.Errorf("cut short: %w", err)
		}
	}
	if err := m.UnmarshalVT(c.buf); err != nil {
		return fmt.Errorf("damaged: %w", err)
	}
	return nil
}

func (c *chunkReader) load(st *State) error {
	rows := uint64(0)
	for {
		chunk := &swarmv1.SnapshotChunk{}
		if err := c.message(chunk); err != nil {
			return err
		}
		for _, o := range chunk.GetObjects() {
			table, row := unwrap(o)
			if row == nil {
				return fmt.Errorf("an object of an unknown table: %w", ErrUnknownFormat)
			}
			if err := st.tables.byID[table].load(row); err != nil {
				return err
			}
			rows++
		}
		for _, s := range chunk.GetSessions() {
			st.requests.load(s)
		}
		if end := chunk.GetEnd(); end != nil {
			if end.GetObjects() != rows {
				return fmt.Errorf("the snapshot has %d rows, but its end says %d", rows, end.GetObjects())
			}
			return nil
		}
	}
}
