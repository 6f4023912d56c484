package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"
)

const (
	cacheBytes  = 16 << 20 // bytes of the newest entries kept decrypted in memory, for replication
	deleteBatch = 256      // entries deleted in one transaction; more would delay appends
	entryCost   = 64       // bytes that Trailing counts for an entry besides its data
)

// Store is a raft.LogStore and raft.StableStore. It encrypts entries on their way to disk, caches
// the newest entries for replication, and counts the bytes since the last snapshot. A Store is safe
// for concurrent use.
type Store struct {
	Disk
	path   string // of the log file; "" if the log is in memory
	sealer Sealer
	snaps  raft.SnapshotStore

	mu            sync.Mutex  // guards the fields down to sinceSnapshot; not held during I/O
	first         uint64      // index of the entry of sizes[0]
	sizes         []int64     // sizes of the entries in the log, the oldest first, without gaps
	recent        []*raft.Log // the cache: the newest entries, decrypted
	cached        int64       // bytes in recent
	sinceSnapshot int64       // bytes stored since the last snapshot

	grown    chan struct{}               // see Grown
	guard    func(from, to uint64) error // returns an error to refuse a removal; nil until Protect is called
	writeErr atomic.Pointer[error]       // the error of the last append; nil if it succeeded
}

// newStore reads the whole log once, to learn the size of each entry and to detect damage before
// the store uses the log.
func newStore(disk Disk, snaps raft.SnapshotStore, sealer Sealer, path string) (*Store, error) {
	if sealer == nil {
		sealer = checksums{}
	}
	s := &Store{Disk: disk, path: path, snaps: &recordedSnapshots{snaps, disk}, sealer: sealer, grown: make(chan struct{}, 1)}
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
			continue // a gap: Raft installed a snapshot, kept older entries, and received newer ones
		}
		if err != nil {
			return nil, s.readError(i, err)
		}
		s.record(&l)
	}
	return s, nil
}

// errNoSnapshot is the error of StoreLogs for entry 1 from another member.
var errNoSnapshot = errors.New("a new member refuses log entry 1: it must start from a snapshot")

// Protect adds two checks. Before each removal of entries, the store calls guard with the first and
// the last index, and removes nothing if guard returns an error. The store also refuses to store
// entry 1. Only the bootstrap of a cluster writes entry 1, before Protect is called; every other
// member must start from a snapshot. A member that replayed the log from entry 1 would pass through
// old configurations. If one of them has this member as the only voter, a missed heartbeat would
// make it the leader of a cluster that no longer exists.
func (s *Store) Protect(guard func(from, to uint64) error) { s.guard = guard }

// associatedData returns the index, term and type of an entry in the form to which the encryption
// binds the entry.
func (s *Store) associatedData(l *raft.Log) []byte {
	aad := binary.BigEndian.AppendUint64(make([]byte, 0, 17), l.Index)
	return append(binary.BigEndian.AppendUint64(aad, l.Term), byte(l.Type))
}

// readError returns the error of an entry that cannot be read. An entry whose key is missing is
// lost too.
func (s *Store) readError(index uint64, err error) error {
	if errdefs.IsNotFound(err) {
		return lost("read log entry %d of %s: %v", index, s.path, err)
	}
	return fmt.Errorf("read log entry %d of %s: %w", index, s.path, err)
}

func (s *Store) read(index uint64, l *raft.Log) error {
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

// GetLog reads an entry from memory or from disk. If the last entry of the newest snapshot is no
// longer in the log, GetLog returns its index and its term, without the data. Raft needs this term
// to accept the entry that follows. Without it, the member would refuse that entry, and the leader
// would send the snapshot again and again.
func (s *Store) GetLog(index uint64, l *raft.Log) error {
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

func (s *Store) cachedEntry(index uint64) *raft.Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.recent) == 0 || index < s.recent[0].Index || index > s.recent[len(s.recent)-1].Index {
		return nil
	}
	return s.recent[index-s.recent[0].Index]
}

// StoreLog stores one entry.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs seals and stores entries in one transaction. After Protect it refuses entry 1.
func (s *Store) StoreLogs(logs []*raft.Log) error {
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

func (s *Store) record(l *raft.Log) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recordLocked(l)
}

func (s *Store) recordLocked(l *raft.Log) {
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

// trimCacheLocked drops the oldest cached entries until the cache holds at most bytes, but keeps
// the newest entry.
func (s *Store) trimCacheLocked(bytes int64) {
	drop := 0
	for s.cached > bytes && drop < len(s.recent)-1 {
		s.cached -= int64(len(s.recent[drop].Data))
		s.recent[drop] = nil
		drop++
	}
	s.recent = s.recent[drop:]
}

// DropCache drops all cached entries except the newest.
func (s *Store) DropCache() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trimCacheLocked(0)
	s.recent = slices.Clone(s.recent)
}

// DeleteRange removes the entries in the closed range [from, to]. It removes the oldest entries in
// steps, so that appends can run in between, and the newest ones in one transaction.
func (s *Store) DeleteRange(from, to uint64) error {
	if s.guard != nil {
		if err := s.guard(from, to); err != nil {
			return err
		}
	}
	s.mu.Lock()
	end := s.first + uint64(len(s.sizes))
	oldest := from <= s.first // the removal begins with the oldest entry
	if len(s.recent) > 0 && to >= s.recent[0].Index {
		s.recent, s.cached = nil, 0
	}
	switch {
	case oldest && to+1 < end:
		s.sizes = append([]int64(nil), s.sizes[to+1-s.first:]...)
		s.first = to + 1
	case oldest:
		s.sizes = nil
	case from < end:
		s.sizes = s.sizes[:from-s.first]
	}
	s.mu.Unlock()
	if !oldest { // in one transaction, so that a crash leaves no gap
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

// Snapshots returns the store of the snapshots in the same folder. It encrypts and decrypts them.
func (s *Store) Snapshots() raft.SnapshotStore { return s.snaps }

// Grown returns a channel that receives after entries were stored. Only one goroutine may wait on
// it.
func (s *Store) Grown() <-chan struct{} { return s.grown }

// WriteErr returns the error of the last append, or nil if it succeeded.
func (s *Store) WriteErr() error {
	if err := s.writeErr.Load(); err != nil {
		return *err
	}
	return nil
}

// BytesSinceSnapshot returns how many bytes of entries were stored since the last snapshot.
func (s *Store) BytesSinceSnapshot() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sinceSnapshot
}

// SnapshotTaken reduces the count of BytesSinceSnapshot by before, which is the count at the start
// of the snapshot. Entries that were stored during the snapshot stay counted.
func (s *Store) SnapshotTaken(before int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sinceSnapshot -= before
}

// Trailing returns how many of the newest entries fit into the given number of bytes.
func (s *Store) Trailing(bytes int64) (entries uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.sizes) - 1; i >= 0; i-- {
		if bytes -= s.sizes[i] + entryCost; bytes < 0 {
			break
		}
		entries++
	}
	return entries
}
