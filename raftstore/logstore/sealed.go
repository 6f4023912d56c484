package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"
)

// sealedSnapshots encrypts snapshot files. A file consists of encrypted records. Each has
// plainRecord bytes of the snapshot; the last one has fewer and may have none. Each record is bound
// to its number and to whether it is the last one, so records cannot be swapped, dropped or cut
// off. Raft sends snapshots to members with other keys, so it gets contents and sizes in plain
// form.
type sealedSnapshots struct {
	raft.SnapshotStore
	sealer Sealer
}

// plainRecord is the size in bytes of a record before its encryption.
const plainRecord = 256 << 10

func (s *sealedSnapshots) overhead() int64 { return int64(len(s.sealer.Seal(nil, sealedAAD(0, true)))) }

func sealedAAD(number uint64, last bool) []byte {
	aad := binary.BigEndian.AppendUint64([]byte("swarm snapshot"), number)
	if last {
		return append(aad, 1)
	}
	return append(aad, 0)
}

// plainSize returns the decrypted size of a file.
func (s *sealedSnapshots) plainSize(sealed int64) int64 {
	over := s.overhead()
	full := sealed / (plainRecord + over)
	return max(full*plainRecord+sealed-full*(plainRecord+over)-over, 0)
}

// List returns the snapshots with their decrypted sizes.
func (s *sealedSnapshots) List() ([]*raft.SnapshotMeta, error) {
	all, err := s.SnapshotStore.List()
	for i, m := range all {
		c := *m
		c.Size = s.plainSize(m.Size)
		all[i] = &c
	}
	return all, err
}

// Open returns a reader of the decrypted snapshot.
func (s *sealedSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	m, r, err := s.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	c := *m
	c.Size = s.plainSize(m.Size)
	return &c, &sealedReader{ReadCloser: r, sealer: s.sealer, record: make([]byte, plainRecord+s.overhead())}, nil
}

// Create returns a sink that encrypts what is written to it.
func (s *sealedSnapshots) Create(
	v raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, trans raft.Transport,
) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(v, index, term, conf, confIndex, trans)
	if err != nil {
		return nil, err
	}
	return &sealedSink{SnapshotSink: sink, sealer: s.sealer}, nil
}

type sealedSink struct {
	raft.SnapshotSink
	sealer Sealer
	buf    []byte
	number uint64
	closed bool
}

func (s *sealedSink) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), plainRecord-len(s.buf))
		s.buf = append(s.buf, p[:n]...)
		p = p[n:]
		if len(s.buf) == plainRecord {
			if err := s.flush(false); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

func (s *sealedSink) flush(last bool) error {
	_, err := s.SnapshotSink.Write(s.sealer.Seal(s.buf, sealedAAD(s.number, last)))
	s.buf = s.buf[:0]
	s.number++
	return err
}

func (s *sealedSink) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	if err := s.flush(true); err != nil {
		return errors.Join(err, s.Cancel())
	}
	return s.SnapshotSink.Close()
}

type sealedReader struct {
	io.ReadCloser
	sealer Sealer
	record []byte
	plain  []byte
	number uint64
	err    error
}

func (r *sealedReader) Read(p []byte) (int, error) {
	for len(r.plain) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.next()
	}
	n := copy(p, r.plain)
	r.plain = r.plain[n:]
	return n, nil
}

// next decrypts the next record. A record is the last one if it is shorter than the others.
func (r *sealedReader) next() {
	n, err := io.ReadFull(r.ReadCloser, r.record)
	last := errors.Is(err, io.ErrUnexpectedEOF)
	if errors.Is(err, io.EOF) {
		r.err = errdefs.ErrDataLoss.WithMessage("the snapshot is cut short")
		return
	}
	if err != nil && !last {
		r.err = err
		return
	}
	if r.plain, err = r.sealer.Open(r.record[:n], sealedAAD(r.number, last)); err != nil {
		r.err = fmt.Errorf("read snapshot: %w", err)
		return
	}
	r.number++
	if last {
		r.err = io.EOF
	}
}
