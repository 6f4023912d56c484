package gossip

import (
	"log/slog"
	"testing"
)

func TestParseLine(t *testing.T) {
	for _, test := range []struct {
		line string
		want slog.Level
	}{
		{"[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=10.0.0.2:7946", slog.LevelWarn},
		{"[ERR] memberlist: Decrypt packet failed: unsupported encryption version 8 from=10.0.0.2:40588", slog.LevelDebug}, // a joiner's probe
		{"[WARN] memberlist: Refuting a suspect message", slog.LevelInfo},
		{"[DEBUG] memberlist: Stream connection", slog.LevelDebug},
		{"no tag", slog.LevelDebug},
	} {
		if got, text := parseLine(test.line); got != test.want || text == "" {
			t.Errorf("%s: %v %q, want %v", test.line, got, text, test.want)
		}
	}
}
