//go:build unix

// Package logfile writes the log of a daemon to a file of limited size. It is for daemons whose
// output no service manager collects.
//
// It uses the file NAME and one older file, NAME.1. If it cannot rename or open a file, it still
// writes to the current one, because a daemon must not fail because of its log. cmd/swarm calls it.
// It runs no goroutine.
package logfile

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Limit is the size in bytes at which a file is renamed to NAME.1.
const Limit = 10 << 20

// File is a log file. Each Write is one line.
type File struct {
	name  string
	limit int64
	// streams are descriptors that point to the current file. The log then also has the text that
	// the Go runtime prints when it panics.
	streams []int

	mu   sync.Mutex // guards f and size
	f    *os.File
	size int64
}

// Open opens a log file for appending, and makes the given descriptors of this process write to it
// too.
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
		_ = l.f.Close() // a close error loses no data: every Write has reached the kernel
	}
	l.f, l.size = f, info.Size()
	return nil
}

// Write implements io.Writer. It first renames a file that has reached the limit.
func (l *File) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(line)) > l.limit {
		if os.Rename(l.name, l.name+".1") != nil || l.open() != nil {
			l.size = 0 // write to the current file, and try again after another limit bytes
		}
	}
	n, err := l.f.Write(line)
	l.size += int64(n)
	return n, err
}

// Close closes the file. The descriptors of the streams stay open.
func (l *File) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}
