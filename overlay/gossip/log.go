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

// newLogger returns a logger for memberlist that writes to l. It lowers the level of each line:
// errors become warnings, warnings become information, and information becomes debug lines.
// memberlist's information is for its developers, and its warnings describe the network. Of similar
// lines, only one in each minute keeps this level; the others become debug lines.
func newLogger(l *slog.Logger) *log.Logger {
	return log.New(&lineWriter{log: l, last: make(map[string]time.Time)}, "", 0)
}

// lineWriter writes the lines of memberlist to a slog.Logger.
type lineWriter struct {
	log *slog.Logger

	mu   sync.Mutex           // guards last
	last map[string]time.Time // when a line of each kind was last logged at its level
}

var _ io.Writer = (*lineWriter)(nil)

// Write logs one line of the form "[LEVEL] component: text".
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

// due reports whether a line may keep its level. The kind of a line is its text before the first
// quote or digit, where names and addresses begin.
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
