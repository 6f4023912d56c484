package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

const (
	cacheBytes  = 16 << 20 // of the newest entries, in the clear, for replication
	deleteBatch = 256      // entries in one transaction: a longer one would hold up appends
)

// logStore seals what goes to disk, keeps the newest entries at hand for replication, and counts bytes.
type logStore struct {
	Disk
	sealer Sealer
	snaps  raft.SnapshotStore

	mu            sync.Mutex // guards the rest; not held across I/O
	first         uint64     // index of sizes[0]
	sizes         []int64    // of every entry on disk
	recent        []*raft.Log
	cached        int64 // bytes of recent, which are the last entries
	sinceSnapshot int64 // bytes stored since the last snapshot
	grown         chan struct{}

	guard    func(from, to uint64) error // refuses a removal of entries; nil until follow was called
	writeErr atomic.Pointer[error]       // why the last entries could not be stored; nil when they were
}

// newLogStore reads the whole log once: to know its sizes, and to notice damage before anything is built upon it.
func newLogStore(disk Disk, snaps raft.SnapshotStore, sealer Sealer) (*logStore, error) {
	if sealer == nil {
		sealer = checksums{}
	}
	s := &logStore{Disk: disk, snaps: snaps, sealer: sealer, grown: make(chan struct{}, 1)}
	first, err := disk.FirstIndex()
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	last, err := disk.LastIndex()
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	for i := first; first > 0 && i <= last; i++ {
		var l raft.Log
		err := s.read(i, &l)
		if errors.Is(err, raft.ErrLogNotFound) {
			continue // a snapshot was installed, and Raft kept entries from before it
		}
		if err != nil {
			return nil, fmt.Errorf("read log entry %d: %w", i, err)
		}
		s.record(&l)
	}
	return s, nil
}

// errNoSnapshot refuses the first entry of another member's log.
var errNoSnapshot = errors.New("a new member takes no log from its beginning: it waits for a snapshot")

// follow makes the store refuse entry 1 from now on, and every removal of entries that guard refuses.
// Only bootstrapping writes entry 1; every other member must begin with a snapshot. A member that replayed
// the log from its beginning would take up the configurations of the past on its way. If one of them has
// this member as the only voter, a missed heartbeat would make it the leader of a cluster which no longer
// exists.
func (s *logStore) protect(guard func(from, to uint64) error) { s.guard = guard }

// bind is what a sealed entry cannot be moved away from.
func (s *logStore) associatedData(l *raft.Log) []byte {
	aad := binary.BigEndian.AppendUint64(make([]byte, 0, 17), l.Index)
	return append(binary.BigEndian.AppendUint64(aad, l.Term), byte(l.Type))
}

func (s *logStore) read(index uint64, l *raft.Log) error {
	if err := s.Disk.GetLog(index, l); err != nil {
		return err
	}
	plain, err := s.sealer.Open(l.Data, s.associatedData(l))
	if err != nil {
		return err
	}
	l.Data = plain
	return nil
}

// GetLog finds an entry in memory, else on disk. The last entry in the newest snapshot has its index and
// term, but no content, if the log begins after it. Raft only asks for its term: a member that could not
// tell it would refuse the entry after it when the leader sends that one again, and the leader would send
// the snapshot again, without pause and for ever.
func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	if c := s.cachedEntry(index); c != nil {
		*l = *c
		return nil
	}
	err := s.read(index, l)
	if !errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	metas, listErr := s.snaps.List()
	if listErr != nil {
		return listErr
	}
	if len(metas) == 0 || metas[0].Index != index {
		return err
	}
	*l = raft.Log{Index: index, Term: metas[0].Term, Type: raft.LogNoop}
	return nil
}

func (s *logStore) cachedEntry(index uint64) *raft.Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.recent) == 0 || index < s.recent[0].Index || index > s.recent[len(s.recent)-1].Index {
		return nil
	}
	return s.recent[index-s.recent[0].Index]
}

// StoreLog stores one entry.
func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs seals and stores entries in one transaction.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if s.guard != nil && len(logs) > 0 && logs[0].Index == 1 {
		return errNoSnapshot
	}
	sealed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		c := *l
		c.Data = s.sealer.Seal(l.Data, s.associatedData(l))
		sealed[i] = &c
	}
	if err := s.Disk.StoreLogs(sealed); err != nil {
		s.writeErr.Store(&err)
		return fmt.Errorf("append to the log: %w", err)
	}
	s.writeErr.Store(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range logs {
		s.recordLocked(l)
	}
	select {
	case s.grown <- struct{}{}:
	default:
	}
	return nil
}

func (s *logStore) record(l *raft.Log) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recordLocked(l)
}

func (s *logStore) recordLocked(l *raft.Log) {
	if len(s.sizes) == 0 || l.Index != s.first+uint64(len(s.sizes)) {
		s.first, s.sizes = l.Index, s.sizes[:0]
	}
	if n := len(s.recent); n > 0 && l.Index != s.recent[n-1].Index+1 {
		s.recent, s.cached = nil, 0
	}
	size := int64(len(l.Data))
	s.sizes = append(s.sizes, size)
	s.sinceSnapshot += size
	s.recent = append(s.recent, l)
	s.cached += size
	s.trimCacheLocked(cacheBytes)
}

// uncacheLocked drops the oldest entries from memory until the others take at most so many bytes.
func (s *logStore) trimCacheLocked(bytes int64) {
	drop := 0
	for s.cached > bytes && drop < len(s.recent)-1 {
		s.cached -= int64(len(s.recent[drop].Data))
		s.recent[drop] = nil
		drop++
	}
	s.recent = s.recent[drop:]
}

// uncache drops what is in memory but for the newest entry.
func (s *logStore) dropCache() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trimCacheLocked(0)
	s.recent = slices.Clone(s.recent)
}

// DeleteRange removes entries, from the old end in steps, so that appends come in between.
func (s *logStore) DeleteRange(from, to uint64) error {
	if s.guard != nil {
		if err := s.guard(from, to); err != nil {
			return err
		}
	}
	s.mu.Lock()
	end := s.first + uint64(len(s.sizes))
	oldEnd := from <= s.first
	if len(s.recent) > 0 && to >= s.recent[0].Index {
		s.recent, s.cached = nil, 0
	}
	switch {
	case oldEnd && to+1 < end:
		s.sizes = append([]int64(nil), s.sizes[to+1-s.first:]...)
		s.first = to + 1
	case oldEnd:
		s.sizes = nil
	case from < end:
		s.sizes = s.sizes[:from-s.first]
	}
	s.mu.Unlock()
	if !oldEnd { // a conflicting tail goes at once: a crash must leave no hole
		return s.Disk.DeleteRange(from, to)
	}
	for from <= to {
		step := min(to, from+deleteBatch-1)
		if err := s.Disk.DeleteRange(from, step); err != nil {
			return fmt.Errorf("truncate the log: %w", err)
		}
		from = step + 1
	}
	return nil
}

// size is how many bytes of entries came since the last snapshot.
func (s *logStore) bytesSinceSnapshot() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sinceSnapshot
}

// snapshotTaken starts counting anew, but for what came while it was being taken.
func (s *logStore) snapshotTaken(before int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sinceSnapshot -= before
}

// trailing says how many of the newest entries fit into the bytes that may stay behind a snapshot.
func (s *logStore) trailing(trailing int64) (entries uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.sizes) - 1; i >= 0; i-- {
		if trailing -= s.sizes[i] + 64; trailing < 0 {
			break
		}
		entries++
	}
	return entries
}
