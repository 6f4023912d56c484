package raftstore

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger brings Raft's messages to slog, one level lower than Raft gives them, except errors: an operator acts on
// what the store says of leadership, not on every vote.
func raftLogger(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Output: io.Discard, Level: hclog.Off})
	l.RegisterSink(logSink{log})
	return l
}

type logSink struct{ log *slog.Logger }

// expected are messages that Raft thinks odd and the store does not.
var expectedMessages = map[string]bool{
	"failed to get previous log": true, // an announcement overtook the entries it tells of
	// The store says once that a peer cannot be reached (watchPeers); Raft says it at every try.
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
