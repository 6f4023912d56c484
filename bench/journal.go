package main

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

// journaled are the arguments of daemons that write down when they did what.
func journaled() []string { return []string{"--log-level", "debug", "--log-format", "json"} }

// journal reads what a host's daemon writes down.
type journal struct {
	path string
	read int64 // bytes
}

// entry is one line of it, as far as it is looked at here.
type entry struct {
	Time     time.Time
	Msg      string
	Task     string
	Ready    bool
	Overlays int
	// Took all of it, of which Bridge the part that a container without an overlay network has too.
	Took, Bridge time.Duration
	// Services that changed.
	Services int
}

// newJournal begins with what is written from now on.
func newJournal(h dev.Host) (*journal, error) {
	info, err := os.Stat(h.Log)
	if err != nil {
		return nil, err
	}
	return &journal{h.Log, info.Size()}, nil
}

// next gives the entries of a kind that have come since the last call.
func (j *journal) next(msg string) ([]entry, error) {
	f, err := os.Open(j.path)
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
	text = text[:bytes.LastIndexByte(text, '\n')+1] // The last line may be half written.
	j.read += int64(len(text))
	var out []entry
	for line := range bytes.Lines(text) {
		var e entry
		// What is no such line is another's: the runtime writes to the same file.
		if json.Unmarshal(line, &e) == nil && e.Msg == msg {
			out = append(out, e)
		}
	}
	return out, nil
}
