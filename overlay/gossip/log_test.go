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
		{"[ERR] memberlist: Failed to send UDP ping: no route to host", slog.LevelWarn},
		{"[WARN] memberlist: Refuting a suspect message", slog.LevelInfo},
		{"[DEBUG] memberlist: Stream connection", slog.LevelDebug},
		{"no tag", slog.LevelDebug},
	} {
		if got, text := parseLine(test.line); got != test.want || text == "" {
			t.Errorf("%s: %v %q, want %v", test.line, got, text, test.want)
		}
	}
}
