package testbed

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"swarm/dev"
)

// JournalArgs returns the daemon arguments that a Journal needs.
func JournalArgs() []string { return []string{"--log-level", "debug", "--log-format", "json"} }

// Journal reads the log of a host's daemon.
type Journal struct {
	Path string // of the log file
	read int64  // bytes
}

// Entry is the part of a log line that benchmarks use.
type Entry struct {
	Time     time.Time
	Msg      string
	Task     string
	Ready    bool
	Overlays int
	// Took is the whole duration. Bridge is the part of it that a container without an overlay
	// network has too.
	Took, Bridge time.Duration
	// Services is how many services have changed.
	Services int
}

// OpenJournal returns the journal of a host from now on.
func OpenJournal(h dev.Host) (*Journal, error) {
	info, err := os.Stat(h.Log)
	if err != nil {
		return nil, err
	}
	return &Journal{h.Log, info.Size()}, nil
}

// Next returns the entries with a message that have come since the last call.
func (j *Journal) Next(msg string) ([]Entry, error) {
	f, err := os.Open(j.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, j.read, 1<<40))
	if err != nil {
		return nil, err
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1] // the last line may be half written
	j.read += int64(len(text))
	var out []Entry
	for line := range bytes.Lines(text) {
		var e Entry
		// The runtime writes to the same file in another format.
		if json.Unmarshal(line, &e) == nil && e.Msg == msg {
			out = append(out, e)
		}
	}
	return out, nil
}
