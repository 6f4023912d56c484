package raftstore

import (
	"log/slog"
	"os"

	"swarm/internal/disk"
)

// roomAhead is what the log can grow by when nothing else can be written any more: some hundred thousand small entries,
// since space within the file is used again.
const reserveBytes = 16 << 20

// room keeps blocks for the log's file, so that a full disk does not stop the managers at once. One goroutine uses it.
type reservedSpace struct {
	path          string // "": the log is in memory
	log           *slog.Logger
	sizeAtReserve int64 // of the file when room was last made
	failed        bool  // the disk had none
}

// keep makes room when the file has grown into what it had, and again after the disk had none.
func (r *reservedSpace) extend() {
	if r.path == "" {
		return
	}
	st, err := os.Stat(r.path)
	if err != nil || st.Size() == r.sizeAtReserve && !r.failed {
		return
	}
	err = disk.Ahead(r.path, reserveBytes)
	if err != nil && !r.failed {
		r.log.Warn("no room is kept for the managers' log", "err", err)
	}
	r.sizeAtReserve, r.failed = st.Size(), err != nil
}
