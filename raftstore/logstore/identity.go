package logstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"swarm/internal/ident"
)

// Keys of the values that the store keeps beside those of Raft.
var (
	idKey       = []byte("LogID")
	snapshotKey = []byte("NewestSnapshot") // the index of the newest snapshot that was completed
)

// ID returns the id of the log. A log without an id gets one, which is on the disk when ID returns.
func (s *Store) ID() (string, error) {
	id, err := s.Disk.Get(idKey)
	if len(id) > 0 {
		return string(id), nil
	}
	if err != nil && err.Error() != raftKeyNotFound {
		return "", err
	}
	made := ident.NewID()
	return made, s.Disk.Set(idKey, []byte(made))
}

// raftKeyNotFound is the text by which Raft recognises the error for a key without a value.
const raftKeyNotFound = "not found"

func lost(format string, args ...any) error {
	return errdefs.ErrDataLoss.WithMessage(fmt.Sprintf(format, args...))
}

// checkFile returns ErrDataLoss if the log file is missing, empty, cut off or not a log. It changes
// nothing, so that an operator can put the right file back.
func checkFile(path string) error {
	file, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return lost("the Raft log %s is missing", path)
	case err != nil:
		return err
	case file.Size() == 0:
		return lost("the Raft log %s is empty", path)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return boltError(path, err)
	}
	var want int64
	err = db.View(func(tx *bbolt.Tx) error {
		want = tx.Size()
		return nil
	})
	if err == nil && file.Size() < want {
		err = lost("the Raft log %s is cut off: it has %d bytes, and %d are in use", path, file.Size(), want)
	}
	return errors.Join(err, db.Close())
}

// checkID returns ErrDataLoss if the log does not have the id.
func (s *Store) checkID(want string) error {
	id, err := s.Disk.Get(idKey)
	if err != nil && err.Error() != raftKeyNotFound {
		return err
	}
	if string(id) != want {
		return lost("the Raft log %s is not the one that this manager used last: it has the id %q and not %q", s.path, id, want)
	}
	return nil
}

// checkComplete returns ErrDataLoss if entries are missing that this member had, because snapshots
// are missing or damaged. Raft would start without them, or panic.
func (s *Store) checkComplete() error {
	had, err := s.Disk.GetUint64(snapshotKey)
	if err != nil && err.Error() != raftKeyNotFound {
		return err
	}
	metas, err := s.snaps.List()
	if err != nil {
		return err
	}
	var newest uint64
	for _, m := range metas { // The newest is first. Open compares the file with its checksum.
		if _, r, err := s.snaps.Open(m.ID); err == nil {
			_ = r.Close()
			newest = m.Index
			break
		}
	}
	folder := filepath.Join(filepath.Dir(s.path), "snapshots")
	if len(s.sizes) > 0 && s.first > newest+1 {
		return lost("the snapshots in %s are missing or damaged: entries %d to %d are neither there nor in the Raft log", folder, newest+1, s.first-1)
	}
	if end := s.first + uint64(len(s.sizes)); newest < had && end <= had {
		return lost("the snapshots in %s are missing or damaged: entries %d to %d are neither there nor in the Raft log", folder, newest+1, had)
	}
	return nil
}

// recordedSnapshots stores in the log the index of each snapshot that is completed, before Raft
// removes the entries that the snapshot covers.
type recordedSnapshots struct {
	raft.SnapshotStore
	disk Disk
}

// Create returns a sink whose Close records the index.
func (s *recordedSnapshots) Create(
	v raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, trans raft.Transport,
) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(v, index, term, conf, confIndex, trans)
	if err != nil {
		return nil, err
	}
	return &recordedSink{SnapshotSink: sink, disk: s.disk, index: index}, nil
}

type recordedSink struct {
	raft.SnapshotSink
	disk  Disk
	index uint64
	ended bool // by Close or Cancel; Raft calls Close again after a Close, and does nothing then
}

func (s *recordedSink) Cancel() error {
	s.ended = true
	return s.SnapshotSink.Cancel()
}

func (s *recordedSink) Close() error {
	if err := s.SnapshotSink.Close(); err != nil || s.ended {
		return err
	}
	s.ended = true
	return s.disk.SetUint64(snapshotKey, s.index)
}
