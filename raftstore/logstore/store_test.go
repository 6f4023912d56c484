package logstore

import (
	"bytes"
	"testing"

	"github.com/hashicorp/raft"
)

// Entries that were dropped from memory must be read from disk.
func TestStore_UncachedEntriesStay(t *testing.T) {
	s, err := newStore(memory{raft.NewInmemStore()}, raft.NewInmemSnapshotStore(), nil, "")
	if err != nil {
		t.Fatal(err)
	}
	const n, size = 100, 100_000
	for i := uint64(1); i <= n; i++ {
		if err := s.StoreLog(&raft.Log{Index: i, Term: 1, Data: bytes.Repeat([]byte{byte(i)}, size)}); err != nil {
			t.Fatal(err)
		}
	}
	s.DropCache()
	if s.cached != size || len(s.recent) != 1 || s.cachedEntry(n) == nil {
		t.Errorf("%d entries with %d bytes are in memory, want the newest", len(s.recent), s.cached)
	}
	for i := uint64(1); i <= n; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil || l.Index != i || len(l.Data) != size || l.Data[0] != byte(i) {
			t.Errorf("entry %d: got %d with %d bytes, %v", i, l.Index, len(l.Data), err)
		}
	}
}
