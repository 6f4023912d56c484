package raftstore

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger forwards Raft's messages to slog: warnings at Info, errors at Error, and all others at
// Debug. Operators act on the store's own messages about leadership, not on every vote.
func raftLogger(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Output: io.Discard, Level: hclog.Off})
	l.RegisterSink(logSink{log})
	return l
}

type logSink struct{ log *slog.Logger }

// expectedMessages are warnings and errors of Raft that are normal here. They are logged at Debug.
var expectedMessages = map[string]bool{
	"failed to get previous log": true, // an announcement overtook its entry
	// watchPeers logs once that a peer cannot be reached. Raft logs every attempt.
	"failed to heartbeat to":            true,
	"failed to appendEntries to":        true,
	"failed to pipeline appendEntries":  true,
	"failed to make requestVote RPC":    true,
	"failed to contact":                 true,
	"failed to accept connection":       true,
	"failed to decode incoming command": true,
}

func (s logSink) Accept(name string, level hclog.Level, msg string, args ...any) {
	at := slog.LevelDebug
	switch {
	case expectedMessages[msg]:
	case level == hclog.Warn:
		at = slog.LevelInfo
	case level >= hclog.Error:
		at = slog.LevelError
	}
	if s.log.Enabled(context.Background(), at) {
		s.log.Log(context.Background(), at, name+": "+msg, args...)
	}
}
