// Package logsample limits the number of log lines that a stranger, a worker or a container can
// cause. Of the lines with the same key, it writes only the first one in each interval, together
// with the number of lines that it has left out since the last one. It runs no goroutine.
package logsample

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// Interval is the shortest time between two lines with the same key.
	Interval = time.Minute
	// maxKeys limits the remembered keys, and so the lines of one interval. A caller with more
	// different keys shares restKey.
	maxKeys = 128
	// restKey stands for all keys that are not remembered.
	restKey = ""
)

// Sampler limits the log lines of one part of the program. It is safe for concurrent use.
type Sampler struct {
	log *slog.Logger

	mu   sync.Mutex // guards keys; not held while a line is written
	keys map[string]*window
}

// window is the state of a key.
type window struct {
	opened     time.Time // the time of the last written line
	suppressed int       // lines left out since then
}

// New returns a Sampler that writes to log.
func New(log *slog.Logger) *Sampler {
	return &Sampler{log: log, keys: map[string]*window{}}
}

// Log writes a line unless a line with the same key was written less than Interval ago. The key is
// the kind of event and its origin, such as a reason and an address. A caller on the network must
// not be able to choose the whole key, because it could then cause a line for each of its keys. The
// attribute "suppressed" of a line is the number of lines that were left out before it.
func (s *Sampler) Log(level slog.Level, key, msg string, args ...any) {
	if !s.log.Enabled(context.Background(), level) {
		return
	}
	suppressed, due := s.count(key, time.Now())
	if !due {
		return
	}
	if suppressed > 0 {
		args = append(args[:len(args):len(args)], "suppressed", suppressed)
	}
	s.log.Log(context.Background(), level, msg, args...)
}

// count counts an event and reports whether its line is due.
func (s *Sampler) count(key string, now time.Time) (suppressed int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.keys[key]
	if w == nil {
		if len(s.keys) >= maxKeys {
			s.expire(now)
		}
		if len(s.keys) >= maxKeys {
			key = restKey
			w = s.keys[key]
		}
	}
	switch {
	case w == nil:
		s.keys[key] = &window{opened: now}
		return 0, true
	case now.Sub(w.opened) < Interval:
		w.suppressed++
		return 0, false
	default:
		suppressed = w.suppressed
		*w = window{opened: now}
		return suppressed, true
	}
}

// expire forgets the keys whose interval is over. It adds their left-out lines to restKey.
func (s *Sampler) expire(now time.Time) {
	lost := 0
	for key, w := range s.keys {
		if key != restKey && now.Sub(w.opened) >= Interval {
			lost += w.suppressed
			delete(s.keys, key)
		}
	}
	if lost == 0 {
		return
	}
	if s.keys[restKey] == nil {
		s.keys[restKey] = &window{}
	}
	s.keys[restKey].suppressed += lost
}

// Reason returns the text of an error without the addresses of the connection. These differ from
// one attempt to the next, so a key with them would never repeat.
func Reason(err error) string {
	var netErr *net.OpError
	if errors.As(err, &netErr) && netErr.Err != nil {
		err = netErr.Err
	}
	var callErr *os.SyscallError
	if errors.As(err, &callErr) {
		err = callErr.Err
	}
	return err.Error()
}
