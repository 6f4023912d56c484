package raftstore

import (
	"log/slog"
	"os"

	"swarm/internal/disk"
)

// roomAhead is what the log can grow by when nothing else can be written any more: some hundred thousand small entries,
// since space within the file is used again.
const roomAhead = 16 << 20

// room keeps blocks for the log's file, so that a full disk does not stop the managers at once. One goroutine uses it.
type room struct {
	path string // "": the log is in memory
	log  *slog.Logger
	size int64 // of the file when room was last made
	lack bool  // the disk had none
}

// keep makes room when the file has grown into what it had, and again after the disk had none.
func (r *room) keep() {
	if r.path == "" {
		return
	}
	st, err := os.Stat(r.path)
	if err != nil || st.Size() == r.size && !r.lack {
		return
	}
	err = disk.Ahead(r.path, roomAhead)
	if err != nil && !r.lack {
		r.log.Warn("no room is kept for the managers' log", "err", err)
	}
	r.size, r.lack = st.Size(), err != nil
}
