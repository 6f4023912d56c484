package logstore

import (
	"log/slog"
	"os"

	"swarm/internal/disk"
)

// reserveBytes is the size by which the log file can grow after the disk is full. Space inside the
// file is reused, so this is enough for some hundred thousand small entries.
const reserveBytes = 16 << 20

// ReservedSpace allocates disk blocks beyond the end of the log file, so that the managers can
// write to the log for some time after the disk is full. Only one goroutine may use it.
type ReservedSpace struct {
	path          string // "" if the log is in memory
	log           *slog.Logger
	sizeAtReserve int64 // file size at the last reservation
	failed        bool  // the last reservation failed
}

// ReservedSpace returns the reservation of the store's log file. It reserves nothing if the log is
// in memory. Failures are logged to log.
func (s *Store) ReservedSpace(log *slog.Logger) *ReservedSpace {
	return &ReservedSpace{path: s.path, log: log}
}

// Extend reserves space again after the file has grown, or if the last reservation failed.
func (r *ReservedSpace) Extend() {
	if r.path == "" {
		return
	}
	st, err := os.Stat(r.path)
	if err != nil || st.Size() == r.sizeAtReserve && !r.failed {
		return
	}
	err = disk.ReserveBeyondEnd(r.path, reserveBytes)
	if err != nil && !r.failed {
		r.log.Warn("cannot reserve disk space for the Raft log; free space on the disk", "err", err)
	}
	r.sizeAtReserve, r.failed = st.Size(), err != nil
}
