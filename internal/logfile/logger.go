//go:build unix

package logfile

import (
	"fmt"
	"io"
	"log/slog"
	"os"
)

// Options configure the log of a daemon.
type Options struct {
	// Level is debug, info, warn or error.
	Level string
	// JSON selects JSON lines instead of text.
	JSON bool
	// File is the log file; if it is empty, the log goes to the standard error stream. The standard
	// output and error streams of this process follow the file.
	File string
}

// NewLogger returns the log of a daemon. Call close when the daemon ends.
func NewLogger(o Options) (log *slog.Logger, close func(), err error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.Level)); err != nil {
		return nil, nil, fmt.Errorf("log level %q: use debug, info, warn or error", o.Level)
	}
	var out io.Writer = os.Stderr
	close = func() {}
	if o.File != "" {
		f, err := Open(o.File, Limit, int(os.Stdout.Fd()), int(os.Stderr.Fd()))
		if err != nil {
			return nil, nil, err
		}
		out, close = f, func() { _ = f.Close() }
	}
	return slog.New(handler(out, level, o.JSON)), close, nil
}

func handler(out io.Writer, level slog.Level, json bool) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	if json {
		return slog.NewJSONHandler(out, options)
	}
	return slog.NewTextHandler(out, options)
}
