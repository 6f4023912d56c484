//go:build linux

package gossip

import (
	"context"
	"io"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// newLogger sends the lines of memberlist to l. What they call
// information is for their makers; warnings are a weather report of the network
// and follow each other fast, so that of alike lines one a minute is enough.
func newLogger(l *slog.Logger) *log.Logger {
	return log.New(&lineWriter{log: l, last: make(map[string]time.Time)}, "", 0)
}

type lineWriter struct {
	log *slog.Logger
	// mu guards last, the time of each kind of line.
	mu   sync.Mutex
	last map[string]time.Time
}

var _ io.Writer = (*lineWriter)(nil)

// Write gets one line: "[LEVEL] component: text".
func (w *lineWriter) Write(b []byte) (int, error) {
	level, text := parseLine(string(b))
	if level > slog.LevelDebug && !w.due(text) {
		level = slog.LevelDebug
	}
	w.log.Log(context.Background(), level, text)
	return len(b), nil
}

func parseLine(line string) (slog.Level, string) {
	line = strings.TrimSpace(line)
	tag, text, ok := strings.Cut(line, "] ")
	if !ok || !strings.HasPrefix(tag, "[") {
		return slog.LevelDebug, line
	}
	switch tag[1:] {
	case "ERR", "ERROR":
		return slog.LevelWarn, text
	case "WARN":
		return slog.LevelInfo, text
	}
	return slog.LevelDebug, text
}

// due goes by the line's first words, before names and addresses make it unique.
func (w *lineWriter) due(text string) bool {
	kind := text
	for i, r := range text {
		if r == '\'' || (r >= '0' && r <= '9') {
			kind = text[:i]
			break
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if at, ok := w.last[kind]; ok && now.Sub(at) < time.Minute {
		return false
	}
	if len(w.last) > 1000 {
		clear(w.last)
	}
	w.last[kind] = now
	return true
}
