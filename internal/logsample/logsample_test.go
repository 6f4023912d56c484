package logsample_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"swarm/internal/logsample"
)

// lines runs do in a synctest bubble and returns the lines that it logs.
func lines(t *testing.T, do func(*logsample.Sampler)) (out []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		do(logsample.New(slog.New(slog.NewTextHandler(&b, nil))))
		for line := range strings.Lines(b.String()) {
			_, line, _ = strings.Cut(line, "level=")
			out = append(out, strings.TrimSpace(line))
		}
	})
	return out
}

func TestLog(t *testing.T) {
	got := lines(t, func(s *logsample.Sampler) {
		for range 1000 {
			s.Log(slog.LevelInfo, "a", "refused", "err", "first")
			s.Log(slog.LevelWarn, "b", "refused", "err", "second")
			s.Log(slog.LevelDebug, "c", "refused")
		}
		time.Sleep(logsample.Interval)
		s.Log(slog.LevelInfo, "a", "refused", "err", "third")
		time.Sleep(logsample.Interval)
		s.Log(slog.LevelInfo, "a", "refused", "err", "fourth")
	})
	want := []string{
		"INFO msg=refused err=first", "WARN msg=refused err=second",
		"INFO msg=refused err=third suppressed=999", "INFO msg=refused err=fourth",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestLogManyKeys checks that a caller with many keys gets at most one line for each remembered
// key, and that no line is missing from the counts.
func TestLogManyKeys(t *testing.T) {
	const events = 5000
	got := lines(t, func(s *logsample.Sampler) {
		for i := range events {
			s.Log(slog.LevelInfo, strconv.Itoa(i), "refused")
		}
		time.Sleep(logsample.Interval)
		s.Log(slog.LevelInfo, strconv.Itoa(events), "refused")
		for i := range events {
			s.Log(slog.LevelInfo, strconv.Itoa(i), "refused")
		}
	})
	if len(got) > 260 {
		t.Errorf("%d lines in two intervals", len(got))
	}
	suppressed := 0
	for _, line := range got {
		if _, n, ok := strings.Cut(line, "suppressed="); ok {
			more, err := strconv.Atoi(n)
			if err != nil {
				t.Error(line, err)
			}
			suppressed += more
		}
	}
	if suppressed < events-260 {
		t.Errorf("%d are said to be left out, want about %d", suppressed, events)
	}
}

func TestReason(t *testing.T) {
	reset := &net.OpError{
		Op: "read", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 43210},
		Err: os.NewSyscallError("read", syscall.ECONNRESET),
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("tls: oversized record"), "tls: oversized record"},
		{fmt.Errorf("handshake: %w", reset), "connection reset by peer"},
	} {
		if got := logsample.Reason(c.err); got != c.want {
			t.Errorf("Reason(%v) = %q, want %q", c.err, got, c.want)
		}
	}
}
