//go:build unix

package logfile

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestNewLogger(t *testing.T) {
	if _, _, err := NewLogger(Options{Level: "loud"}); err == nil || !strings.Contains(err.Error(), `log level "loud": use debug, info, warn or error`) {
		t.Errorf("got %v", err)
	}
	for _, level := range []string{"debug", "info", "warn", "error"} {
		log, closeLog, err := NewLogger(Options{Level: level})
		if err != nil {
			t.Fatal(err)
		}
		if log.Enabled(t.Context(), slog.LevelDebug) != (level == "debug") || !log.Enabled(t.Context(), slog.LevelError) {
			t.Errorf("%s: the log has another level", level)
		}
		closeLog()
	}
}

func TestHandler_Formats(t *testing.T) {
	for json, want := range map[bool]string{true: `"msg":"hello"`, false: "msg=hello"} {
		var out bytes.Buffer
		slog.New(handler(&out, slog.LevelInfo, json)).Info("hello")
		if !strings.Contains(out.String(), want) {
			t.Errorf("json=%t: got %s, want %s", json, out.String(), want)
		}
	}
}
