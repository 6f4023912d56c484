//go:build unix

// Package logfile is a log in a file of bounded size, for a daemon that no service manager collects the output of.
//
// It owns the file and one former one, NAME.1. It never refuses a line for want of space or of a file: a daemon must not
// stand still because nobody can read it. Called by cmd/swarm; no goroutines.
package logfile

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Limit is the size, in bytes, at which a file is set aside.
const Limit = 10 << 20

// File is a log. Each Write is a line of it.
type File struct {
	name  string
	limit int64
	// streams are descriptors that follow the file: what a runtime says when it panics belongs into the log too.
	streams []int

	mu   sync.Mutex // guards what follows
	f    *os.File
	size int64
}

// Open opens a log to append to, and makes the given descriptors of this process write to it as well.
func Open(name string, limit int64, streams ...int) (*File, error) {
	l := &File{name: name, limit: limit, streams: streams}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("log file: %w", err)
	}
	return l, nil
}

func (l *File) open() error {
	f, err := os.OpenFile(l.name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	for _, fd := range l.streams {
		if err == nil {
			err = unix.Dup2(int(f.Fd()), fd)
		}
	}
	if err != nil {
		_ = f.Close()
		return err
	}
	if l.f != nil {
		_ = l.f.Close() // All that was written is written.
	}
	l.f, l.size = f, info.Size()
	return nil
}

// Write implements io.Writer. A file that has reached the limit is set aside first.
func (l *File) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(line)) > l.limit {
		if os.Rename(l.name, l.name+".1") != nil || l.open() != nil {
			l.size = 0 // The line goes where it can; the next attempt is a whole file away.
		}
	}
	n, err := l.f.Write(line)
	l.size += int64(n)
	return n, err
}

// Close closes the file; the descriptors stay.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}
